"""In which type operators compute, and whether what they give is quantized."""

from embedl_deploy.onnx_model.graph import Node, Value
from embedl_deploy.onnx_model.view import (
    COMMUTING,
    QUANTIZE,
    activation_quantizer,
    is_quantized,
    reached,
    stored_type,
)
from embedl_deploy.tensorrt.prediction.plan import Plan
from embedl_deploy.tensorrt.rules.losses import scale_loss

NAMES = {
    "FLOAT": "FP32",
    "FLOAT16": "FP16",
    "BFLOAT16": "BF16",
    "DOUBLE": "FP64",
    "FLOAT8E4M3FN": "FP8",
    "FLOAT4E2M1": "FP4",
}
"""How TensorRT calls the types of ONNX, where another name is usual."""


def named(dtype: str) -> str:
    """The usual name of a type of ONNX."""
    return NAMES.get(dtype, dtype)


def compute_type(node: Node) -> str:
    """What a weighted operator computes in."""
    found = activation_quantizer(node) if is_quantized(node) else None
    return named(node.output.dtype if found is None else stored_type(found))


def predicted(plan: Plan, node: Node) -> tuple[str, str]:
    """What a weighted operator is expected to compute in, and why that is not what is stored."""
    loss = scale_loss(node) if is_quantized(node) else ""
    if not loss and id(node) in plan.of_one_query:
        loss = "an attention of one query reads it, which TensorRT for RTX computes with it"
    return (named(node.output.dtype) if loss else compute_type(node)), loss


def only_quantized(value: Value, through: frozenset[str] = COMMUTING) -> bool:
    """Whether Q alone reads a value, after operators that Q moves across."""
    readers = list(reached(value, through))
    return bool(readers) and all(one is not None and one.op == QUANTIZE for one in readers)
