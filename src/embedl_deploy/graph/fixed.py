"""What a graph computes from sizes and stored tensors alone: the same for every input of a size."""

from collections.abc import Mapping
from typing import Literal

from torch import fx, nn

from embedl_deploy.graph.aliases import VIEWS
from embedl_deploy.graph.writes import called

Kind = Literal["size", "stored", "made", "layer"]
"""A size or number; a stored tensor, also moved; what functions compute; what follows a module."""

LAYOUT = VIEWS | {"cat", "clone", "concat", "flip", "repeat", "roll", "stack", "tile"}
"""Functions and methods that only move values."""

_MAKERS = {"arange", "linspace", "logspace", "zeros", "ones", "full", "eye"}
_MADE_BY_INPUTS = {"new_full", "new_ones", "new_zeros"}
"""Makers of which an input gives the type alone."""
_CHANCE = {
    *("bernoulli", "multinomial", "normal", "rand", "rand_like", "randint", "randint_like"),
    *("randn", "randn_like", "randperm"),
}
_FACTS = {"shape", "device", "dtype", "ndim"}


def fixed(
    model: fx.GraphModule, stops: type[nn.Module] | tuple[type[nn.Module], ...] = ()
) -> dict[fx.Node, Kind]:
    """The nodes that follow from sizes and stored tensors alone once the model infers, in order.

    What only moves the values of a stored tensor is still one: half precision rounds it the same.

    Args:
        model: Canonical.
        stops: Modules of which nothing follows, nor of one that holds such.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    closed = {
        path
        for path, module in modules.items()
        if any(isinstance(one, stops) for one in module.modules())
    }
    known: dict[fx.Node, Kind] = {}
    for node in model.graph.nodes:
        if node.op == "call_module" and str(node.target) in closed:
            continue
        kind = _kind(node, known)
        if kind is not None:
            known[node] = kind
    return known


def is_of_sizes(node: fx.Node) -> bool:
    """Whether the size of an input is in a value."""
    pending, seen = [node], {node}
    while pending:
        one = pending.pop()
        if _is_size(one):
            return True
        new = [source for source in one.all_input_nodes if source not in seen]
        pending += new
        seen.update(new)
    return False


def _kind(node: fx.Node, known: Mapping[fx.Node, Kind]) -> Kind | None:
    if _is_size(node):
        return "size"
    if node.op == "get_attr":
        return "stored"
    if node.op in {"placeholder", "output"}:
        return None
    kinds = [known.get(one) for one in _read(node)]
    if None in kinds:  # an input of the model is in it
        return None
    if node.op == "call_module" or "layer" in kinds:
        return "layer" if {"stored", "made", "layer"} & {*kinds} else None
    name = called(node)
    if name in _CHANCE:
        return None
    if name in _MAKERS | _MADE_BY_INPUTS or "made" in kinds:
        return "made"
    if "stored" in kinds:
        return "stored" if name in LAYOUT else "made"
    return "size" if kinds else None


def _read(node: fx.Node) -> list[fx.Node]:
    """What a node reads the values of, and not the type alone."""
    name = called(node) if node.op in {"call_function", "call_method"} else ""
    if name in {"to", "type_as"}:
        return node.all_input_nodes[:1]
    if name not in _MADE_BY_INPUTS:
        return node.all_input_nodes
    return [one for one in node.all_input_nodes if one is not node.args[0]]


def _is_size(node: fx.Node) -> bool:
    if node.op == "call_method":
        return node.target in {"size", "dim"}
    return node.op == "call_function" and node.target is getattr and node.args[1] in _FACTS
