"""Operators that are kernels by themselves, those that are computed before, and unknown ones."""

from collections.abc import Iterator

from embedl_deploy.onnx_model.dtypes import FP8
from embedl_deploy.onnx_model.graph import Node
from embedl_deploy.onnx_model.view import DEQUANTIZE, POOLS, dequantizer, stored_type
from embedl_deploy.tensorrt.prediction.fusion import Fusion
from embedl_deploy.tensorrt.prediction.macs import multiplies
from embedl_deploy.tensorrt.prediction.plan import Plan
from embedl_deploy.tensorrt.prediction.rule import Basis, Found, is_pair
from embedl_deploy.tensorrt.prediction.types import named, only_quantized
from embedl_deploy.tensorrt.rules.chains import decomposed_norms
from embedl_deploy.tensorrt.rules.formats import REFUSED

_NORMS = (
    "LayerNormalization", "RMSNormalization", "GroupNormalization", "InstanceNormalization",
    "MeanVarianceNormalization", "LpNormalization", "LRN",
)  # fmt: skip


def _constants(plan: Plan) -> Iterator[Found]:
    for node in plan.left:
        fixed = node.outputs and all(plan.is_fixed(one) for one in node.outputs)
        if fixed and not is_pair(node) and not multiplies(node):
            yield Found([node])


CONSTANTS = Fusion(
    "N01",
    "constant",
    "what follows from constants and sizes is no kernel of its own, except products: it is "
    "computed when the engine is built, or, by TensorRT for RTX, in the kernel that reads it; "
    "sizes that are not fixed are computed beside the kernels",
    Basis.ASSUMED,
    "Guide (weights have to be constants when the engine is built)",
    _constants,
    runs=False,
)


def _written_out(plan: Plan) -> Iterator[Found]:
    for norm in decomposed_norms(plan.view):
        nodes = [node for node in norm.nodes if plan.group(node) is None and not is_pair(node)]
        if len(nodes) > 1:
            yield Found(nodes, named(norm.division.output.dtype))


WRITTEN_OUT = Fusion(
    "K09",
    "norm, written out",
    "a layer norm that is written out in single operators: several kernels, how many is not known",
    Basis.UNKNOWN,
    "TRT#4242, TRT#3230",
    _written_out,
)


def _norms(plan: Plan) -> Iterator[Found]:
    return (Found([node], named(node.output.dtype)) for node in plan.free(*_NORMS))


NORM = Fusion(
    "K10",
    "norm",
    "a norm that is one operator",
    Basis.DOCUMENTED,
    "API, INormalizationLayer; TRT#4242",
    _norms,
)


def _pools(plan: Plan) -> Iterator[Found]:
    for node in plan.free("MaxPool", *sorted(POOLS)):
        pair = dequantizer(node.first)
        if pair is not None and stored_type(pair) == FP8:
            basis, why = Basis.COMPILED, "FP8 numbers are pooled in floating point"
            yield Found([node], named(node.output.dtype), reason=why, basis=basis)
        elif pair is not None and (node.op == "MaxPool" or only_quantized(node.output)):
            yield Found([node], named(stored_type(pair)), quantized=True)
        else:
            wasted = "it reads quantized values, and does not give such" if pair else ""
            yield Found([node], named(node.output.dtype), reason=wasted)


POOLING = Fusion(
    "K11",
    "pooling",
    "pooling: between DQ and Q on INT8 values; max pooling commutes with both",
    Basis.DOCUMENTED,
    "Guide, recommendation 5; Guide, Q/DQ propagation",
    _pools,
)


def _casts(plan: Plan) -> Iterator[Found]:
    for node in plan.free("Cast", "CastLike"):
        before, after = named(node.first.dtype), named(node.output.dtype)
        yield Found([node], after, reason=f"from {before or 'a type that is not known'}")


CAST = Fusion(
    "K17",
    "cast",
    "a cast of values that are no constants, which other kernels may fuse",
    Basis.UNKNOWN,
    "TRT#1699 and ModelOpt, torch_onnx.py, say only that it splits fusions",
    _casts,
)


def _refused(plan: Plan) -> Iterator[Found]:
    for node in plan.left:
        if node.op in REFUSED or (is_pair(node) and node.op == DEQUANTIZE and _is_bias(node)):
            yield Found([node])


def _is_bias(node: Node) -> bool:
    return node.first.dtype in {"INT16", "INT32"}


REFUSED_ONE = Fusion(
    "N02",
    "refused",
    "what the parser does not take, so that no engine is built: operators on integers, and DQ of "
    "INT32, which is how some tools write biases",
    Basis.DOCUMENTED,
    "operators.md of onnx-tensorrt (11.1); OTT#850",
    _refused,
    runs=False,
)


def _others(plan: Plan) -> Iterator[Found]:
    for node in plan.left:
        if not is_pair(node):
            domain = f"the domain '{node.domain}' needs a plugin" if node.domain else ""
            yield Found([node], named(node.output.dtype), reason=domain)


OTHER = Fusion(
    "K18",
    "other",
    "any other operator, by itself",
    Basis.UNKNOWN,
    "what it fuses with is not in what was read",
    _others,
)
