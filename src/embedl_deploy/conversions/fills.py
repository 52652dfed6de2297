"""What a mask fills in, written as a number."""

from typing import Any

import torch
from torch import Tensor, nn

from embedl_deploy.patterns import (
    Call,
    ConversionPattern,
    Site,
    Value,
    either,
    fixed,
    fork,
    hole,
    op,
)

_AT = {
    torch.tensor: 0,
    torch.full: 1,
    torch.full_like: 1,
    torch.ops.aten.full.default: 1,
    torch.ops.aten.full_like.default: 1,
    torch.ops.aten.new_full.default: 2,
    "new_full": 2,
}
"""Functions that make a tensor of one value, and which argument that is."""


def fills(call: Any) -> bool:
    """Whether a call of `torch.where` or `masked_fill` fills in a number."""
    return len(call.args) > 2 and type(_number(call)) in {int, float}


def fill_of(call: Call) -> float:
    """The number that such a call fills in."""
    return float(_number(call))


def _number(call: Call) -> Any:
    _, one, other = call.args
    return one if type(one) in {int, float} else other


def _value(call: Any) -> Any:
    at = _AT[call.target]
    return call.args[at] if len(call.args) > at else call.kwargs.get("fill_value")


_FULL = op(
    "full",
    *(one for one in _AT if callable(one)),
    "Tensor.new_full",
    predicate=lambda call: type(_value(call)) in {int, float},
)
_VALUES = either(_FULL, fixed("tensor"))


class FillNumberPattern(ConversionPattern):
    """A mask that fills in a tensor with one value everywhere fills in that number instead."""

    tree = either(
        fork(op("others", torch.where), hole("mask"), hole("input"), _VALUES),
        fork(op("chosen", torch.where), hole("mask"), _VALUES, hole("input")),
        fork(op("filled", torch.masked_fill), hole("input"), hole("mask"), _VALUES),
    )

    def refuse(
        self, full: Call | None, tensor: Tensor | None, filled: Call | None, site: Site
    ) -> str | None:
        if tensor is not None and not _is_uniform(tensor):
            return "the values that it fills in differ"
        given = site.value("input")
        values = site.value("full") if tensor is None else Value(tuple(tensor.shape), tensor.dtype)
        if given.shape is None or values.shape is None or given.dtype is None:
            return "the shape of what it fills is not known; pass example inputs"
        if filled is None and (values.dtype != given.dtype or not given.dtype.is_floating_point):
            return f"it fills values of {values.dtype} into {given.dtype}"
        if not broadcasts(values.shape, given.shape):
            return f"it fills values of shape {values.shape} into {given.shape}"
        return None

    def build(
        self, full: Call | None, tensor: Tensor | None, others: Any, chosen: Any
    ) -> nn.Module:
        number = _value(full) if tensor is None else float(tensor.flatten()[0])
        return FillNumber(number, "others" if others else "chosen" if chosen else "")


class FillNumber(nn.Module):
    """Fills in a number.

    Args:
        number: What it fills in.
        where: `"others"` or `"chosen"`, as `torch.where` would; empty as `masked_fill` does.
    """

    def __init__(self, number: float, where: str) -> None:
        super().__init__()
        self.number = number
        self.where = where

    def forward(self, mask: Tensor, input: Tensor, *_: Any) -> Tensor:  # noqa: A002 - torch's name for it
        """Fill. Shapes: of the input, to which the mask broadcasts."""
        match self.where:
            case "others":
                return torch.where(mask, input, self.number)
            case "chosen":
                return torch.where(mask, self.number, input)
        return input.masked_fill(mask, self.number)


def _is_uniform(tensor: Tensor) -> bool:
    return bool(tensor.numel()) and bool((tensor == tensor.flatten()[0]).all())


def broadcasts(shape: tuple[int | None, ...], to: tuple[int | None, ...]) -> bool:
    """Whether a tensor of one shape takes another without changing it."""
    pairs = zip(reversed(shape), reversed(to), strict=False)
    return len(shape) <= len(to) and all(one in {1, other} for one, other in pairs)
