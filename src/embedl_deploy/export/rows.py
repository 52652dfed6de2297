"""Operators of one dimension, as rows of a matrix."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_ir

_OPS = frozenset({"ArgMax", "ArgMin", "Softmax", "LogSoftmax"})


def as_rows(model: "onnx_ir.Model") -> None:
    """Give an operator of n values a matrix of (1, n), and take the dimension off its result."""
    import onnx_ir

    for node in list(model.graph):
        value = node.inputs[0] if node.op_type in _OPS and not node.domain else None
        if value is None or value.shape is None or len(value.shape) != 1:
            continue
        axes = onnx_ir.node("Constant", [], {"value_ints": [0]})
        row = onnx_ir.node("Unsqueeze", [value, axes.outputs[0]])
        node.replace_input_with(0, row.outputs[0])
        node.attributes["axis"] = onnx_ir.AttrInt64("axis", 1)
        made = node.outputs[0]
        taken = onnx_ir.node("Squeeze", [made, axes.outputs[0]])
        _take_place(model.graph, made, taken.outputs[0])
        taken.replace_input_with(0, made)
        made.shape = None
        model.graph.insert_before(node, [axes, row])
        model.graph.insert_after(node, taken)


def _take_place(graph: "onnx_ir.Graph", old: "onnx_ir.Value", new: "onnx_ir.Value") -> None:
    for index, one in enumerate(graph.outputs):
        if one is old:
            graph.outputs[index] = new
    old.replace_all_uses_with(new)
    new.shape, new.type = old.shape, old.type
    old.name, new.name = None, old.name
