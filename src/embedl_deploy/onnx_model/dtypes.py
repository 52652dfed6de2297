"""Types of values as TensorRT sees them.

ONNX's own inference takes every output of `DequantizeLinear` before opset 19 for float32, and
stops at operators it does not know. TensorRT takes the type of the scale.
"""

from embedl_deploy.onnx_model.graph import Graph, Node

HALF = frozenset({"FLOAT16", "BFLOAT16"})
FLOATS = HALF | {"FLOAT", "DOUBLE"}
FP8 = "FLOAT8E4M3FN"
FP4 = "FLOAT4E2M1"
QUANTIZED = frozenset({"INT8", FP8, "INT4", FP4})
BLOCKED = QUANTIZED - {"INT8"}

OWN_PAIR = "own_pair"
"""An attribute of Q/DQ to FP8 that are written as TensorRT's own, without a zero-point."""

OWN = frozenset(
    {"Constant", "ConstantOfShape", "EyeLike", "If", "Loop", "Scan", "Range"}
    | {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli"}
    | {"Multinomial", "SequenceAt", "Optional", "OptionalGetElement", "BlackmanWindow"}
    | {"HannWindow", "HammingWindow", "DynamicQuantizeLinear"}
)
"""Operators whose outputs need not have the type of their inputs."""


def infer_types(graph: Graph) -> None:
    """Give values the types that TensorRT gives them."""
    names = _names()
    for node in graph:
        if not node.outputs:
            continue
        if node.op in {"Cast", "QuantizeLinear", "DequantizeLinear"}:
            node.output.dtype = _said(node, names) or node.output.dtype
        elif node.op == "CastLike":
            like = node.input(1)
            node.output.dtype = like.dtype if like else ""
        elif node.op not in OWN:
            _follow(node)


def _said(node: Node, names: dict[int, str]) -> str:
    key = "to" if node.op == "Cast" else "output_dtype"
    said = names.get(node.number(key, 0), "")
    if said:
        return said
    if node.op == "QuantizeLinear" and OWN_PAIR in node.attributes:
        return FP8
    if node.op == "QuantizeLinear":
        zero_point = node.input(2)
        return zero_point.dtype if zero_point else "UINT8"
    scale = node.input(1)
    return scale.dtype if scale else ""


def _follow(node: Node) -> None:
    """A float stays the type of the first float that goes in."""
    if node.output.dtype and node.output.dtype not in FLOATS:
        return
    dtype = next((one.dtype for one in node.inputs if one and one.dtype in FLOATS), "")
    if dtype:
        node.output.dtype = dtype


def _names() -> dict[int, str]:
    from onnx import TensorProto

    return {one.number: one.name for one in TensorProto.DataType.DESCRIPTOR.values if one.number}
