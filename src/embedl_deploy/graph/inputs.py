"""Inputs of an exported graph: one for each argument of the model, containers among them.

`torch.export` flattens containers, such as a dictionary of tensors, into one input for each
tensor. Here the model's own argument is back, and its items are read from it.
"""

import operator
from collections.abc import Iterator, Sequence
from typing import Any

from torch import fx
from torch.utils import _pytree as pytree

from embedl_deploy.errors import CaptureError


def read_inputs(graph: fx.Graph, nodes: Sequence[fx.Node], spec: Any) -> list[fx.Node]:
    """What each flat input of an exported program is in `graph`, which gets the arguments.

    Args:
        graph: An empty graph.
        nodes: The flat inputs.
        spec: How they make up the arguments: positional ones, and those by name.

    Raises:
        CaptureError: An argument is a container of a kind of its own.
    """
    rest = iter(nodes)
    taken = [list(zip(_leaves(child), rest)) for child in _arguments(spec)]  # noqa: B905 - leaves end first
    arguments = [_argument(graph, leaves) for leaves in taken]
    return [
        _item(graph, argument, keys, node)
        for argument, leaves in zip(arguments, taken, strict=True)
        for keys, node in leaves
    ]


def _arguments(spec: Any) -> Iterator[Any]:
    for side in _children(spec):
        yield from _children(side)


def _children(spec: Any) -> Any:
    return spec.children() if hasattr(spec, "children") else spec.children_specs  # torch 2.8


def _leaves(spec: Any) -> list[tuple[Any, ...]]:
    """How to get from an argument to each value in it: the keys, one after the other."""
    tree = pytree.tree_unflatten(range(spec.num_leaves), spec)
    return [keys for keys, _ in pytree.tree_flatten_with_path(tree)[0]]


def _argument(graph: fx.Graph, leaves: list[tuple[tuple[Any, ...], fx.Node]]) -> fx.Node | None:
    """An input of the graph for an argument with these leaves; `None` if it is empty."""
    if not leaves:
        return None
    (keys, first), *_ = leaves
    if not keys:
        return graph.node_copy(first)
    words = first.name.split("_")
    name = "_".join(words[: len(words) - sum(len(_word(key).split("_")) for key in keys)])
    return graph.placeholder(name or first.name)


def _word(key: Any) -> str:
    return str(getattr(key, "idx", getattr(key, "key", getattr(key, "name", ""))))


def _item(graph: fx.Graph, argument: fx.Node | None, keys: Any, node: fx.Node) -> fx.Node:
    value = argument
    for key in keys:
        match key:
            case pytree.SequenceKey(idx=index):
                value = graph.call_function(operator.getitem, (value, index))
            case pytree.MappingKey(key=name):
                value = graph.call_function(operator.getitem, (value, name))
            case pytree.GetAttrKey(name=name):
                value = graph.call_function(getattr, (value, name))
            case _:
                raise CaptureError(
                    f"the input {node.name!r} is in a container that cannot be read; write a "
                    "wrapper whose forward() takes its tensors one by one"
                )
        value.meta = dict(node.meta)
    assert value is not None  # noqa: S101 - an argument without leaves has no items
    return value
