"""What looks like attention and is none."""

import operator
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import fx, nn

from embedl_deploy.graph.writes import called

_STEPS = 8
"""How far a softmax is looked for from a product, and the next product from the softmax."""

_Next = Callable[[fx.Node], Iterable[fx.Node]]


def around_softmax(product: fx.Node, objects: Mapping[str, Any]) -> tuple[str, ...] | None:
    """The operations around a softmax between a product and another one; `None` without one.

    Args:
        product: A node, which may be a product of two computed tensors.
        objects: The modules that the graph's targets name.
    """
    if not _is_product(product):
        return None

    def is_softmax(node: fx.Node) -> bool:
        return node.op == "call_module" and isinstance(objects.get(str(node.target)), nn.Softmax)

    ways: tuple[_Next, ...] = (lambda node: node.users, lambda node: node.all_input_nodes)
    for way in ways:
        first = _path(product, way, is_softmax)
        second = first and _path(first[-1], way, _is_product)
        if first and second:
            names = [_name(one, objects) for one in (*first[:-1], *second[:-1])]
            return tuple(dict.fromkeys(names if way is ways[0] else reversed(names)))
    return None


def _is_product(node: fx.Node) -> bool:
    return node.target is operator.matmul


def _path(start: fx.Node, way: _Next, ends: Callable[[fx.Node], bool]) -> list[fx.Node]:
    """The shortest path from `start`, without it, to a node where it ends; empty without one."""
    seen, paths = {start}, [[start]]
    for path in paths:
        for node in way(path[-1]):
            if ends(node):
                return [*path[1:], node]
            if node not in seen and len(path) < _STEPS and not _is_product(node):
                seen.add(node)
                paths.append([*path, node])
    return []


def _name(node: fx.Node, objects: Mapping[str, Any]) -> str:
    return type(objects[str(node.target)]).__name__ if node.op == "call_module" else called(node)
