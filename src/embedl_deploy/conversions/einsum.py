"""Sums over named dimensions as matrix products."""

import re
from typing import Any

import torch
from torch import Tensor, nn

from embedl_deploy.patterns import Call, ConversionPattern, op

# batch letters, then one each: "bhid,bhjd->bhij" and "bhij,bhjd->bhid"
_BY_TRANSPOSED = re.compile(r"(\w+)(\w)(\w),\1(\w)\3->\1\2\4")
_BY_MATRIX = re.compile(r"(\w+)(\w)(\w),\1\3(\w)->\1\2\4")


def _is_product(call: Any) -> bool:
    if not isinstance(call.args[0], str):  # einsum(x, [0, 1], y, [1, 2], [0, 2])
        return False
    equation = call.args[0].replace(" ", "")
    known = _BY_TRANSPOSED.fullmatch(equation) or _BY_MATRIX.fullmatch(equation)
    letters = "".join(known.groups()) if known else "none"
    return len(call.args) == 3 and len({*letters}) == len(letters)


class EinsumPattern(ConversionPattern):
    """`einsum` of two batches of matrices becomes a product; the second may be transposed."""

    tree = op("einsum", torch.einsum, predicate=_is_product)

    def refuse(self, einsum: Call) -> str | None:
        one, other = einsum.args[1].shape, einsum.args[2].shape
        if one is None or other is None:
            return None
        summed = other[-1 if _is_transposed(einsum) else -2]
        return None if one[-1] == summed else f"it sums over sizes {one[-1]} and {summed} at once"

    def build(self, einsum: Call) -> nn.Module:
        return Product(transposed=_is_transposed(einsum))


def _is_transposed(call: Call) -> bool:
    return _BY_TRANSPOSED.fullmatch(call.args[0].replace(" ", "")) is not None


class Product(nn.Module):
    """A matrix product."""

    def __init__(self, *, transposed: bool) -> None:
        super().__init__()
        self.transposed = transposed

    def forward(self, one: Tensor, other: Tensor) -> Tensor:
        """Multiply. Shapes: (…, L, E) and (…, E, S), or (…, S, E), to (…, L, S)."""
        return one @ (other.transpose(-2, -1) if self.transposed else other)
