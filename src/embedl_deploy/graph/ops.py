"""The operations table: every operation the canonical graph normalises, with its spellings.

To teach the library a spelling, add it to its row; to teach it an operation, add a row.
"""

import operator
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from embedl_deploy.graph import makers
from embedl_deploy.graph.rows import FunctionRow, ModuleRow, Spelling, Table

_ACTIVATIONS = (
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
    ModuleRow(
        "elu",
        "input, alpha=1.0, inplace=False",
        (F.elu,),
        inplace=(F.elu_,),
        make=makers.simple(lambda a: nn.ELU(a.alpha)),
    ),
    ModuleRow(
        "gelu",
        "input, approximate='none'",
        (F.gelu,),
        make=makers.simple(lambda a: nn.GELU(a.approximate)),
    ),
    ModuleRow("silu", "input, inplace=False", (F.silu,), make=makers.plain(nn.SiLU)),
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
    ModuleRow(
        "tanh",
        "input",
        (torch.tanh, F.tanh, "tanh"),
        inplace=(torch.tanh_, "tanh_"),
        make=makers.plain(nn.Tanh),
    ),
    ModuleRow(
        "softmax",
        "input, dim=None, _stacklevel=3, dtype=None",
        (F.softmax,),
        make=makers.softmax,
    ),
    ModuleRow("softmax", "input, dim, dtype=None", (torch.softmax, "softmax"), make=makers.softmax),
)

_DROPOUTS = tuple(
    ModuleRow("dropout", "input, p=0.5, training=True, inplace=False", (spelling,), make=make)
    for spelling, make in (
        (F.dropout, makers.dropout(nn.Dropout)),
        (F.dropout1d, makers.dropout(nn.Dropout1d)),
        (F.dropout2d, makers.dropout(nn.Dropout2d)),
        (F.dropout3d, makers.dropout(nn.Dropout3d)),
        (F.alpha_dropout, makers.dropout(nn.AlphaDropout)),
    )
)

_LAYERS = (
    ModuleRow(
        "conv2d",
        "input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1",
        (F.conv2d, torch.conv2d),
        make=makers.conv(nn.Conv2d),
    ),
    ModuleRow(
        "batch_norm",
        "input, running_mean, running_var, weight=None, bias=None, training=False, momentum=0.1, "
        "eps=1e-05",
        (F.batch_norm,),
        make=makers.batch_norm,
    ),
    ModuleRow("linear", "input, weight, bias=None", (F.linear,), make=makers.linear),
    ModuleRow(
        "layer_norm",
        "input, normalized_shape, weight=None, bias=None, eps=1e-05, cudnn_enable=True",
        (F.layer_norm, torch.layer_norm),
        make=makers.layer_norm,
    ),
    ModuleRow(
        "attention",
        "query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, "
        "enable_gqa=False",
        (F.scaled_dot_product_attention,),
        make=makers.attention,
        inputs=4,
    ),
    ModuleRow(
        "adaptive_avg_pool2d",
        "input, output_size",
        (F.adaptive_avg_pool2d,),
        make=makers.simple(lambda a: nn.AdaptiveAvgPool2d(a.output_size)),
    ),
    ModuleRow(
        "max_pool2d",
        "input, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, "
        "return_indices=False",
        (F.max_pool2d, torch.max_pool2d),
        make=makers.simple(
            lambda a: nn.MaxPool2d(
                a.kernel_size, a.stride, a.padding, a.dilation, a.return_indices, a.ceil_mode
            )
        ),
    ),
    ModuleRow(
        "avg_pool2d",
        "input, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True, "
        "divisor_override=None",
        (F.avg_pool2d,),
        make=makers.simple(
            lambda a: nn.AvgPool2d(
                a.kernel_size,
                a.stride,
                a.padding,
                a.ceil_mode,
                a.count_include_pad,
                a.divisor_override,
            )
        ),
    ),
)


def _varargs(a: SimpleNamespace) -> tuple[Any, ...] | None:
    """`x.permute(0, 2, 1)` and `torch.permute(x, (0, 2, 1))` alike as `(x, (0, 2, 1))`.

    A single computed size may be a number or all sizes: such a call keeps its spelling.
    """
    if len(a.sizes) == 1 and isinstance(a.sizes[0], fx.Node):
        return None
    sizes = a.sizes[0] if len(a.sizes) == 1 and isinstance(a.sizes[0], (tuple, list)) else a.sizes
    return (a.input, tuple(sizes))


def _reshape(a: SimpleNamespace) -> tuple[Any, ...] | None:
    if len(a.sizes) == 1 and isinstance(a.sizes[0], torch.dtype):
        return None
    return _varargs(a)


def _arithmetic(a: SimpleNamespace) -> tuple[Any, ...] | None:
    return (a.input, a.other) if a.alpha == 1 else None


def _binary(function: Callable[..., Any], *spellings: Spelling, inplace: str = "") -> FunctionRow:
    name = function.__name__
    augmented = (getattr(operator, "i" + name), inplace) if inplace else ()
    return FunctionRow(
        name, "input, other", (function, *spellings), inplace=augmented, target=function
    )


def _sum(function: Callable[..., Any], augmented: Callable[..., Any]) -> FunctionRow:
    name = function.__name__
    return FunctionRow(
        name,
        "input, other, alpha=1",
        (function, getattr(torch, name), name),
        inplace=(augmented, name + "_"),
        target=function,
        positional=_arithmetic,
    )


_FUNCTIONS = (
    _sum(operator.add, operator.iadd),
    _sum(operator.sub, operator.isub),
    _binary(operator.mul, torch.mul, torch.multiply, "mul", inplace="mul_"),
    _binary(operator.truediv, torch.true_divide, torch.div, "div", inplace="div_"),
    _binary(operator.matmul, torch.matmul, torch.bmm, "matmul", "bmm"),
    FunctionRow(
        "flatten",
        "input, start_dim=0, end_dim=-1",
        (torch.flatten, "flatten"),
        target=torch.flatten,
    ),
    FunctionRow("cat", "tensors, dim=0", (torch.cat, torch.concat), target=torch.cat),
    FunctionRow(
        "reshape",
        "input, *sizes",
        (torch.reshape, "reshape", "view"),
        target=torch.reshape,
        positional=_reshape,
    ),
    FunctionRow(
        "permute",
        "input, *sizes",
        (torch.permute, "permute"),
        target=torch.permute,
        positional=_varargs,
    ),
    FunctionRow(
        "transpose",
        "input, dim0, dim1",
        (torch.transpose, torch.swapaxes, "transpose", "swapaxes"),
        target=torch.transpose,
    ),
)

TABLE = Table((*_ACTIVATIONS, *_DROPOUTS, *_LAYERS, *_FUNCTIONS))
