"""Operations that write to memory, and what they compute without writing."""

import inspect
import operator
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from embedl_deploy.errors import CaptureError
from embedl_deploy.graph.proxies import OUT_OF_PLACE

_HARMLESS = frozenset({"and_", "not_", "or_", "requires_grad_"})
_OPERATORS = frozenset(
    {"setitem", "__setitem__"}
    | {one.__name__ for one in OUT_OF_PLACE}
    | {f"__{one.__name__}__" for one in OUT_OF_PLACE}
)


def without_write(node: fx.Node) -> tuple[Any, tuple[Any, ...], dict[str, Any]] | None:
    """Target and arguments of the out-of-place form of an operation; `None` if it does not write.

    Raises:
        CaptureError: The operation writes and has no other form.
    """
    if node.kwargs.get("out") is not None or node.target is operator.setitem:
        raise _no_other_form(node)
    target = _form(node)
    args, kwargs = _without_option(node)
    if (target, args, kwargs) == (node.target, node.args, node.kwargs):
        return None
    return target, args, kwargs


def called(node: fx.Node) -> str:
    """The name of the function or method that a node calls: `item` of `aten.item.default` too."""
    target = getattr(node.target, "overloadpacket", node.target)
    return str(getattr(target, "__name__", target))


def is_write(name: str, kwargs: Mapping[str, Any]) -> bool:
    """Whether a function or method of this name writes to its first argument."""
    if kwargs.get("out") is not None or kwargs.get("inplace") is True or name in _OPERATORS:
        return True
    return name.endswith("_") and not name.endswith("__") and name not in _HARMLESS


def _form(node: fx.Node) -> Any:
    """`clamp_` as `clamp`: torch's in-place forms end in an underscore."""
    if node.op == "call_function" and node.target in OUT_OF_PLACE:
        return OUT_OF_PLACE[node.target]
    name = str(node.target if node.op == "call_method" else getattr(node.target, "__name__", ""))
    if not name.endswith("_") or name.endswith("__") or name in _HARMLESS:
        return node.target
    if node.op == "call_method" and callable(getattr(Tensor, name[:-1], None)):
        return name[:-1]
    for home in (torch, F):
        if node.target is getattr(home, name, None) and hasattr(home, name[:-1]):
            return _member(home, name[:-1])
    raise _no_other_form(node)


def _member(home: ModuleType, name: str) -> Any:
    return getattr(home, name)


def _without_option(node: fx.Node) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments with `inplace=True` taken back."""
    if node.kwargs.get("inplace") is True:
        return node.args, {**node.kwargs, "inplace": False}
    if node.op != "call_function" or True not in node.args:
        return node.args, dict(node.kwargs)
    try:
        names = list(inspect.signature(node.target).parameters)  # type: ignore[arg-type]
    except (TypeError, ValueError):  # a function written in C has no signature
        return node.args, dict(node.kwargs)
    named = zip(names, node.args, strict=False)
    args = tuple(False if name == "inplace" else value for name, value in named)
    return (*args, *node.args[len(args) :]), dict(node.kwargs)


def _no_other_form(node: fx.Node) -> CaptureError:
    name = getattr(node.target, "__name__", node.target)
    return CaptureError(
        f"the operation '{name}' ('{node}') writes to a tensor in a way that has no out-of-place "
        "form here; write the model without it"
    )
