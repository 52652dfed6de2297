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
    equation = call.args[0].replace(" ", "")
    known = _BY_TRANSPOSED.fullmatch(equation) or _BY_MATRIX.fullmatch(equation)
    letters = "".join(known.groups()) if known else "none"
    return len(call.args) == 3 and len({*letters}) == len(letters)


class EinsumPattern(ConversionPattern):
    """`einsum` of batches of matrices, of which the second may be transposed, becomes a product."""

    tree = op("einsum", torch.einsum, predicate=_is_product)

    def build(self, einsum: Call) -> nn.Module:
        transposed = _BY_TRANSPOSED.fullmatch(einsum.args[0].replace(" ", ""))
        return Product(transposed=transposed is not None)


class Product(nn.Module):
    """A matrix product."""

    def __init__(self, *, transposed: bool) -> None:
        super().__init__()
        self.transposed = transposed

    def forward(self, one: Tensor, other: Tensor) -> Tensor:
        """Multiply. Shapes: (…, L, E) and (…, E, S), or (…, S, E), to (…, L, S)."""
        return one @ (other.transpose(-2, -1) if self.transposed else other)
