"""Operators that move values and compute nothing."""

from collections.abc import Iterator

from embedl_deploy.onnx_model.graph import Node, Value
from embedl_deploy.onnx_model.view import (
    COMMUTING,
    COPIES,
    dequantizer,
    numbers,
    reached,
    stored_type,
)
from embedl_deploy.tensorrt.prediction.fusion import Fusion
from embedl_deploy.tensorrt.prediction.origins import taken_before
from embedl_deploy.tensorrt.prediction.plan import Plan
from embedl_deploy.tensorrt.prediction.rule import Basis, Found
from embedl_deploy.tensorrt.prediction.types import named, only_quantized

_VIEWS = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Dropout"})
_MOVES = (COPIES - _VIEWS) | {"Pad", "ScatterND", "ScatterElements", "Trilu"}


def _carried(value: Value, node: Node) -> str:
    """The type of what is moved: quantized where DQ or Q can move across."""
    if pair := dequantizer(value):
        return named(stored_type(pair))
    readers = reached(node.output, COMMUTING)
    quantize = next(iter(readers), None) if only_quantized(node.output) else None
    return named(node.output.dtype if quantize is None else quantize.output.dtype)


def _stays(node: Node) -> bool:
    """Whether every value stays where it is: a padding by nothing, an axis of size 1 that moves."""
    if node.op == "Pad":
        return not any(numbers(node.input(1)) or (1,))
    shape, order = node.first.shape, node.attributes.get("perm", ())
    if node.op != "Transpose" or shape is None or sorted(order) != [*range(len(shape))]:
        return False
    moved = [axis for axis in order if shape[axis] != 1]
    return moved == sorted(moved)


def _views(plan: Plan) -> Iterator[Found]:
    yield from (Found([node]) for node in plan.free("Pad") if _stays(node))
    yield from (Found(run) for run in plan.runs(_VIEWS | {"Transpose"}))


VIEW = Fusion(
    "N04",
    "view",
    "reshaping copies nothing, nor does padding by nothing and moving an axis of size 1; where the "
    "layout before it is not linear, a reformat may stand there",
    Basis.ASSUMED,
    "not in what was read",
    _views,
    runs=False,
)


def _shuffles(plan: Plan) -> Iterator[Found]:
    for run in plan.runs(_VIEWS | {"Transpose"}):
        if any(node.op == "Transpose" and not _stays(node) for node in run):
            yield Found(run, _carried(run[0].first, run[-1]))


SHUFFLE = Fusion(
    "K15",
    "copy",
    "transposing, with the reshaping and transposing next to it",
    Basis.DOCUMENTED,
    "Fusion catalog, Shuffle and Shuffle (second-hand)",
    _shuffles,
)


def _moves(plan: Plan) -> Iterator[Found]:
    return (Found([node], _carried(node.first, node)) for node in plan.free(*sorted(_MOVES)))


MOVE = Fusion(
    "K16",
    "copy",
    "an operator that moves values, by itself; whether TensorRT avoids it is not known",
    Basis.UNKNOWN,
    "ModelOpt lists these as copies (op_types.py)",
    _moves,
)


def _in_place(plan: Plan) -> Iterator[Found]:
    for node in plan.free("Concat"):
        readers = [one for one in reached(node.output) if one is not None]
        quantize = readers[0] if readers and only_quantized(node.output) else None
        if quantize is not None and taken_before(plan, quantize) is not None:
            yield Found([node])


IN_PLACE = Fusion(
    "N03",
    "concatenation",
    "a concatenation whose quantized inputs and output have one scale: its inputs are written into "
    "place",
    Basis.REPORTED,
    "yolov7_qat guidance; ModelOpt, concat_elimination; TRT#4366 saw kernels all the same",
    _in_place,
    runs=False,
)


def _concat(plan: Plan) -> Iterator[Found]:
    for node in plan.free("Concat"):
        yield Found([node], _carried(node.first, node))


CONCAT = Fusion(
    "K14",
    "concatenation",
    "any other concatenation; whether inputs are written into place is not known",
    Basis.UNKNOWN,
    "not in what was read",
    _concat,
)
