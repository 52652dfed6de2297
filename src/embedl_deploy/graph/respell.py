"""ATen operations in the spelling of the operations table."""

import operator
import sys
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx

from embedl_deploy.graph.items import at
from embedl_deploy.graph.ops import TABLE
from embedl_deploy.graph.rows import Spelling
from embedl_deploy.graph.shapes import shape

_ATEN = torch.ops.aten

Arguments = tuple[tuple[Any, ...], dict[str, Any]]


def respell(node: fx.Node) -> None:
    """Give an ATen call the spelling that the operations table has for it, if it has one.

    Most ATen operations take the arguments of the function of the same name in `torch` or
    `torch.nn.functional`; those that do not are in `_ARGUMENTS`, those of another name in
    `_FUNCTIONS`.
    """
    if (brackets := _ITEMS.get(node.target)) is not None:
        index = brackets(*node.args)
        if index is not None:
            node.args, node.kwargs, node.target = (node.args[0], index), {}, operator.getitem
        return
    spelling = spelling_of(node.target)
    if spelling is None:
        return
    name = _name(node.target)
    if (change := _ARGUMENTS.get(name.removesuffix("_"))) is not None:
        node.args, node.kwargs = change(node.args, node.kwargs)
    if not TABLE.writes(spelling) and name.endswith("_"):
        node.kwargs = {**node.kwargs, "inplace": True}
    if name in _RESAMPLING:
        node.kwargs = {**node.kwargs, **_RESAMPLING[name]}
    if name == "feature_dropout":
        spelling = _FEATURE_DROPOUTS.get(len(shape(node) or ()), F.dropout2d)
    _spell(node, spelling)


VALUES_ALONE: dict[Any, Spelling] = {
    _ATEN.adaptive_max_pool1d.default: F.adaptive_max_pool1d,
    _ATEN.adaptive_max_pool2d.default: F.adaptive_max_pool2d,
    _ATEN.adaptive_max_pool3d.default: F.adaptive_max_pool3d,
}
"""Operations that give values and indices, and what gives the values alone."""


def _spell(node: fx.Node, spelling: Spelling) -> None:
    if isinstance(spelling, str) and spelling.startswith("."):
        node.target, node.args = getattr, (*node.args, spelling[1:])
        return
    if isinstance(spelling, str):
        node.op = "call_method"
    node.target = spelling


def spelling_of(target: Any) -> Spelling | None:
    """The spelling that the operations table has for an ATen operation."""
    name = _name(target)
    if target in _OTHERS:
        return None
    if name in _FUNCTIONS:
        return _FUNCTIONS[name]
    found = _row_spelling(name)
    if found is None and name.endswith("_"):
        found = _row_spelling(name[:-1])
        row = TABLE.find(found) if found is not None else None
        return found if row is not None and ", inplace=False" in row.arguments else None
    return found


def _row_spelling(name: str) -> Spelling | None:
    candidates = (getattr(torch, name, None), getattr(F, name, None), name)
    return next((one for one in candidates if one is not None and TABLE.find(one)), None)


def _name(target: Any) -> str:
    """`add_` of `aten.add_.Tensor`."""
    name: str = target.__name__.partition(".")[0]
    return name


# --- items ---------------------------------------------------------------------------------------


def _rank(source: object) -> int | None:
    known = shape(source)
    return None if known is None else len(known)


def _select(source: Any, dim: int, index: Any) -> Any:
    return at(dim, _rank(source), index)


def _slice(source: Any, dim: int = 0, start: Any = None, end: Any = None, step: Any = 1) -> Any:
    whole = end is None or (isinstance(end, int) and end >= sys.maxsize)
    piece = slice(start or None, None if whole else end, None if step == 1 else step)
    return at(dim, _rank(source), piece)


def _index(_: Any, indices: Any) -> Any:
    found = tuple(slice(None) if one is None else one for one in indices)
    return found[0] if len(found) == 1 else found


_ITEMS: dict[Any, Callable[..., Any]] = {
    _ATEN.select.int: _select,
    _ATEN.slice.Tensor: _slice,
    _ATEN.index.Tensor: _index,
}


