"""What follows from constants alone is computed at export, where that makes the file no larger.

An attention whose bias is computed in the file, though from constants, is not one kernel.
"""

from collections.abc import Iterable, Iterator
from math import prod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_ir

_KEPT = frozenset({"Constant", "QuantizeLinear", "DequantizeLinear", "If", "Loop", "Scan"}) | {
    "RandomNormal",
    "RandomUniform",
    "RandomNormalLike",
    "RandomUniformLike",
    "Bernoulli",
    "Multinomial",
}
_SLACK = 1024
"""Bytes that a value may have more than what it follows from."""


def fold_constants(model: "onnx_ir.Model") -> None:
    """Compute the values of operators that read constants alone.

    Where a result is larger than all that it follows from, as after `Expand` or `Tile`, its last
    operators stay.
    """
    from onnx_ir.passes.common import RemoveUnusedNodesPass
    from onnxscript import optimizer

    folded = {id(node) for node in _worth(model.graph)}
    if not folded:
        return
    optimizer.fold_constants(
        model,
        onnx_shape_inference=False,
        should_fold=lambda node: id(node) in folded,
        input_size_limit=0,
        output_size_limit=1 << 40,
    )
    RemoveUnusedNodesPass()(model)


def _worth(graph: "onnx_ir.Graph") -> "Iterator[onnx_ir.Node]":
    """The operators to compute."""
    constant: dict[int, onnx_ir.Node] = {}
    for node in graph:
        if _is_foldable(node) and all(_known(one, constant) for one in node.inputs):
            constant[id(node)] = node
    ends = [node for node in constant.values() if not _feeds_only(node, constant)]
    while ends:
        node = ends.pop()
        above = _above(node, constant)
        if _bytes(node.outputs) <= _freed(node, constant) + _SLACK:
            yield from above.values()
        else:
            ends += [constant[id(one)] for one in node.predecessors() if id(one) in constant]


def _is_foldable(node: "onnx_ir.Node") -> bool:
    known = all(value.shape is not None and value.shape.is_static() for value in node.outputs)
    typed = all(value.dtype is not None for value in node.outputs)
    return not node.domain and node.op_type not in _KEPT and bool(node.inputs) and known and typed


def _known(value: "onnx_ir.Value | None", constant: "dict[int, onnx_ir.Node]") -> bool:
    if value is None:
        return True
    maker = value.producer()
    return value.const_value is not None if maker is None else id(maker) in constant


def _feeds_only(node: "onnx_ir.Node", constant: "dict[int, onnx_ir.Node]") -> bool:
    """Whether constant operators alone read it."""
    return not any(value.is_graph_output() for value in node.outputs) and all(
        id(one) in constant for one in node.successors()
    )


def _above(node: "onnx_ir.Node", constant: "dict[int, onnx_ir.Node]") -> "dict[int, onnx_ir.Node]":
    """The constant operators that an operator follows from, and itself."""
    found, stack = {id(node): node}, [node]
    while stack:
        for one in stack.pop().predecessors():
            if id(one) in constant and id(one) not in found:
                found[id(one)] = one
                stack.append(one)
    return found


def _freed(node: "onnx_ir.Node", constant: "dict[int, onnx_ir.Node]") -> int:
    """Bytes of the constants that no one reads any more once a node is computed."""
    above = _above(node, constant)
    for one in list(above.values()):
        if one is not node and not _feeds_only(one, above):
            above = {key: kept for key, kept in above.items() if key not in _above(one, constant)}
    read = {id(value): value for one in above.values() for value in one.inputs if value is not None}
    return _bytes(
        value
        for value in read.values()
        if value.producer() is None and all(id(use.node) in above for use in value.uses())
    )


def _bytes(values: "Iterable[onnx_ir.Value]") -> int:
    return sum(map(_size, values))


def _size(value: "onnx_ir.Value") -> int:
    if value.const_value is not None:
        return value.const_value.nbytes
    assert value.shape is not None  # noqa: S101 - a foldable operator has it, and the type
    assert value.dtype is not None  # noqa: S101
    return int(prod(value.shape.numpy()) * value.dtype.itemsize)
