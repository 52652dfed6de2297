"""What a traced node and a module say of themselves."""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from embedl_deploy.graph.paths import join, parent
from embedl_deploy.graph.tracer import is_hooked


def sizes_of(node: fx.Node) -> Any:
    """The tensor whose sizes a traced node is, if it is sizes."""
    if node.target is getattr and node.args[1] == "shape":
        return node.args[0]
    return node.args[0] if node.target == "size" and len(node.args) == 1 else None


def is_unbound(node: object) -> bool:
    """Whether a value is the items of a tensor's first dimension."""
    return isinstance(node, fx.Node) and node.target is torch.unbind and node.args[1:] == (0,)


def scope(node: fx.Node) -> str:
    """Path of the module whose `forward` made the node."""
    if "scope" in node.meta:
        return str(node.meta["scope"])
    stack = node.meta.get("nn_module_stack")
    if not stack:
        return ""
    path = str(next(reversed(stack.values()))[0])
    return parent(path) if node.op == "call_module" and path == node.target else path


def positional(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A module's arguments by position as far as they go: `conv(input=x)` as `conv(x)`."""
    if not kwargs or is_hooked(module):
        return args, kwargs
    try:
        bound = inspect.signature(module.forward).bind(*args, **kwargs)
    except TypeError:
        return args, kwargs
    return bound.args, bound.kwargs


def is_batch_count(node: fx.Node, modules: Mapping[str, nn.Module]) -> bool:
    """Whether a subclass of a batch norm counts its batches; the plain class does so itself."""
    counter = node.args[0] if node.args else None
    if node.target != "add_" or not isinstance(counter, fx.Node) or counter.op != "get_attr":
        return False
    path, _, leaf = str(counter.target).rpartition(".")
    return leaf == "num_batches_tracked" and isinstance(modules.get(path), _BatchNorm)


def weight_stem(weight: object) -> str:
    """Where the module of a weight belongs: `a.b.weight` in `a.b`, `a.in_weight` in `a.in`."""
    if not isinstance(weight, fx.Node) or weight.op != "get_attr":
        return ""
    path, _, leaf = str(weight.target).rpartition(".")
    if leaf == "weight":
        return path or "weight_op"
    return join(path, leaf.removesuffix("_weight"))


def attribute(root: nn.Module, path: str) -> Any:
    """The tensor of a model at a path."""
    owner, _, leaf = path.rpartition(".")
    return getattr(root.get_submodule(owner), leaf)


def has_state(module: nn.Module) -> bool:
    """Whether a module has parameters or buffers."""
    return next(module.parameters(), None) is not None or next(module.buffers(), None) is not None


def as_base(module: nn.Module, base: type[nn.Module]) -> nn.Module:
    """The same module under the class it computes as."""
    plain = base.__new__(base)
    plain.__dict__ = module.__dict__
    return plain


def same(one: nn.Module, other: nn.Module) -> bool:
    """Whether two raised modules have the same parameters and options."""
    if type(one) is not type(other) or one.extra_repr() != other.extra_repr():
        return False
    mine, its = ([id(tensor) for tensor in module.parameters()] for module in (one, other))
    return bool(mine) and mine == its
