"""Projections of attention in forms that TensorRT's kernels take."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from embedl_deploy.modules import MHAInProjection
from embedl_deploy.patterns import (
    LINEAR,
    PERMUTE,
    RESHAPE,
    SCALED_DOT_PRODUCT_ATTENTION,
    TRANSPOSE,
    Call,
    ConversionPattern,
    Site,
    Value,
    again,
    chain,
    either,
    fork,
    hole,
    item,
    op,
)

_SHARED = "the linear layer's weight is used elsewhere as well"


class PackedProjectionPattern(ConversionPattern):
    """A linear layer whose output is split as (3, N, heads, L, size) becomes an in-projection.

    So does one split as (2, N, heads, L, size), as for the key and value of a shorter sequence.
    """

    tree = chain(LINEAR, RESHAPE, PERMUTE.where(lambda call: len(call.args[1]) == 5))

    def refuse(self, linear: nn.Linear, reshape: Call, permute: Call, site: Site) -> str | None:
        if not site.is_unpacked("permute"):
            return "its output is not read as query, key and value one by one"
        sizes, order = reshape.args[1], permute.args[1]
        if len(sizes) != 5 or sizes[2] not in range(2, 4) or order != (2, 0, 3, 1, 4):
            return "its output is not laid out as (N, L, 2 or 3, heads, size)"
        if site.is_shared("linear"):
            return _SHARED
        return _split_reason(site.value("reshape").shape, site.input_shape("linear"))

    def build(self, linear: nn.Linear, site: Site) -> nn.Module:
        shape = site.value("reshape").shape
        assert shape is not None  # noqa: S101 - refuse() says so
        return SelfProjection(packed(linear, shape[3] or 1, shape[2] or 3))


def _cuts_last(call: Any) -> bool:
    return call.args[2] in {-1, len(call.args[0].shape or ()) - 1}


_PARTS = op("parts", torch.chunk, torch.split, predicate=_cuts_last)


def _heads(name: str, first: Any) -> Any:
    """(N, L, E) to (N, heads, L, size)."""
    return chain(first, RESHAPE.named(name), TRANSPOSE.named(f"{name}_heads").taking(1, 2))


_ITEMS = (
    _heads("query", fork(item(0).named("first"), chain(LINEAR, _PARTS))),
    _heads("key", fork(item(1).named("second"), again(_PARTS))),
    _heads("value", fork(item(2).named("third"), again(_PARTS))),
)


class SplitProjectionPattern(ConversionPattern):
    """A linear layer cut in query, key and value, each split into heads, becomes an in-projection.

    The attention after it stays.
    """

    tree = either(
        fork(SCALED_DOT_PRODUCT_ATTENTION, *_ITEMS, hole("mask")),
        fork(SCALED_DOT_PRODUCT_ATTENTION, *_ITEMS),
    )

    def refuse(self, linear: nn.Linear, site: Site) -> str | None:
        if site.is_shared("linear"):
            return _SHARED
        shapes = {site.value(name).shape for name in ("query", "key", "value")}
        if None in shapes:
            return "the shape of its output is not known; pass example inputs"
        *leading, count, size = shapes.pop() or (0, 0)
        whole = 3 * (count or 0) * (size or 0)
        if shapes or len(leading) != 2 or whole != linear.out_features:
            return "query, key and value are not split into heads alike"
        return _split_reason((*leading, 3, count, size), site.input_shape("linear"))

    def build(self, linear: nn.Linear, attention: nn.Module, site: Site) -> nn.Module:
        shape = site.value("query").shape
        assert shape is not None  # noqa: S101 - refuse() says so
        return SelfAttention(packed(linear, shape[2] or 1), attention)


class ComputedBiasPattern(ConversionPattern):
    """A linear function whose bias is computed becomes a linear layer and an addition."""

    tree = op(
        "linear",
        F.linear,
        predicate=lambda call: (
            len(call.args) == 3
            and isinstance(call.args[1], nn.Parameter)
            and isinstance(call.args[2], Value)
        ),
    )

    def build(self, linear: Call) -> nn.Module:
        return BiasedLinear(layer(linear.args[1], None))


def packed(linear: nn.Linear, heads: int, parts: int = 3) -> MHAInProjection:
    """The in-projection that computes what `linear` does; it has the same parameters."""
    return MHAInProjection(
        heads,
        batch_first=True,
        in_proj_weight=linear.get_parameter("weight"),
        in_proj_bias=linear.bias,
        parts=parts,
    )


def layer(weight: nn.Parameter, bias: nn.Parameter | None) -> nn.Linear:
    """The linear layer of these parameters."""
    with torch.device("meta"):
        linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    linear.weight, linear.bias = weight, bias  # type: ignore[assignment]
    return linear


class SelfProjection(nn.Module):
    """An in-projection of one tensor."""

    def __init__(self, projection: MHAInProjection) -> None:
        super().__init__()
        self.linear = projection

    def forward(self, input: Tensor) -> Any:  # noqa: A002 - torch's name for it
        """Project; see `MHAInProjection.forward`."""
        return self.linear(input if self.linear.parts == 3 else None, input, input)


class SelfAttention(nn.Module):
    """Attention of one tensor with itself."""

    def __init__(self, projection: MHAInProjection, attention: nn.Module) -> None:
        super().__init__()
        self.linear = projection
        self.attention = attention

    def forward(self, input: Tensor, mask: Tensor | None = None) -> Any:  # noqa: A002 - torch's name
        """Project and attend. Shapes: (N, L, E) to (N, heads, L, size)."""
        query, key, value = self.linear(input, input, input)
        return self.attention(query, key, value, mask)


class BiasedLinear(nn.Module):
    """A linear layer to whose output a computed bias is added."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.linear = linear

    def forward(self, input: Tensor, bias: Tensor) -> Tensor:  # noqa: A002 - torch's name for it
        """Apply. Shapes: (…, in) and (out) to (…, out)."""
        output: Tensor = self.linear(input) + bias
        return output


def _split_reason(
    split: tuple[int | None, ...] | None, before: tuple[int | None, ...] | None
) -> str | None:
    """Why (N, L, E) to (N, L, parts, heads, size) is not what an in-projection does."""
    if split is None or before is None or None in {*split[1:], *before[1:]}:
        return "the shape of its output is not known; pass example inputs"
    if len(before) != 3 or split[:2] != before[:2]:
        return f"its input of shape {before} is not split as (N, L, {split[2]}, heads, size)"
    return None
