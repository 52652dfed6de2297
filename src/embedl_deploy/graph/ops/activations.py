"""Activations and dropouts, all of them modules in the canonical graph."""

import torch
import torch.nn.functional as F
from torch import nn

from embedl_deploy.graph import layer_makers, makers
from embedl_deploy.graph.rows import ModuleRow

ACTIVATIONS = (
    ModuleRow(
        "relu",
        "input, inplace=False",
        (F.relu, torch.relu, "relu"),
        inplace=(F.relu_, torch.relu_, "relu_"),
        make=makers.plain(nn.ReLU),
    ),
    ModuleRow("relu6", "input, inplace=False", (F.relu6,), make=makers.plain(nn.ReLU6)),
    ModuleRow(
        "leaky_relu",
        "input, negative_slope=0.01, inplace=False",
        (F.leaky_relu,),
        inplace=(F.leaky_relu_,),
        make=makers.simple(lambda a: nn.LeakyReLU(a.negative_slope)),
    ),
    ModuleRow("prelu", "input, weight", (torch.prelu, "prelu"), make=layer_makers.prelu),
    ModuleRow(
        "rrelu",
        "input, lower=0.125, upper=0.3333333333333333, training=False, inplace=False",
        (F.rrelu,),
        make=makers.following(lambda a: nn.RReLU(a.lower, a.upper)),
    ),
    ModuleRow(
        "elu",
        "input, alpha=1.0, inplace=False",
        (F.elu,),
        inplace=(F.elu_,),
        make=makers.simple(lambda a: nn.ELU(a.alpha)),
    ),
    ModuleRow(
        "selu",
        "input, inplace=False",
        (F.selu, torch.selu),
        inplace=(torch.selu_,),
        make=makers.plain(nn.SELU),
    ),
    ModuleRow(
        "celu",
        "input, alpha=1.0, inplace=False",
        (F.celu, torch.celu),
        inplace=(torch.celu_,),
        make=makers.simple(lambda a: nn.CELU(a.alpha)),
    ),
    ModuleRow(
        "gelu",
        "input, approximate='none'",
        (F.gelu,),
        make=makers.simple(lambda a: nn.GELU(a.approximate)),
    ),
    ModuleRow("silu", "input, inplace=False", (F.silu,), make=makers.plain(nn.SiLU)),
    ModuleRow("mish", "input, inplace=False", (F.mish,), make=makers.plain(nn.Mish)),
    ModuleRow("hardswish", "input, inplace=False", (F.hardswish,), make=makers.plain(nn.Hardswish)),
    ModuleRow(
        "hardsigmoid", "input, inplace=False", (F.hardsigmoid,), make=makers.plain(nn.Hardsigmoid)
    ),
    ModuleRow(
        "hardtanh",
        "input, min_val=-1.0, max_val=1.0, inplace=False",
        (F.hardtanh,),
        inplace=(F.hardtanh_,),
        make=makers.simple(makers.hardtanh),
    ),
    ModuleRow(
        "sigmoid",
        "input",
        (torch.sigmoid, F.sigmoid, "sigmoid"),
        inplace=(torch.sigmoid_, "sigmoid_"),
        make=makers.plain(nn.Sigmoid),
    ),
    ModuleRow("logsigmoid", "input", (F.logsigmoid,), make=makers.plain(nn.LogSigmoid)),
    ModuleRow(
        "tanh",
        "input",
        (torch.tanh, F.tanh, "tanh"),
        inplace=(torch.tanh_, "tanh_"),
        make=makers.plain(nn.Tanh),
    ),
    ModuleRow("tanhshrink", "input", (F.tanhshrink,), make=makers.plain(nn.Tanhshrink)),
    ModuleRow(
        "hardshrink",
        "input, lambd=0.5",
        (torch.hardshrink, "hardshrink"),
        make=makers.simple(lambda a: nn.Hardshrink(a.lambd)),
    ),
    ModuleRow(
        "softshrink",
        "input, lambd=0.5",
        (F.softshrink,),
        make=makers.simple(lambda a: nn.Softshrink(a.lambd)),
    ),
    ModuleRow(
        "softplus",
        "input, beta=1.0, threshold=20.0",
        (F.softplus,),
        make=makers.simple(lambda a: nn.Softplus(a.beta, a.threshold)),
    ),
    ModuleRow("softsign", "input", (F.softsign,), make=makers.plain(nn.Softsign)),
    ModuleRow(
        "threshold",
        "input, threshold, value, inplace=False",
        (F.threshold, torch.threshold),
        inplace=(torch.threshold_,),
        make=makers.simple(lambda a: nn.Threshold(a.threshold, a.value)),
    ),
    ModuleRow("glu", "input, dim=-1", (F.glu,), make=makers.simple(lambda a: nn.GLU(a.dim))),
    *(
        ModuleRow(name, arguments, spellings, make=makers.along(kind))
        for name, kind, function, methods in (
            ("softmax", nn.Softmax, F.softmax, (torch.softmax, "softmax")),
            ("log_softmax", nn.LogSoftmax, F.log_softmax, (torch.log_softmax, "log_softmax")),
            ("softmin", nn.Softmin, F.softmin, ()),
        )
        for arguments, spellings in (
            ("input, dim=None, _stacklevel=3, dtype=None", (function,)),
            ("input, dim, dtype=None", methods),
        )
        if spellings
    ),
)

DROPOUTS = tuple(
    ModuleRow("dropout", "input, p=0.5, training=True, inplace=False", (spelling,), make=make)
    for spelling, make in (
        (F.dropout, makers.dropout(nn.Dropout)),
        (F.dropout1d, makers.dropout(nn.Dropout1d)),
        (F.dropout2d, makers.dropout(nn.Dropout2d)),
        (F.dropout3d, makers.dropout(nn.Dropout3d)),
        (F.alpha_dropout, makers.dropout(nn.AlphaDropout)),
        (F.feature_alpha_dropout, makers.dropout(nn.FeatureAlphaDropout)),
    )
)