# --- arguments -----------------------------------------------------------------------------------


def _pooling(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments:
    """An empty stride is the kernel size."""
    if len(args) > 2 and not args[2]:
        args = (*args[:2], None, *args[3:])
    return args, kwargs


def _dropout(args: tuple[Any, ...], _: dict[str, Any]) -> Arguments:
    return args[:2], {"training": args[2]}


def _rrelu(args: tuple[Any, ...], _: dict[str, Any]) -> Arguments:
    return args[:4], {}


def _batch_norm(args: tuple[Any, ...], _: dict[str, Any]) -> Arguments:
    input_, weight, bias, mean, variance, training, momentum, eps, *_rest = args
    return (input_, mean, variance, weight, bias, training, momentum, eps), {}


def _embedding(args: tuple[Any, ...], _: dict[str, Any]) -> Arguments:
    defaults: tuple[Any, ...] = (-1, False, False)
    weight, indices, padding, by_frequency, sparse = (*args, *defaults[len(args) - 2 :])
    known = padding if padding >= 0 else None
    return (indices, weight, known, None, 2.0, by_frequency, sparse), {}


def _resampling(args: tuple[Any, ...], _: dict[str, Any]) -> Arguments:
    """`(x, size, align_corners, factors)`; nearest has no `align_corners`."""
    factors = None if args[-1] is None else [float(one) for one in args[-1]]
    size = None if args[1] is None else tuple(args[1])
    corners = args[2] if len(args) == 4 else None
    return args[:1], {"size": size, "scale_factor": factors, "align_corners": corners}


_MODES = {
    "upsample_nearest1d": "nearest",
    "upsample_nearest2d": "nearest",
    "upsample_nearest3d": "nearest",
    "_upsample_nearest_exact1d": "nearest-exact",
    "_upsample_nearest_exact2d": "nearest-exact",
    "_upsample_nearest_exact3d": "nearest-exact",
    "upsample_linear1d": "linear",
    "upsample_bilinear2d": "bilinear",
    "upsample_bicubic2d": "bicubic",
    "upsample_trilinear3d": "trilinear",
    "_upsample_bilinear2d_aa": "bilinear",
    "_upsample_bicubic2d_aa": "bicubic",
}
_RESAMPLING = {
    name: {"mode": mode} | ({"antialias": True} if name.endswith("_aa") else {})
    for name, mode in _MODES.items()
}

_FUNCTIONS: dict[str, Spelling | None] = {
    **dict.fromkeys(_MODES, F.interpolate),
    "_unsafe_view": torch.reshape,
    "adaptive_max_pool1d": F.adaptive_max_pool1d_with_indices,
    "adaptive_max_pool2d": F.adaptive_max_pool2d_with_indices,
    "adaptive_max_pool3d": F.adaptive_max_pool3d_with_indices,
    "feature_dropout": F.dropout2d,
    "log_sigmoid": F.logsigmoid,
    "mT": ".mT",
    "numpy_T": ".T",
    "sym_size": "size",
    "unfold": None,  # the tensor's method, not the function of this name
}
_OTHERS = frozenset({_ATEN.to.dtype_layout})
"""Overloads that have no other spelling."""

_FEATURE_DROPOUTS = {3: F.dropout1d, 4: F.dropout2d, 5: F.dropout3d}

_ARGUMENTS: dict[str, Callable[[tuple[Any, ...], dict[str, Any]], Arguments]] = {
    **dict.fromkeys(_MODES, _resampling),
    **dict.fromkeys((f"avg_pool{n}d" for n in (1, 2, 3)), _pooling),
    **dict.fromkeys((f"max_pool{n}d" for n in (1, 2, 3)), _pooling),
    **dict.fromkeys((f"max_pool{n}d_with_indices" for n in (2, 3)), _pooling),
    **dict.fromkeys(("dropout", "feature_dropout", "alpha_dropout"), _dropout),
    "batch_norm": _batch_norm,
    "embedding": _embedding,
    "feature_alpha_dropout": _dropout,
    "instance_norm": _batch_norm,
    "rrelu": _rrelu,
}
