"""Attention: one kernel, or a softmax between two products."""

from collections.abc import Iterator

from embedl_deploy.onnx_model.dtypes import FP8, HALF
from embedl_deploy.onnx_model.graph import Node
from embedl_deploy.onnx_model.view import COPIES, DEQUANTIZE, QUANTIZE
from embedl_deploy.tensorrt.prediction.fusion import Fusion
from embedl_deploy.tensorrt.prediction.plan import Plan
from embedl_deploy.tensorrt.prediction.rule import Basis, Found
from embedl_deploy.tensorrt.prediction.types import named
from embedl_deploy.tensorrt.rules.attention import Attention, attentions
from embedl_deploy.tensorrt.rules.heads import FP8_POSITIONS, HEADS, POSITIONS

_BEHIND = COPIES | {QUANTIZE, DEQUANTIZE, "Cast", "Dropout"}


def _fused(plan: Plan) -> Iterator[Found]:
    for one in attentions(plan.view):
        nodes = _nodes(plan, one)
        if nodes is None or _obstacle(one):
            continue
        quantized = bool(one.quantizers)
        dtype = FP8 if one.is_fp8 else "INT8" if quantized else one.scores.output.dtype
        unknown = None in one.sizes
        reason = "positions or the size of a head are not known" if unknown else ""
        basis = Basis.UNKNOWN if unknown else None
        yield Found(nodes, named(dtype), quantized=quantized, reason=reason, basis=basis)


def _nodes(plan: Plan, one: Attention) -> list[Node] | None:
    """All operators in order; None where one of them is read from outside, or taken."""
    inside = {id(node): node for node in (one.scores, *one.before, one.softmax, one.product)}
    stack = [one.softmax.output]
    while stack:
        for node in stack.pop().users:
            if id(node) not in inside and node.op in _BEHIND:
                inside[id(node)] = node
                stack.extend(node.outputs)
    nodes = [node for node in plan.view.graph if id(node) in inside]
    inner = [node for node in nodes if node is not one.product]
    closed = all(id(user) in inside for node in inner for user in node.output.users)
    free = all(plan.group(node) is None for node in nodes)
    return nodes if closed and free else None


def _obstacle(one: Attention) -> str:
    """Why it is not one kernel; empty where it is."""
    query, key, head = one.sizes
    if other := _other_head(one):
        return other
    if one.quantizers and one.missing:
        return f"it is quantized in part: {', '.join(one.missing)} not"
    if one.is_fp8:
        wrong = head is not None and not 8 < head <= 256
        return f"FP8 attention has heads of {head}" if wrong else _few(one)
    if one.quantizers:
        long = max(query or 0, key or 0)
        if long > POSITIONS:
            return f"INT8 attention has {long} positions"
        return "" if head is None or head in HEADS else f"INT8 attention has heads of {head}"
    if one.scores.output.dtype not in HALF:
        return f"it computes in {named(one.scores.output.dtype) or 'a type that is not known'}"
    if head is not None and (head % 8 or not 16 <= head <= 256):
        return f"it has heads of {head}"
    return ""


def _other_head(one: Attention) -> str:
    head, value = one.sizes[2], one.value_head
    same = head is None or value is None or head == value
    return "" if same else f"heads of the value have {value}, those of the key {head}"


def _few(one: Attention) -> str:
    key = one.sizes[1]
    if not one.is_fp8 or key is None or key >= FP8_POSITIONS:
        return ""
    return f"FP8 attention has {key} positions of the key, and none is fused below {FP8_POSITIONS}"


ATTENTION = Fusion(
    "K01",
    "attention",
    "query by key, softmax and product with the value: in FP16 or BF16 with heads of 16 to 256, "
    "multiples of 8; in INT8 or FP8 where it is quantized completely and within its limits "
    "(P16, P17, P19), in FP8 with 32 positions of the key or more, and with heads of the value as "
    "large as those of the key (compiled). TensorRT may still decline",
    Basis.DOCUMENTED,
    "developer guide of 10.3, quoted in TRT#2981 and TRT#4167; ModelOpt, match_fp8_mha_pattern",
    _fused,
)


def _parts(plan: Plan) -> Iterator[Found]:
    for one in attentions(plan.view):
        if plan.group(one.softmax) is None:
            why = _obstacle(one) or "a value inside it is read from outside"
            dtype = named(one.softmax.output.dtype)
            basis = Basis.COMPILED if why in {_few(one), _other_head(one)} else None
            yield Found([one.softmax], dtype, reason=f"no fused attention: {why}", basis=basis)


SOFTMAX = Fusion(
    "K02",
    "softmax",
    "the softmax of an attention that is not one kernel; its products are kernels of their own",
    Basis.DOCUMENTED,
    "developer guide of 10.3, quoted in TRT#2981 and TRT#4167",
    _parts,
)


def _operator(plan: Plan) -> Iterator[Found]:
    for node in plan.free("Attention"):
        reason = ""
        if any(one.producer and one.producer.op == DEQUANTIZE for one in plan.operands(node)):
            reason = "whether INT8 inputs are taken cannot be seen: the softmax is inside"
        basis = Basis.UNKNOWN if reason else None
        yield Found([node], named(node.output.dtype), reason=reason, basis=basis)


OPERATOR = Fusion(
    "K03",
    "attention",
    "the operator Attention; the build fails where there is no fused kernel for it",
    Basis.DOCUMENTED,
    "TRT_custom_ops.md of onnx-tensorrt (TRT_decomposable)",
    _operator,
)
