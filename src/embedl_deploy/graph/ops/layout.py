"""What moves values without computing: one function each in the canonical graph."""

import operator
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F

from embedl_deploy.graph.items import at
from embedl_deploy.graph.rows import FunctionRow


def _varargs(a: SimpleNamespace) -> tuple[Any, ...] | None:
    """`x.permute(0, 2, 1)` and `torch.permute(x, (0, 2, 1))` alike as `(x, (0, 2, 1))`.

    A single computed size may be a number or all sizes: such a call keeps its spelling.
    """
    single = len(a.sizes) == 1 and not isinstance(a.sizes[0], int)
    return _listed(a.input, a.sizes[0] if single else a.sizes)


def _listed(value: Any, sizes: Any) -> tuple[Any, ...] | None:
    return (value, tuple(sizes)) if isinstance(sizes, tuple | list) else None


def _reshape(a: SimpleNamespace) -> tuple[Any, ...] | None:
    if len(a.sizes) == 1 and isinstance(a.sizes[0], torch.dtype):
        return None
    return _varargs(a)


def _squeeze(a: SimpleNamespace) -> tuple[Any, ...]:
    if a.dim is None:
        return (a.input,)
    single = isinstance(a.dim, list | tuple) and len(a.dim) == 1
    several = tuple(a.dim) if isinstance(a.dim, list) else a.dim
    return (a.input, a.dim[0] if single else several)


def _split(a: SimpleNamespace) -> tuple[Any, ...]:
    """`(x, 2, 1)` for parts of one size, `(x, (1, 3), 1)` for parts of several."""
    sizes = a.sizes
    return (a.input, tuple(sizes) if isinstance(sizes, list) else sizes, a.dim)


def _transposed(a: SimpleNamespace) -> tuple[Any, ...] | None:
    """The transpose of a matrix; of a tensor of another or unknown rank it stays itself."""
    return (a.input, 0, 1) if a.rank == 2 else None


def _cast(a: SimpleNamespace) -> tuple[Any, ...] | None:
    return (a.input, a.dtype) if isinstance(a.dtype, torch.dtype) else None


_CASTS = (
    FunctionRow("to", "input, dtype", ("to", "type"), target="to", positional=_cast),
    *(
        FunctionRow(
            name,
            "input",
            (name,),
            target="to",
            positional=lambda a, dtype=dtype: (a.input, dtype),  # type: ignore[misc]
        )
        for name, dtype in (
            ("float", torch.float32),
            ("double", torch.float64),
            ("half", torch.float16),
            ("bfloat16", torch.bfloat16),
            ("int", torch.int32),
            ("long", torch.int64),
            ("bool", torch.bool),
        )
    ),
    FunctionRow("type_as", "input, other", ("type_as",), target="type_as"),
)

_SIZES = (FunctionRow("size", "input, dim", ("size",), target="size"),)


def _selected(a: SimpleNamespace) -> tuple[Any, ...] | None:
    return _item(a, a.index)


def _narrowed(a: SimpleNamespace) -> tuple[Any, ...] | None:
    if type(a.start) is not int or type(a.length) is not int or a.start < 0:
        return None
    return _item(a, slice(a.start or None, a.start + a.length, None))


def _item(a: SimpleNamespace, index: Any) -> tuple[Any, ...] | None:
    brackets = at(a.dim, a.rank, index)
    return None if brackets is None else (a.input, brackets)


_ITEMS = (
    FunctionRow(
        "select",
        "input, dim, index",
        (torch.select, "select"),
        target=operator.getitem,
        positional=_selected,
        ranked=True,
    ),
    FunctionRow(
        "narrow",
        "input, dim, start, length",
        (torch.narrow, "narrow"),
        target=operator.getitem,
        positional=_narrowed,
        ranked=True,
    ),
)

LAYOUT = (
    *_ITEMS,
    FunctionRow("detach", "input", (torch.detach, "detach"), target=torch.detach),
    FunctionRow("clone", "input", (torch.clone, "clone"), target=torch.clone),
    *_CASTS,
    *_SIZES,
    FunctionRow(
        "flatten",
        "input, start_dim=0, end_dim=-1",
        (torch.flatten, "flatten"),
        target=torch.flatten,
    ),
    FunctionRow(
        "unflatten",
        "input, dim, sizes",
        (torch.unflatten, "unflatten"),
        target=torch.unflatten,
        positional=lambda a: (
            a.input,
            a.dim,
            tuple(a.sizes) if isinstance(a.sizes, list) else a.sizes,
        ),
    ),
    FunctionRow(
        "cat", "tensors, dim=0", (torch.cat, torch.concat, torch.concatenate), target=torch.cat
    ),
    FunctionRow("stack", "tensors, dim=0", (torch.stack,), target=torch.stack),
    FunctionRow(
        "reshape",
        "input, *sizes",
        ("reshape", "view"),
        target=torch.reshape,
        positional=_reshape,
    ),
    FunctionRow(
        "reshape",
        "input, shape",
        (torch.reshape,),
        target=torch.reshape,
        positional=lambda a: _listed(a.input, a.shape),
    ),
    FunctionRow("reshape_as", "input, other", ("reshape_as", "view_as"), target="reshape_as"),
    FunctionRow(
        "permute", "input, *sizes", ("permute",), target=torch.permute, positional=_varargs
    ),
    FunctionRow(
        "permute",
        "input, dims",
        (torch.permute,),
        target=torch.permute,
        positional=lambda a: _listed(a.input, a.dims),
    ),
    FunctionRow(
        "transpose",
        "input, dim0, dim1",
        (torch.transpose, torch.swapaxes, torch.swapdims, "transpose", "swapaxes", "swapdims"),
        target=torch.transpose,
    ),
    FunctionRow(
        "mT", "input", (".mT",), target=torch.transpose, positional=lambda a: (a.input, -2, -1)
    ),
    FunctionRow(
        "t",
        "input",
        (torch.t, "t", ".T"),
        target=torch.transpose,
        positional=_transposed,
        ranked=True,
    ),
    FunctionRow(
        "expand",
        "input, *sizes",
        (torch.broadcast_to, "expand", "broadcast_to"),
        target=torch.broadcast_to,
        positional=_varargs,
    ),
    FunctionRow(
        "squeeze",
        "input, dim=None",
        (torch.squeeze, "squeeze"),
        target=torch.squeeze,
        positional=_squeeze,
    ),
    FunctionRow("unsqueeze", "input, dim", (torch.unsqueeze, "unsqueeze"), target=torch.unsqueeze),
    FunctionRow("chunk", "input, chunks, dim=0", (torch.chunk, "chunk"), target=torch.chunk),
    FunctionRow(
        "split",
        "input, sizes, dim=0",
        (torch.split, torch.split_with_sizes, "split", "split_with_sizes"),
        target=torch.split,
        positional=_split,
    ),
    FunctionRow("unbind", "input, dim=0", (torch.unbind, "unbind"), target=torch.unbind),
    FunctionRow(
        "roll",
        "input, shifts, dims=None",
        (torch.roll, "roll"),
        target=torch.roll,
        positional=lambda a: (a.input, _several(a.shifts), _several(a.dims)),
    ),
    FunctionRow(
        "pad",
        "input, pad, mode='constant', value=None",
        (F.pad,),
        target=F.pad,
        positional=lambda a: (
            a.input,
            tuple(a.pad) if isinstance(a.pad, list) else a.pad,
            a.mode,
            a.value,
        ),
    ),
)


def _several(value: Any) -> Any:
    if value is None:
        return ()
    return (value,) if type(value) is int else tuple(value) if isinstance(value, list) else value
