"""Q and DQ: taken in by a kernel, cancelled, or kernels of their own."""

from collections.abc import Iterator

from embedl_deploy.onnx_model.dtypes import BLOCKED
from embedl_deploy.onnx_model.graph import Node
from embedl_deploy.onnx_model.view import (
    COMMUTING,
    COPIES,
    DEQUANTIZE,
    KEEPING,
    QUANTIZE,
    pads_exactly,
    reached,
    stored_type,
)
from embedl_deploy.tensorrt.prediction.fusion import Fusion
from embedl_deploy.tensorrt.prediction.origins import obstacle, origins, taken_before
from embedl_deploy.tensorrt.prediction.plan import Plan
from embedl_deploy.tensorrt.prediction.rule import Basis, Found, Group
from embedl_deploy.tensorrt.prediction.types import named

# --- constants ----------------------------------------------------------------------------------


def _weights(plan: Plan) -> Iterator[Found]:
    for node in plan.free(QUANTIZE, DEQUANTIZE):
        if not plan.is_fixed(node.first):
            continue
        through = COPIES | {"Cast", QUANTIZE, DEQUANTIZE}
        for reader in reached(node.output, through):
            group = plan.group(reader) if reader is not None else None
            if group is not None and (group.quantized or _in_blocks(node)):
                yield Found([node], into=group)
                break


def _in_blocks(node: Node) -> bool:
    """Whether a weight is of a type that is read alone, beside a float activation."""
    return node.op == DEQUANTIZE and stored_type(node) in BLOCKED


WEIGHTS = Fusion(
    "Q01",
    "",
    "Q/DQ of a weight of a quantized kernel; of INT4, FP4 or FP8 also where the weight alone is "
    "quantized",
    Basis.DOCUMENTED,
    "Explicit quantization page; digest of the 10.x pages (second-hand)",
    _weights,
)


def _fixed(plan: Plan) -> Iterator[Found]:
    for node in plan.free(QUANTIZE, DEQUANTIZE):
        if plan.is_fixed(node.first):
            yield Found([node])


FIXED = Fusion(
    "N05",
    "constant",
    "Q/DQ of other constants: rounded when the engine is built, and computed on in floating point",
    Basis.ASSUMED,
    "not in what was read",
    _fixed,
    runs=False,
)

# --- activations --------------------------------------------------------------------------------


def _into_producer(plan: Plan) -> Iterator[Found]:
    for node in plan.free(QUANTIZE):
        before = taken_before(plan, node)
        if before is not None and before.groups:
            yield Found([node], into=before.groups[0])


PRODUCER = Fusion(
    "Q02",
    "",
    "Q after a kernel on quantized values, also across max pooling, concatenation and operators "
    "that copy, where nothing else reads the value",
    Basis.DOCUMENTED,
    "Guide, Q/DQ propagation and recommendation 3; API, IQuantizeLayer",
    _into_producer,
)


def _cancelled(plan: Plan) -> Iterator[Found]:
    for node in plan.free(QUANTIZE):
        if taken_before(plan, node) is not None:
            yield Found([node])


CANCELLED = Fusion(
    "N06",
    "cancelled",
    "Q after DQ of the same scale, also across operators that copy",
    Basis.DOCUMENTED,
    "Guide, limitations (equal scales)",
    _cancelled,
    runs=False,
)


def _alone(plan: Plan) -> Iterator[Found]:
    """One kernel for all Q of one tensor with one scale."""
    for node in plan.free(QUANTIZE):
        if plan.group(node) is not None:
            continue
        same = [one for one in node.first.users if one.op == QUANTIZE and not plan.group(one)]
        merged = [one for one in same if one is node or plan.view.same_scale(one, node)]
        reasons = (obstacle(plan, node, one) for one in origins(node.first))
        why = next(filter(None, reasons), "")
        yield Found(merged, named(node.output.dtype), quantized=True, reason=why)


QUANTIZER = Fusion(
    "K19",
    "quantize",
    "Q that no kernel fuses: a kernel, or a reformat, of its own; one after a pointwise kernel "
    "in floating point may be taken in all the same",
    Basis.REPORTED,
    "TRT#3492, TRT#3861, TRT#4366; Guide, recommendation 4",
    _alone,
)


def _into_readers(plan: Plan) -> Iterator[Found]:
    for node in plan.free(DEQUANTIZE):
        groups = [_reader(plan, one) for one in _readers(node)]
        first = next((one for one in groups if one is not None), None)
        if first is not None and None not in groups:
            yield Found([node], into=first)


def _readers(node: Node) -> Iterator[Node | None]:
    """Who reads a value, after operators that DQ moves across."""
    for one in reached(node.output, COMMUTING):
        padding = one is not None and one.op == "Pad" and pads_exactly(one)
        if one is not None and (one.op == "Concat" or padding):
            yield from reached(one.output, KEEPING)
        else:
            yield one


def _reader(plan: Plan, node: Node | None) -> Group | None:
    """The group of what reads quantized values."""
    group = plan.group(node) if node is not None else None
    takes = group is not None and (group.quantized or group.rule is CANCELLED)
    return group if takes else None


READER = Fusion(
    "Q03",
    "",
    "DQ before kernels that compute on quantized values, also across max pooling and operators "
    "that copy",
    Basis.DOCUMENTED,
    "Guide, Q/DQ propagation and recommendation 1; API, IDequantizeLayer",
    _into_readers,
)


def _open(plan: Plan) -> Iterator[Found]:
    for node in plan.free(DEQUANTIZE):
        readers = [one for one in _readers(node) if _reader(plan, one) is None]
        first = readers[0] if readers else None
        who = "an output of the file" if first is None else f"{first.op} '{first.label}'"
        why = f"{who} takes the value in floating point" if readers else "nothing reads it"
        yield Found([node], named(node.output.dtype), reason=why)


DEQUANTIZER = Fusion(
    "K20",
    "dequantize",
    "DQ before what computes in floating point: a kernel, or a reformat, of its own; a pointwise "
    "kernel may take it in all the same",
    Basis.UNKNOWN,
    "Guide, recommendation 5, says only that the pair is wasted",
    _open,
)
