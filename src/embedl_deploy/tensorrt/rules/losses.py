"""Why a quantized operator computes in floating point all the same, as TensorRT for RTX does."""

from math import prod

from embedl_deploy.onnx_model.graph import Node
from embedl_deploy.onnx_model.view import (
    COMMUTING,
    CONVOLUTIONS,
    activation_quantizer,
    constant,
    dequantizer,
    is_constant,
    is_quantized_after,
    made_by,
    weight_quantizer,
)
from embedl_deploy.tensorrt.rules.scales import positive, weight_uses


def scale_loss(node: Node) -> str:
    """Why a weighted operator after two DQ computes in floating point; empty where it does not."""
    weight, activation = weight_quantizer(node), activation_quantizer(node)
    for pair in (activation, None if weight is not None else dequantizer(node.input(1))):
        shape = _scale_shape(pair)
        if pair is None or pair.attributes.get("block_size") or is_constant(pair.first):
            continue
        if constant(pair.input(1)) is None:
            return "its scale is computed when the network runs"
        if prod(one or 1 for one in shape) > 1 or (shape and node.op in CONVOLUTIONS):
            return f"the scale of its input has the shape {list(shape)}"
    if _quantized_again(node):
        return "what it reads is pooled, and quantized again after the pooling"
    if weight is None or len(_scale_shape(weight)) != 1 or _scale_shape(weight) == (1,):
        return ""
    if weight.attributes.get("block_size"):
        return ""
    axes = {axis for use, axis in weight_uses(weight) if use is node and axis is not None}
    wrong = axes - {positive(weight.number("axis", 1), weight)}
    return (
        "the scales of its weight go along another axis than its output channels" if wrong else ""
    )


def _quantized_again(node: Node) -> bool:
    """Whether a MaxPool between a DQ and a product has a Q after it too."""
    value = node.first
    while (maker := made_by(value, *COMMUTING)) is not None:
        if maker.op == "MaxPool" and is_quantized_after(maker.output):
            return True
        value = maker.first
    return False


def _scale_shape(node: Node | None) -> tuple[int | None, ...]:
    scale = None if node is None else node.input(1)
    return () if scale is None or scale.shape is None else scale.shape
