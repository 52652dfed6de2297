"""Weights in blocks: 4-bit tensors, laid out as they are multiplied."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnx_ir


def pack(model: "onnx_ir.Model") -> None:
    """Store weights in blocks as INT4, transposed where the product reads them so.

    Then nothing is between `DequantizeLinear` and `MatMul`.
    """
    for node in list(model.graph):
        if node.op_type == "DequantizeLinear" and "block_size" in node.attributes:
            _pack(model.graph, node)


def _pack(graph: "onnx_ir.Graph", dequantize: "onnx_ir.Node") -> None:
    import ml_dtypes
    import onnx_ir

    transpose = _transpose_after(dequantize)
    if transpose is not None:
        dequantize.attributes["axis"] = onnx_ir.AttrInt64("axis", 0)
        transpose.outputs[0].replace_all_uses_with(dequantize.outputs[0])
        graph.remove(transpose, safe=True)
    weight, scale = dequantize.inputs
    _store(weight, transposed=transpose is not None, dtype=ml_dtypes.int4)
    _store(scale, transposed=transpose is not None)


def _transpose_after(dequantize: "onnx_ir.Node") -> "onnx_ir.Node | None":
    """What transposes a weight, where nothing else reads it."""
    readers = [use.node for use in dequantize.outputs[0].uses()]
    return readers[0] if [one.op_type for one in readers] == ["Transpose"] else None


def _store(value: Any, *, transposed: bool, dtype: Any = None) -> None:
    import numpy as np
    import onnx_ir

    array = value.const_value.numpy()
    array = np.ascontiguousarray(array.T) if transposed else array
    tensor = onnx_ir.Tensor(array if dtype is None else array.astype(dtype), name=value.name)
    value.const_value, value.dtype, value.shape = tensor, tensor.dtype, tensor.shape
