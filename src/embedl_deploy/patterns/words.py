"""Operations that patterns of any target may name."""

import math
import operator
from typing import Any

import torch
from torch import nn

from embedl_deploy.graph.tracer import RANDOM_DEPTH
from embedl_deploy.modules import MHAInProjection, ScaledDotProductAttention
from embedl_deploy.modules.frozen import FrozenBatchNorm1d, FrozenBatchNorm2d, FrozenBatchNorm3d
from embedl_deploy.patterns.tree import Call, Op, op

_DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)


def _lists_sizes(call: Any) -> bool:
    """Whether a reshape names size by size; `x.reshape(y.shape)` does not."""
    return isinstance(call.args[1], tuple)


ACTIVATIONS = (
    nn.ReLU,
    nn.ReLU6,
    nn.LeakyReLU,
    nn.PReLU,
    nn.ELU,
    nn.GELU,
    nn.SiLU,
    nn.Hardswish,
    nn.Hardsigmoid,
)

CONV2D = op("conv", nn.Conv2d)
CONV = op("conv", nn.Conv1d, nn.Conv2d, nn.Conv3d)
CONV_TRANSPOSE = op("conv", nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
BATCH_NORM1D = op("batch_norm", nn.BatchNorm1d, FrozenBatchNorm1d)
BATCH_NORM2D = op("batch_norm", nn.BatchNorm2d, FrozenBatchNorm2d)
BATCH_NORM = op(
    "batch_norm",
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d),
    *(FrozenBatchNorm1d, FrozenBatchNorm2d, FrozenBatchNorm3d),
)
ACTIVATION = op("activation", *ACTIVATIONS)
MAX_POOL2D = op("pool", nn.MaxPool2d, predicate=lambda pool: not pool.return_indices)
ADAPTIVE_AVG_POOL2D = op("pool", nn.AdaptiveAvgPool2d)
LINEAR = op("linear", nn.Linear)
LAYER_NORM = op("layer_norm", nn.LayerNorm)
GROUP_NORM = op("group_norm", nn.GroupNorm)
INSTANCE_NORM = op("instance_norm", nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
RMS_NORM = op("rms_norm", nn.RMSNorm)
DROPOUT = op("dropout", nn.Dropout)
NOISE = op("noise", *_DROPOUTS, *RANDOM_DEPTH)
ADD = op("add", operator.add, commutative=True)
SUB = op("sub", operator.sub)
MUL = op("mul", operator.mul, commutative=True)
DIV = op("div", operator.truediv)
POW = op("pow", operator.pow)
MATMUL = op("matmul", operator.matmul)
MEAN = op("mean", torch.mean)
SQRT = op("sqrt", torch.sqrt)
RSQRT = op("rsqrt", torch.rsqrt)
SIGMOID = op("sigmoid", nn.Sigmoid)
TANH = op("tanh", nn.Tanh)
SOFTMAX = op("softmax", nn.Softmax)
FLATTEN = op("flatten", torch.flatten)
RESHAPE = op("reshape", torch.reshape, predicate=_lists_sizes)
PERMUTE = op("permute", torch.permute)
TRANSPOSE = op("transpose", torch.transpose)
MULTIHEAD_ATTENTION = op("attention", nn.MultiheadAttention)
MHA_IN_PROJECTION = op("projection", MHAInProjection)
SCALED_DOT_PRODUCT_ATTENTION = op("attention", ScaledDotProductAttention)


def scaled(name: str, by: float | None = None) -> Op:
    """A multiplication by the number `by`, or by any, also written as a division."""

    def is_scaled(call: Any) -> bool:
        number = call.args[1]
        if isinstance(call.args[0], int | float) or not isinstance(number, int | float):
            return False
        return by is None or math.isclose(factor(call), by, rel_tol=1e-6)

    return op(name, operator.mul, operator.truediv, predicate=is_scaled)


def factor(call: Call | None) -> float:
    """What a `scaled` call multiplies by; 1 where it is missing."""
    if call is None:
        return 1.0
    number: float = call.args[1]
    return 1 / number if call.target is operator.truediv else number


def item(index: int) -> Op:
    """One item of an operation that returns several."""

    def is_item(call: Any) -> bool:
        return isinstance(call, Call) and type(call.args[1]) is int and call.args[1] == index

    return op("item", operator.getitem, predicate=is_item)
