"""What a graph says of its shapes by itself, without example inputs.

A fact is a shape with `None` for each size that is not known. Facts are looked up backwards
from the value in question, so only what somebody asks for is worked out.
"""

import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import fx, nn

from embedl_deploy.graph.shapes import shape

Fact = tuple[int | None, ...] | None


class Facts:
    """Facts of the values of one graph, each worked out once.

    Args:
        objects: The modules and tensors that the graph's targets name.
    """

    def __init__(self, objects: Mapping[str, Any]) -> None:
        self._objects = objects
        self._known: dict[fx.Node, Fact] = {}

    def of(self, node: fx.Node) -> Fact:
        """The shape of a node's value as far as it is known."""
        pending = [node]
        while pending:
            current = pending[-1]
            source = self._source(current)
            if source is not None and source not in self._known:
                pending.append(source)
                continue
            self._known[current] = self._work_out(current, source)
            pending.pop()
        return self._known[node]

    def _source(self, node: fx.Node) -> fx.Node | None:
        """The input that a node's shape follows from, if it does."""
        if shape(node) is not None or node.op not in {"call_module", "call_function"}:
            return None
        if node.op == "call_function" and node.target not in _FUNCTIONS:
            return None
        return next(iter(node.all_input_nodes), None)

    def _work_out(self, node: fx.Node, source: fx.Node | None) -> Fact:
        if (known := shape(node)) is not None:
            return known
        before = self._known.get(source) if source is not None else None
        if node.op == "call_function" and node.target in _FUNCTIONS:
            return _FUNCTIONS[node.target](before, node.args)
        if node.op == "call_module":
            return _module(self._objects[str(node.target)], before)
        return None


def _module(module: nn.Module, before: Fact) -> Fact:
    match module:
        case nn.Conv2d() | nn.ConvTranspose2d():
            return (_size(before, 0), module.out_channels, None, None)
        case nn.BatchNorm2d():
            return (_size(before, 0), module.num_features, _size(before, 2), _size(before, 3))
        case nn.AdaptiveAvgPool2d() | nn.AdaptiveMaxPool2d():
            output = module.output_size
            height, width = output if isinstance(output, tuple) else (output, output)
            return (_size(before, 0), _size(before, 1), height, width)
        case nn.MaxPool2d() | nn.AvgPool2d():
            return (_size(before, 0), _size(before, 1), None, None)
        case nn.Linear():
            return None if before is None else (*before[:-1], module.out_features)
    return before if isinstance(module, _SAME_SHAPE) else None


_SAME_SHAPE = (
    nn.LayerNorm,
    nn.modules.dropout._DropoutNd,  # noqa: SLF001 - the base of all dropouts
    nn.ReLU,
    nn.Hardtanh,
    nn.LeakyReLU,
    nn.PReLU,
    nn.ELU,
    nn.GELU,
    nn.SiLU,
    nn.Hardswish,
    nn.Hardsigmoid,
    nn.Sigmoid,
    nn.Tanh,
    nn.Softmax,
)


def _size(before: Fact, index: int) -> int | None:
    return before[index] if before is not None and len(before) == 4 else None


def _permute(before: Fact, args: tuple[Any, ...]) -> Fact:
    order = args[1]
    return None if before is None else tuple(before[index] for index in order)


def _same(before: Fact, args: tuple[Any, ...]) -> Fact:
    """Arithmetic between two tensors may broadcast: only with a number is the shape kept."""
    return before if isinstance(args[1], int | float) else None


_FUNCTIONS: dict[Any, Callable[[Fact, tuple[Any, ...]], Fact]] = {
    torch.permute: _permute,
    operator.add: _same,
    operator.mul: _same,
    operator.sub: _same,
    operator.truediv: _same,
}
