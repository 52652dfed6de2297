"""Arithmetic, reductions and comparisons: one function each in the canonical graph."""

import operator
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import fx

from embedl_deploy.graph.rows import FunctionRow, Spelling


def _scaled(a: SimpleNamespace) -> tuple[Any, ...] | None:
    return (a.input, a.other) if a.alpha == 1 else None


def _commuting(a: SimpleNamespace) -> tuple[Any, ...] | None:
    """A number comes after a tensor: `2 * x` as `x * 2`."""
    if getattr(a, "alpha", 1) != 1:
        return None
    swapped = isinstance(a.input, int | float) and isinstance(a.other, fx.Node)
    return (a.other, a.input) if swapped else (a.input, a.other)


def _reversed(a: SimpleNamespace) -> tuple[Any, ...] | None:
    return (a.other, a.input) if a.alpha == 1 else None


def _binary(
    function: Callable[..., Any],
    *spellings: Spelling,
    inplace: tuple[Spelling, ...] = (),
    arguments: str = "input, other",
    **options: Any,
) -> FunctionRow:
    name = function.__name__.strip("_")
    return FunctionRow(
        name, arguments, (function, *spellings), inplace=inplace, target=function, **options
    )


_ALPHA = "input, other, alpha=1"

_BINARY = (
    _binary(
        operator.add,
        torch.add,
        "add",
        inplace=(operator.iadd, "add_"),
        arguments=_ALPHA,
        positional=_commuting,
    ),
    _binary(
        operator.sub,
        torch.sub,
        torch.subtract,
        "sub",
        "subtract",
        inplace=(operator.isub, "sub_"),
        arguments=_ALPHA,
        positional=_scaled,
    ),
    FunctionRow("rsub", _ALPHA, (torch.rsub,), target=operator.sub, positional=_reversed),
    _binary(
        operator.mul,
        torch.mul,
        torch.multiply,
        "mul",
        "multiply",
        inplace=(operator.imul, "mul_"),
        positional=_commuting,
    ),
    _binary(
        operator.truediv,
        torch.true_divide,
        torch.div,
        torch.divide,
        "div",
        "divide",
        "true_divide",
        inplace=(operator.itruediv, "div_"),
    ),
    _binary(
        operator.pow,
        torch.pow,
        "pow",
        inplace=(operator.ipow, "pow_"),
        arguments="input, exponent",
    ),
    FunctionRow(
        "square",
        "input",
        (torch.square, "square"),
        inplace=(torch.square_, "square_"),
        target=operator.pow,
        positional=lambda a: (a.input, 2),
    ),
    _binary(
        operator.matmul,
        torch.matmul,
        torch.bmm,
        torch.mm,
        "matmul",
        "bmm",
        "mm",
        operator.imatmul,  # a tensor has no such operator: Python computes `x = x @ y`
    ),
    FunctionRow("maximum", "input, other", (torch.maximum, "maximum"), target=torch.maximum),
    FunctionRow("minimum", "input, other", (torch.minimum, "minimum"), target=torch.minimum),
    *(
        _binary(getattr(operator, name), getattr(torch, name), name)
        for name in ("eq", "ne", "lt", "le", "gt", "ge")
    ),
)

_UNARY = (
    _binary(
        operator.neg,
        torch.neg,
        torch.negative,
        "neg",
        "negative",
        inplace=(torch.neg_, "neg_"),
        arguments="input",
    ),
    *(
        FunctionRow(
            name,
            "input",
            (getattr(torch, name), name),
            inplace=(getattr(torch, name + "_"), name + "_"),
            target=getattr(torch, name),
        )
        for name in (
            *("abs", "ceil", "cos", "erf", "exp", "floor", "log", "reciprocal", "rsqrt"),
            *("sin", "sqrt"),
        )
    ),
    FunctionRow(
        "clamp",
        "input, min=None, max=None",
        (torch.clamp, torch.clip, "clamp", "clip"),
        inplace=(torch.clamp_, "clamp_"),
        target=torch.clamp,
    ),
    FunctionRow(
        "clamp_min",
        "input, min",
        (torch.clamp_min, "clamp_min"),
        inplace=(torch.clamp_min_, "clamp_min_"),
        target=torch.clamp,
        positional=lambda a: (a.input, a.min, None),
    ),
    FunctionRow(
        "clamp_max",
        "input, max",
        (torch.clamp_max, "clamp_max"),
        inplace=(torch.clamp_max_, "clamp_max_"),
        target=torch.clamp,
        positional=lambda a: (a.input, None, a.max),
    ),
)


def _dims(dim: Any) -> Any:
    """Dimensions as a tuple: `-1` as `(-1,)`; a computed one has no such form."""
    if type(dim) is int:
        return (dim,)
    plain = isinstance(dim, list | tuple) and dim and all(type(one) is int for one in dim)
    return tuple(dim) if plain else None


def _reduced(a: SimpleNamespace) -> tuple[Any, ...] | None:
    """`x.mean(-1)` as `(x, (-1,), False)`, `x.mean()` as `(x,)`."""
    if getattr(a, "dtype", None) is not None:
        return None
    if a.dim is None or a.dim in ((), []):
        return None if a.keepdim else (a.input,)
    dims = _dims(a.dim)
    return None if dims is None else (a.input, dims, a.keepdim)


def _spread(a: SimpleNamespace) -> tuple[Any, ...] | None:
    """`x.var(-1, correction=0)` as `(x, (-1,), False, False)`: dimensions, unbiased, keepdim."""
    if type(a.dim) is bool:  # x.var(False): over everything
        return None
    dims = _dims(a.dim)
    correction = int(a.unbiased) if a.correction is None else a.correction
    if dims is None or correction not in {0, 1}:
        return None
    return (a.input, dims, bool(correction), a.keepdim)


def _terms(a: SimpleNamespace) -> tuple[Any, ...] | None:
    """`einsum("ij,jk", [x, y])` as `("ij,jk", x, y)`; without an equation it has no such form."""
    if not isinstance(a.equation, str):
        return None
    one_list = len(a.operands) == 1 and isinstance(a.operands[0], list | tuple)
    return (a.equation, *(a.operands[0] if one_list else a.operands))


_REDUCTIONS = (
    *(
        FunctionRow(
            name,
            "input, dim=None, keepdim=False, dtype=None",
            (getattr(torch, name), name),
            target=getattr(torch, name),
            positional=_reduced,
        )
        for name in ("mean", "sum")
    ),
    *(
        FunctionRow(
            name,
            "input, dim=None, keepdim=False",
            (getattr(torch, name), name),
            target=getattr(torch, name),
            positional=_reduced,
        )
        for name in ("amax", "amin")
    ),
    *(
        FunctionRow(
            name,
            "input, dim=None, unbiased=True, keepdim=False, correction=None",
            (getattr(torch, name), name),
            target=getattr(torch, name),
            positional=_spread,
        )
        for name in ("var", "std")
    ),
    FunctionRow(
        "einsum",
        "equation, *operands",
        (torch.einsum,),
        target=torch.einsum,
        positional=_terms,
    ),
    FunctionRow("where", "condition, input, other", (torch.where,), target=torch.where),
    FunctionRow(
        "where",
        "input, condition, other",
        ("where",),
        target=torch.where,
        positional=lambda a: (a.condition, a.input, a.other),
    ),
    FunctionRow(
        "masked_fill",
        "input, mask, value",
        (torch.masked_fill, "masked_fill"),
        inplace=("masked_fill_",),
        target=torch.masked_fill,
    ),
)

ARITHMETIC = (*_BINARY, *_UNARY, *_REDUCTIONS)
