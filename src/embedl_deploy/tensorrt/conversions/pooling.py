"""Rewrites around pooling and flattening."""

from collections import OrderedDict

import torch
from torch import nn

from embedl_deploy.patterns import (
    ACTIVATION,
    ADAPTIVE_AVG_POOL2D,
    DROPOUT,
    FLATTEN,
    LINEAR,
    ConversionPattern,
    Site,
    chain,
    wildcard,
)

_FLATTEN_MAP = FLATTEN.where(lambda call: call.args[1:] in {(1, -1), (1, 3)})


class FlattenLinearToConv1x1Pattern(ConversionPattern):
    """A linear layer behind the flattening of a 1×1 map becomes a 1×1 convolution before it."""

    tree = chain(_FLATTEN_MAP, wildcard("between", DROPOUT, ACTIVATION), LINEAR)

    def refuse(self, linear: nn.Linear, site: Site) -> str | None:
        if site.is_shared("linear"):
            return "the linear layer's weight is used elsewhere as well"
        shape = site.input_shape("flatten")
        if shape is None:
            return "the shape of what is flattened is not known; pass example inputs"
        if len(shape) != 4:
            return f"what is flattened has {len(shape)} dimensions, not 4"
        if shape[2:] == (1, 1) or shape[1] == linear.in_features:
            return None
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
