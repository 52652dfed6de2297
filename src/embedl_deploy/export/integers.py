"""Floating-point numbers that a model computes from integers, such as masks and given positions.

Half precision counts to 2048 only, and PyTorch makes float32 of an integer and a number, whatever
type the rest has.
"""

from collections.abc import Collection

import torch
from torch import Tensor, fx

from embedl_deploy.graph.shapes import value
from embedl_deploy.graph.writes import called

_ANGLES = {"cos", "sin"}
_DIVISIONS = {"floor_divide", "floordiv"}
_CASTS = {"to", "float", "type_as", "_to_copy"}


def from_integers(model: fx.GraphModule, constants: Collection[fx.Node]) -> list[fx.Node]:
    """Calls that make floating-point numbers of integers, and all that leads to an angle's sine.

    A cast that the model asks for itself is none. Values of nodes have to be known.

    Args:
        model: The model.
        constants: Nodes whose values are the same for all inputs.
    """
    made: set[fx.Node] = set()
    found: dict[fx.Node, None] = {}
    for node in model.graph.nodes:
        floating = [one for one in node.all_input_nodes if _is_floating(one)]
        if node.op not in {"call_function", "call_method"} or not _is_floating(node):
            continue
        if any(one not in made and one not in constants for one in floating):
            continue
        if not floating and any(map(_is_integer, node.all_input_nodes)):
            found |= {} if called(node) in _CASTS else {node: None}
            made.add(node)
        elif any(one in made for one in floating):
            made.add(node)
    pending = [node for node in made if called(node) in _ANGLES]
    while pending:
        node = pending.pop()
        found[node] = None
        pending += [one for one in node.all_input_nodes if one in made and one not in found]
    return [*found]


def cast_integers(model: fx.GraphModule) -> None:
    """Write out what `torch.onnx` (2.13) cannot promote itself: `2.5 - count`, `7 // count`."""
    for node in model.graph.nodes:
        if called(node) not in {"sub", *_DIVISIONS}:
            continue
        integers = [one for one in node.all_input_nodes if _is_integer(one)]
        for one in integers if _is_floating(node) else ():
            with model.graph.inserting_before(node):
                cast = model.graph.call_function(torch.Tensor.to, (one, value(node).dtype))
            node.replace_input_with(one, cast)
        if called(node) in _DIVISIONS and isinstance(node.args[0], int | float):
            path = f"{node.name}_number"
            model.register_buffer(path, torch.tensor(node.args[0], dtype=value(node).dtype))
            with model.graph.inserting_before(node):
                node.args = (model.graph.get_attr(path), *node.args[1:])
    model.recompile()


def _is_floating(node: fx.Node) -> bool:
    known = value(node)
    return isinstance(known, Tensor) and known.is_floating_point()


def _is_integer(node: fx.Node) -> bool:
    known = value(node)
    return isinstance(known, Tensor) and not known.is_floating_point()
