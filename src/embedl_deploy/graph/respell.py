"""ATen operations in the spelling of the operations table."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx

from embedl_deploy.graph.ops import TABLE
from embedl_deploy.graph.rows import Spelling

Arguments = tuple[tuple[Any, ...], dict[str, Any]]


def respell(node: fx.Node) -> None:
    """Give an ATen call the spelling that the operations table has for it, if it has one.

    Most ATen operations take the arguments of the function of the same name in `torch` or
    `torch.nn.functional`; those that do not are in `_ARGUMENTS`.
    """
    spelling = spelling_of(node.target)
    if spelling is None:
        return
    adapt = _ARGUMENTS.get(_name(node.target).removesuffix("_"))
    if adapt is not None:
        node.args, node.kwargs = adapt(node.args, node.kwargs)
    if isinstance(spelling, str):
        node.op = "call_method"
    node.target = spelling


def _name(target: Any) -> str:
    """`add_` of `aten.add_.Tensor`."""
    name: str = target.__name__.partition(".")[0]
    return name


def spelling_of(target: Any) -> Spelling | None:
    """The spelling that the operations table has for an ATen operation."""
    name = _name(target)
    candidates = (getattr(torch, name, None), getattr(F, name, None), name)
    return next((one for one in candidates if one is not None and TABLE.find(one)), None)


def _pooling(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments:
    """An empty stride is the kernel size."""
    if len(args) > 2 and not args[2]:
        args = (*args[:2], None, *args[3:])
    return args, kwargs


def _dropout(args: tuple[Any, ...], _: dict[str, Any]) -> Arguments:
    return args[:2], {"training": args[2]}


def _batch_norm(args: tuple[Any, ...], _: dict[str, Any]) -> Arguments:
    input_, weight, bias, mean, variance, training, momentum, eps, *_rest = args
    return (input_, mean, variance, weight, bias, training, momentum, eps), {}


_ARGUMENTS: dict[str, Callable[[tuple[Any, ...], dict[str, Any]], Arguments]] = {
    "avg_pool2d": _pooling,
    "batch_norm": _batch_norm,
    "dropout": _dropout,
    "max_pool2d": _pooling,
}
