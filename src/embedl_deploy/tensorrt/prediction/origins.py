"""What Q can be taken in by: where the values that it reads come from."""

from collections.abc import Iterator
from dataclasses import dataclass

from embedl_deploy.onnx_model.graph import Node, Value
from embedl_deploy.onnx_model.view import COMMUTING, DEQUANTIZE, QUANTIZE, reached
from embedl_deploy.tensorrt.prediction.plan import Plan
from embedl_deploy.tensorrt.prediction.rule import Group

_MOVED_ACROSS = COMMUTING | {"Concat"}


@dataclass(frozen=True)
class Before:
    """What is before Q, where all of it is quantized with the scale of Q.

    Attributes:
        groups: Kernels that can give quantized values.
        pairs: DQ whose values come to Q as they were.
    """

    groups: tuple[Group, ...]
    pairs: tuple[Node, ...]


def taken_before(plan: Plan, quantize: Node) -> Before | None:
    """What can take in Q; None where a kernel of its own has to quantize."""
    groups, pairs = [], []
    for value in origins(quantize.first):
        maker = value.producer
        if plan.is_fixed(value):
            continue
        if obstacle(plan, quantize, value) or maker is None:
            return None
        group = plan.group(maker)
        if maker.op == DEQUANTIZE:
            pairs.append(maker)
        elif group is not None:
            groups.append(group)
    return Before(tuple(groups), tuple(pairs)) if groups or pairs else None


def origins(value: Value) -> Iterator[Value]:
    """Values that one is made of by operators that Q moves across."""
    stack, seen = [value], {id(value)}
    while stack:
        one = stack.pop()
        maker = one.producer
        if maker is None or maker.op not in _MOVED_ACROSS or maker.domain:
            yield one
            continue
        inputs = maker.inputs if maker.op == "Concat" else maker.inputs[:1]
        fresh = [item for item in inputs if item is not None and id(item) not in seen]
        seen.update(map(id, fresh))
        stack.extend(fresh[::-1])


def obstacle(plan: Plan, quantize: Node, value: Value) -> str:
    """Why what makes a value does not give it quantized; empty where it does."""
    maker = value.producer
    if plan.is_fixed(value):
        return ""
    if maker is None:
        return "it reads an input of the file, which is in floating point"
    if maker.op == DEQUANTIZE:
        same = plan.view.same_scale(maker, quantize)
        return "" if same else f"the scale changes: DQ '{maker.label}' has another"
    group = plan.group(maker)
    if group is None or not group.quantized:
        return f"{maker.op} '{maker.label}' before it computes in floating point"
    return group.open or _other_reader(plan, quantize, value)


def _other_reader(plan: Plan, quantize: Node, value: Value) -> str:
    for one in reached(value, _MOVED_ACROSS):
        if one is None:
            return "the value is an output of the file too"
        if one.op != QUANTIZE:
            return f"{one.op} '{one.label}' reads the value in floating point"
        if plan.view.same_scale(one, quantize) is False:
            return f"the value is quantized with another scale too, at '{one.label}'"
    return ""
