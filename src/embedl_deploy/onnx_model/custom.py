"""TensorRT's own operators that say what ONNX can say too."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from embedl_deploy.onnx_model.dtypes import OWN_PAIR

if TYPE_CHECKING:
    from onnx import ModelProto

_FP8 = {"TRT_FP8QuantizeLinear": "QuantizeLinear", "TRT_FP8DequantizeLinear": "DequantizeLinear"}


def inferred(model: "ModelProto", infer: "Callable[[ModelProto], ModelProto]") -> "ModelProto":
    """A file with shapes, its FP8 pairs of the domain `trt` written as those of ONNX.

    ONNX infers no shape after an operator that it does not know: what it sees are copies.
    """
    from onnx import ModelProto, helper

    own = {node.output[0]: node for node in model.graph.node if node.op_type in _FP8}
    if not own:
        return infer(model)
    plain = ModelProto()
    plain.CopyFrom(model)
    for node in plain.graph.node:
        if node.op_type in _FP8:
            node.op_type, node.domain = "Identity", ""
            del node.input[1:]
    plain = infer(plain)
    for node in plain.graph.node:
        written = own.get(node.output[0]) if node.output else None
        if written is not None:
            node.op_type = _FP8[written.op_type]
            node.input[:] = written.input
            node.attribute.append(helper.make_attribute(OWN_PAIR, 1))
    return plain
