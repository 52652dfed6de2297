"""Kernels that others take in: Q, copies, pointwise operators and norms."""

from collections.abc import Iterator

from embedl_deploy.onnx_model.graph import Node, Value
from embedl_deploy.tensorrt.prediction.attention import ATTENTION
from embedl_deploy.tensorrt.prediction.copies import CONCAT, MOVE, SHUFFLE
from embedl_deploy.tensorrt.prediction.fusion import Fusion
from embedl_deploy.tensorrt.prediction.plan import Plan
from embedl_deploy.tensorrt.prediction.pointwise import FLOAT, QUANTIZED
from embedl_deploy.tensorrt.prediction.quantizers import DEQUANTIZER, QUANTIZER
from embedl_deploy.tensorrt.prediction.rule import Basis, Claim, Found, Group, is_pair
from embedl_deploy.tensorrt.prediction.simple import CAST, NORM

_SEEN = "TensorRT for RTX 1.7, whose layers name the operators (seen)"
_COPIES: tuple[Claim, ...] = (CONCAT, SHUFFLE, MOVE)
_COMPUTING: tuple[Claim, ...] = (NORM, QUANTIZED, FLOAT, CAST, DEQUANTIZER)
"""What computes most is what a kernel is called after."""

_LIGHT = (*_COPIES, *_COMPUTING)


def _of(plan: Plan, *rules: Claim) -> list[Group]:
    """Groups of some rules, in the order of the file."""
    found = (one for one in plan.groups if one.rule in rules)
    return sorted(found, key=lambda one: plan.place(one.nodes[0]))


def _readers(plan: Plan, group: Group) -> Iterator[Group]:
    """Kernels that read what a group gives, also after views, in the order of the file."""
    found: dict[int, Group] = {}
    stack = [value for node in group.nodes for value in node.outputs]
    while stack:
        for node in stack.pop().users:
            reader = plan.group(node)
            if reader is None or reader is group or plan.place(node) in found:
                continue
            if reader.rule.runs:
                found[plan.place(node)] = reader
            else:
                stack.extend(node.outputs)
    return (found[place] for place in sorted(found))


def _maker(plan: Plan, value: Value) -> tuple[Node, Group] | None:
    """What makes a value, before views, and its kernel."""
    while (node := value.producer) is not None:
        group = plan.group(node)
        if group is None:
            return None
        if group.rule.runs:
            return node, group
        value = node.first
    return None


def _quantizers(plan: Plan) -> Iterator[Found]:
    for group in _of(plan, QUANTIZER):
        made = _maker(plan, group.nodes[0].first)
        if made is not None and made[1].rule in _LIGHT:
            yield Found(group.nodes, into=made[1])


QUANTIZED_AFTER = Fusion(
    "Q04",
    "",
    "Q after a norm, a pointwise operator or a copy in floating point",
    Basis.COMPILED,
    _SEEN,
    _quantizers,
)


def _copies(plan: Plan) -> Iterator[Found]:
    for group in reversed(_of(plan, *_COPIES)):
        reader = next((one for one in _readers(plan, group) if one.rule in _LIGHT), None)
        if reader is not None:
            yield Found(group.nodes, into=reader)


COPIED_BEFORE = Fusion(
    "K21",
    "",
    "a copy whose values another copy, a pointwise operator or a norm reads: the first such reader "
    "takes it in",
    Basis.COMPILED,
    _SEEN,
    _copies,
)


def _computing(plan: Plan) -> Iterator[Found]:
    for group in reversed(_of(plan, *_COMPUTING)):
        reader = next(_readers(plan, group), None)
        if reader is None or reader.rule not in _COMPUTING:
            continue
        first, second = sorted((reader, group), key=lambda one: _COMPUTING.index(one.rule))
        yield Found(second.nodes, into=first)


COMPUTED_BEFORE = Fusion(
    "K22",
    "",
    "a pointwise operator or a norm whose first reader is one too, though others may read it later",
    Basis.COMPILED,
    _SEEN,
    _computing,
)


def _after(plan: Plan) -> Iterator[Found]:
    for group in _of(plan, *_COPIES):
        made = _maker(plan, group.nodes[0].first)
        if made is not None and _writes(plan, *made, group):
            yield Found(group.nodes, into=made[1])


def _writes(plan: Plan, node: Node, maker: Group, copy: Group) -> bool:
    """Whether what makes a value writes it where a copy puts it."""
    if maker.rule is ATTENTION:
        return not maker.quantized and not any(map(is_pair, copy.nodes))
    return maker.rule in {QUANTIZED, FLOAT} and (is_pair(node) or plan.is_pointwise(node))


COPIED_AFTER = Fusion(
    "K23",
    "",
    "a copy after a pointwise operator, or after an attention that neither reads nor gives "
    "quantized values; after a norm it is a kernel of its own",
    Basis.COMPILED,
    _SEEN,
    _after,
)
