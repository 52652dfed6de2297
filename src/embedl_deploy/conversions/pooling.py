"""Rewrites around pooling and flattening."""

import operator
from collections import OrderedDict
from typing import Any

import torch
from torch import nn

from embedl_deploy.patterns import (
    ACTIVATION,
    ADAPTIVE_AVG_POOL2D,
    DROPOUT,
    LINEAR,
    MEAN,
    Call,
    ConversionPattern,
    Site,
    chain,
    either,
    fork,
    hole,
    op,
    wildcard,
)

_FIRST = (slice(None), slice(None), 0)


def _keeps_two(call: Any) -> bool:
    """Whether a call leaves the first two dimensions of a map of 1×1, or may do so."""
    match call.target:
        case torch.flatten:
            return call.args[1:] in {(1, -1), (1, 3)}
        case torch.squeeze:
            return len(call.args) > 1 and call.args[1] in _BOTH
    return isinstance(call.args[1], tuple) and len(call.args[1]) == 2


def _cuts_one(call: Any) -> bool:
    """Whether a call takes the last dimension, or the one before, away from a map of 1×1."""
    cut = call.args[1] if len(call.args) > 1 else None
    return cut in {-2, -1, 2, 3} if call.target is torch.squeeze else cut == _FIRST


_BOTH = {(2, 3), (3, 2), (-1, -2), (-2, -1)}
_CUT = op("flatten", torch.squeeze, operator.getitem, predicate=_cuts_one)
_FLAT = either(
    fork(
        op("flatten", torch.flatten, torch.reshape, torch.squeeze, predicate=_keeps_two), hole("x")
    ),
    fork(_CUT, fork(_CUT.named("row"), hole("x"))),
)


class FlattenLinearToConv1x1Pattern(ConversionPattern):
    """A linear layer after the flattening of a 1×1 map becomes a 1×1 convolution before it."""

    tree = chain(_FLAT, wildcard("between", DROPOUT, ACTIVATION), LINEAR)

    def refuse(self, flatten: Call, linear: nn.Linear, site: Site) -> str | None:
        if site.is_shared("linear"):
            return "the linear layer's weight is used elsewhere as well"
        shape = site.value("x").shape
        if shape is None:
            return "the shape of what is flattened is not known; pass example inputs"
        if len(shape) != 4:
            return f"what is flattened has {len(shape)} dimensions, not 4"
        fits = shape[1] == linear.in_features
        if fits and flatten.target is torch.flatten:
            return None
        if shape[2:] == (1, 1):
            if fits or (shape[1] is None and flatten.target is torch.flatten):
                return None
            return (
                f"{_sizes(shape)} is flattened, and the layer takes {linear.in_features} features"
            )
        if None in shape[1:]:
            return f"the flattened size {_sizes(shape)} is not known to be 1×1; pass example inputs"
        return f"the flattened height and width are {shape[2]}×{shape[3]}, not 1×1"

    def build(self, between: tuple[nn.Module, ...], linear: nn.Linear) -> nn.Module:
        steps = [(f"between_{index}", module) for index, module in enumerate(between)]
        named = [*steps, ("linear", conv1x1(linear)), ("flatten", nn.Flatten())]
        return nn.Sequential(OrderedDict(named))


class RemoveIdentityAdaptiveAvgPoolPattern(ConversionPattern):
    """An adaptive average pooling to the size that is there already is removed."""

    tree = ADAPTIVE_AVG_POOL2D

    def refuse(self, pool: nn.AdaptiveAvgPool2d, site: Site) -> str | None:
        shape = site.input_shape("pool")
        if shape is None or None in shape[-2:]:
            return "its input size is not known; pass example inputs"
        size = pool.output_size
        wanted = size if isinstance(size, tuple) else (size, size)
        kept = all(want in {None, have} for want, have in zip(wanted, shape[-2:], strict=True))
        return None if kept else f"it pools {_sizes(shape)} to {wanted}"

    def build(self) -> nn.Module:
        return nn.Identity()


class MeanToAdaptiveAvgPoolPattern(ConversionPattern):
    """A mean over height and width of a map becomes an average pooling to 1×1."""

    tree = MEAN.where(lambda call: len(call.args) == 3 and call.args[1] in _BOTH)

    def refuse(self, site: Site) -> str | None:
        shape = site.input_shape("mean")
        if shape is None:
            return "the shape of its input is not known; pass example inputs"
        if len(shape) != 4:
            return f"its input has {len(shape)} dimensions, not 4"
        return None

    def build(self, mean: Call) -> nn.Module:
        flatten = () if mean.args[2] else (("flatten", nn.Flatten()),)
        return nn.Sequential(OrderedDict([("mean", nn.AdaptiveAvgPool2d(1)), *flatten]))


def conv1x1(linear: nn.Linear) -> nn.Conv2d:
    """The 1×1 convolution that computes what `linear` does; it shares the memory of its weight."""
    with torch.device("meta"):
        conv = nn.Conv2d(linear.in_features, linear.out_features, 1, bias=linear.bias is not None)
    weight = linear.weight
    conv.weight = nn.Parameter(weight.detach()[:, :, None, None], weight.requires_grad)
    conv.bias = linear.bias
    return conv


def _sizes(shape: tuple[int | None, ...]) -> str:
    return "×".join("?" if size is None else str(size) for size in shape)
