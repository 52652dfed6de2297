"""Operators that compute element by element, in runs."""

from collections.abc import Iterator

from embedl_deploy.onnx_model.graph import Node
from embedl_deploy.onnx_model.view import COMMUTING, dequantizer, reached, stored_type
from embedl_deploy.tensorrt.prediction.fusion import Fusion
from embedl_deploy.tensorrt.prediction.plan import POINTWISE, Plan
from embedl_deploy.tensorrt.prediction.rule import Basis, Found
from embedl_deploy.tensorrt.prediction.types import named, only_quantized


def _quantized(plan: Plan) -> Iterator[Found]:
    for run in plan.runs(POINTWISE):
        inside = {id(node.output) for node in run}
        inputs = [one for node in run for one in plan.operands(node) if id(one) not in inside]
        pairs = [dequantizer(one) for one in inputs]
        first = pairs[0] if pairs else None
        if first is not None and None not in pairs and only_quantized(run[-1].output):
            yield Found(run, named(stored_type(first)), quantized=True)


QUANTIZED = Fusion(
    "K12",
    "pointwise",
    "pointwise operators between DQ at every input and Q at the output",
    Basis.DOCUMENTED,
    "Guide, recommendation 5; fusion catalog (second-hand)",
    _quantized,
)


def _float(plan: Plan) -> Iterator[Found]:
    for run in plan.runs(POINTWISE):
        yield Found(run, named(run[-1].output.dtype), reason=_wasted(plan, run))


def _wasted(plan: Plan, run: list[Node]) -> str:
    """Why it does not run on the quantized values that it reads; empty where it reads none."""
    inputs = [one for node in run for one in plan.operands(node)]
    pairs = [dequantizer(one) for one in inputs]
    if not any(pairs):
        return ""
    readers = reached(run[-1].output, COMMUTING)
    other = next((one for one in readers if one is None or one.op != "QuantizeLinear"), run[-1])
    if other is run[-1]:
        return "an input is not quantized"
    reader = "the output of the file" if other is None else f"{other.op} '{other.label}'"
    return f"it reads quantized values, and gives {reader} others"


FLOAT = Fusion(
    "K13",
    "pointwise",
    "adjacent pointwise operators whose values nothing else reads",
    Basis.DOCUMENTED,
    "Fusion catalog, pointwise fusion (second-hand)",
    _float,
)
