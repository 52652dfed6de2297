"""Operations that patterns of any target may name."""

import operator
from typing import Any

import torch
from torch import nn

from embedl_deploy.modules import MHAInProjection, ScaledDotProductAttention
from embedl_deploy.patterns.tree import Call, Op, op

ACTIVATIONS = (
    nn.ReLU,
    nn.ReLU6,
    nn.LeakyReLU,
    nn.ELU,
    nn.GELU,
    nn.SiLU,
    nn.Hardswish,
    nn.Hardsigmoid,
)

CONV2D = op("conv", nn.Conv2d)
BATCH_NORM2D = op("batch_norm", nn.BatchNorm2d)
ACTIVATION = op("activation", *ACTIVATIONS)
MAX_POOL2D = op("pool", nn.MaxPool2d, predicate=lambda pool: not pool.return_indices)
ADAPTIVE_AVG_POOL2D = op("pool", nn.AdaptiveAvgPool2d)
LINEAR = op("linear", nn.Linear)
LAYER_NORM = op("layer_norm", nn.LayerNorm)
DROPOUT = op("dropout", nn.Dropout)
ADD = op("add", operator.add, commutative=True)
FLATTEN = op("flatten", torch.flatten)
MULTIHEAD_ATTENTION = op("attention", nn.MultiheadAttention)
MHA_IN_PROJECTION = op("projection", MHAInProjection)
SCALED_DOT_PRODUCT_ATTENTION = op("attention", ScaledDotProductAttention)


def item(index: int) -> Op:
    """One item of an operation that returns several."""

    def is_item(call: Any) -> bool:
        return isinstance(call, Call) and type(call.args[1]) is int and call.args[1] == index

    return op("item", operator.getitem, predicate=is_item)
