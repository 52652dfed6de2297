"""What follows from sizes alone, such as grids of positions and their encodings."""

from typing import Any

from torch import fx

_MAKERS = {"arange", "linspace", "zeros", "ones", "full"}
_FACTS = {"shape", "device", "dtype", "ndim"}


def from_sizes(model: fx.GraphModule) -> list[fx.Node]:
    """Functions that compute tensors without any parameter or activation.

    They are the same for every input of a size. Half precision would round each of their steps,
    and has no odd number above 2048 to count with.
    """
    sizes: set[fx.Node] = set()
    made: dict[fx.Node, None] = {}
    for node in model.graph.nodes:
        if _is_size(node):
            sizes.add(node)
        elif node.op in {"call_function", "call_method"}:
            inputs = node.all_input_nodes
            if not all(one in sizes or one in made for one in inputs):
                continue
            if _name(node.target) in _MAKERS or any(one in made for one in inputs):
                made[node] = None
            elif inputs:
                sizes.add(node)
    return [*made]


def _name(target: Any) -> str:
    """`arange` of `torch.arange` and of `aten.arange.default`."""
    return str(getattr(getattr(target, "overloadpacket", target), "__name__", target))


def _is_size(node: fx.Node) -> bool:
    if node.op == "call_method":
        return node.target in {"size", "dim"}
    return node.op == "call_function" and node.target is getattr and node.args[1] in _FACTS
