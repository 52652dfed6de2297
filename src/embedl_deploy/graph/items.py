"""Indices of tensors, dimension by dimension, so that one item has one spelling."""

import operator
from typing import Any

import torch

_WHOLE = slice(None)


def item_steps(index: Any, rank: int | None) -> list[tuple[Any, ...]] | None:
    """The canonical calls, in order, that an index stands for: targets with what follows `x`.

    `x[0]` and `x[1:]` stay; of `x[:, 1:, 0]` each dimension is an item; `None` is an
    `unsqueeze`. An index with tensors, or with an ellipsis in a tensor of unknown rank, has no
    such form: the answer is `None`.

    Args:
        index: What is in the brackets.
        rank: The number of dimensions of the tensor.
    """
    if isinstance(index, slice):
        return _step(0, index)
    if not isinstance(index, tuple):
        return [(operator.getitem, index)]
    if not all(one is None or one is Ellipsis or type(one) in {int, slice} for one in index):
        return None
    if all(type(one) is int for one in index):  # perhaps the key of a dictionary
        return None
    if Ellipsis in index:
        if rank is None:
            return None
        index = _spelled_out(index, rank)
    return _steps(index)


def at(dim: int, rank: int | None, index: Any) -> Any:
    """What is in the brackets for an item along `dim`; `None` where that is not known."""
    if dim < 0 and rank is None:
        return None
    dim = dim % rank if rank else dim
    return (*[_WHOLE] * dim, index) if dim else index


def _spelled_out(index: tuple[Any, ...], rank: int) -> tuple[Any, ...]:
    """The index without its ellipsis."""
    at = index.index(Ellipsis)
    left = rank - sum(one is not None for one in index) + 1
    return (*index[:at], *[_WHOLE] * left, *index[at + 1 :])


def _steps(index: tuple[Any, ...]) -> list[tuple[Any, ...]]:
    found: list[tuple[Any, ...]] = []
    dim = 0
    for one in index:
        found += _step(dim, one)
        dim += type(one) is not int
    return found


def _step(dim: int, one: Any) -> list[tuple[Any, ...]]:
    if one is None:
        return [(torch.unsqueeze, dim)]
    if isinstance(one, slice):
        start, step = (
            None if type(value) is int and value == without else value
            for value, without in ((one.start, 0), (one.step, 1))
        )
        one = slice(start, one.stop, step)
        if one == _WHOLE:
            return []
    return [(operator.getitem, at(dim, None, one))]
