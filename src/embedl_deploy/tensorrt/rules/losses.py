"""Why a quantized operator computes in floating point all the same, as TensorRT for RTX does."""

from collections.abc import Iterator
from math import prod

from embedl_deploy.onnx_model.dtypes import FP8, HALF
from embedl_deploy.onnx_model.graph import Node, Value
from embedl_deploy.onnx_model.view import (
    CONVOLUTIONS,
    KEEPING,
    activation_quantizer,
    constant,
    dequantizer,
    is_constant,
    is_quantized_after,
    made_by,
    stored_type,
    weight_quantizer,
)
from embedl_deploy.tensorrt.rules.scales import positive, weight_uses


def scale_loss(node: Node) -> str:
    """Why a weighted operator after two DQ computes in floating point; empty where it does not."""
    weight, activation = weight_quantizer(node), activation_quantizer(node)
    other = dequantizer(node.input(1)) if weight is None else None
    if any(_widened(pair) for pair in (activation, weight, other)):
        return "a half-precision scale is multiplied in FLOAT (output_dtype)"
    for pair in (activation, other):
        shape = _scale_shape(pair)
        if pair is None or pair.attributes.get("block_size") or is_constant(pair.first):
            continue
        if constant(pair.input(1)) is None:
            return "its scale is computed when the network runs"
        if prod(one or 1 for one in shape) > 1 or (shape and node.op in CONVOLUTIONS):
            return f"the scale of its input has the shape {list(shape)}"
    for pool in _poolings(node):
        if activation is not None and stored_type(activation) == FP8:
            return "what it reads is pooled, and FP8 numbers are not"
        if is_quantized_after(pool.output):
            return "what it reads is pooled, and quantized again after the pooling"
    return "" if weight is None else _axis_loss(node, weight)


def _axis_loss(node: Node, weight: Node) -> str:
    if len(shape := _scale_shape(weight)) != 1 or shape == (1,):
        return ""
    if weight.attributes.get("block_size"):
        return ""
    axes = {axis for use, axis in weight_uses(weight) if use is node and axis is not None}
    wrong = axes - {positive(weight.number("axis", 1), weight)}
    return (
        "the scales of its weight go along another axis than its output channels" if wrong else ""
    )


def _widened(pair: Node | None) -> bool:
    if pair is None or (scale := pair.input(1)) is None:
        return False
    return scale.dtype in HALF and pair.output.dtype == "FLOAT"


def _poolings(node: Node) -> Iterator[Node]:
    """Each MaxPool between a DQ and a product."""
    pending: list[Value | None] = [*node.inputs[:2]]
    seen: set[int] = set()
    while pending:
        maker = made_by(pending.pop(), *KEEPING)
        if maker is None or id(maker) in seen:
            continue
        seen.add(id(maker))
        pending.extend(maker.inputs)
        if maker.op == "MaxPool":
            yield maker


def _scale_shape(node: Node | None) -> tuple[int | None, ...]:
    scale = None if node is None else node.input(1)
    return () if scale is None or scale.shape is None else scale.shape
