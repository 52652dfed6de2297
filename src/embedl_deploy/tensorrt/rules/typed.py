"""Types under strong typing: the file alone says which precision runs."""

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from embedl_deploy.onnx_model.dtypes import FLOATS, HALF, OWN_PAIR
from embedl_deploy.onnx_model.graph import Node, Value
from embedl_deploy.onnx_model.view import (
    DEQUANTIZE,
    QUANTIZE,
    WEIGHTED,
    View,
    constant,
    floats,
    made_by,
)
from embedl_deploy.tensorrt.rules.guards import lost_guards
from embedl_deploy.tensorrt.rules.rule import Fault, Outcome, Rule, Severity, Subject, Unknown

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MIXING = frozenset({QUANTIZE, DEQUANTIZE, "Cast", "CastLike", "Resize", "If", "Loop", "Scan"})
_MIXING_NORMS = frozenset({"BatchNormalization", "RMSNormalization"})
_COMPUTING = WEIGHTED | {
    "Softmax", "LayerNormalization", "BatchNormalization", "InstanceNormalization",
    "GroupNormalization", "RMSNormalization", "Attention", "Add", "Sub", "Mul", "Div", "Pow",
    "AveragePool", "GlobalAveragePool", "MaxPool", "Resize", "Relu", "Gelu", "Sigmoid", "Tanh",
    "HardSwish", "HardSigmoid", "Erf", "LeakyRelu", "Elu", "Swish", "ReduceMean", "ReduceSum",
}  # fmt: skip
_INDICES = {
    "Reshape": (1,), "Expand": (1,), "Tile": (1,), "Slice": (1, 2, 3, 4), "Gather": (1,),
    "GatherElements": (1,), "GatherND": (1,), "Squeeze": (1,), "Unsqueeze": (1,), "TopK": (1,),
    "Split": (1,), "Pad": (1,), "ScatterND": (1,), "ScatterElements": (1,), "OneHot": (1,),
    "ConstantOfShape": (0,),
}  # fmt: skip
LARGEST = 65504.0
_WIDE = 512.0


def _by_quantizer(node: Node) -> bool:
    """Whether T02 speaks of a node: a weighted operator after DQ."""
    return node.op in WEIGHTED and any(made_by(one, DEQUANTIZE) for one in node.inputs)


def _uniform(view: View) -> Iterator[Outcome]:
    for node in view.graph:
        if node.domain or node.op in _MIXING or _by_quantizer(node):
            continue
        types = dict.fromkeys(one.dtype for one in floats(node))
        if len(types) > 1 and node.op in _MIXING_NORMS:
            yield Unknown("TensorRT for RTX takes it; of data centres nothing is said", (node,))
        elif len(types) > 1:
            yield Fault(f"{node.op} has inputs of types {' and '.join(types)}", (node,))


T01 = Rule(
    "T01",
    Severity.ERROR,
    "all floating-point inputs of an operator have one type",
    why="A strongly typed network casts nothing by itself: element types that differ are refused.",
    source="strong-typing migration notes; migration guide 10.x to 11.x",
    remedy="Write the whole file in one type, or put Cast where two meet.",
    check=_uniform,
)


def _operands(view: View) -> Iterator[Outcome]:
    for node in view.of(*WEIGHTED):
        types = dict.fromkeys(one.dtype for one in floats(node))
        if _by_quantizer(node) and len(types) > 1:
            yield Fault(f"operands and bias are {' and '.join(types)}", (node,))


T02 = Rule(
    "T02",
    Severity.ERROR,
    "the DQ of activation and weight, and the bias, have one type at each weighted operator",
    why="They meet in one layer, which takes one type.",
    source="Parser; ModelOpt, fp8_exporter.py",
    remedy="Give the scales of both DQ the type of the bias; a DQ has the type of its scale.",
    check=_operands,
)


def _scale_type(view: Subject) -> Iterator[Outcome]:
    old = view.version.may_be_before(10, 13)
    always, severity = old or 19 <= view.graph.opset < 23, Severity.ERROR if old else None
    for node in view.pairs:
        scale = node.input(1)
        other = node.first.dtype if node.op == QUANTIZE else node.output.dtype
        if scale is None or not scale.dtype or not other:
            yield Unknown("a type is not known", (node,))
        elif _is_t06(view, node) or scale.dtype == other or {scale.dtype, other} - FLOATS:
            continue
        elif always or scale.dtype in HALF:
            side = "data" if node.op == QUANTIZE else "output"
            yield Fault(f"the scale is {scale.dtype} and the {side} {other}", (node,), severity)


T03 = Rule(
    "T03",
    Severity.WARNING,
    "the scale has the type of Q's input and DQ's output",
    why="Up to TensorRT 10.12 the two must be equal (an error there), and in opsets 19 to 22 the "
    "file is not valid otherwise; later a FLOAT scale is allowed with half-precision data, and "
    "not the other way. Data centres: documented; TensorRT for RTX: seen otherwise, it takes both, "
    "and a product after a half-precision scale that gives FLOAT loses INT8.",
    source="API, NvInfer.h of 10.12 and 11.1; ONNX",
    remedy="Write scales in the type of the data.",
    check=_scale_type,
)


def _leftover(view: Subject) -> Iterator[Outcome]:
    computing = [node for node in view.of(*sorted(_COMPUTING)) if node.output.dtype == "FLOAT"]
    left = [node for node in computing if not view.keeps(node)]
    if not view.half:
        if left and any(True for _ in view.of(*WEIGHTED)):
            what = f"nothing is in half precision: {_by_type(left)} run in FLOAT"
            yield Fault(what, (left[0],), Severity.INFO)
        return
    for op in dict.fromkeys(node.op for node in left):
        nodes = tuple(node for node in left if node.op == op)
        yield Fault(f"{len(nodes)} {op} run in FLOAT in a file of {view.half}", nodes)


def _by_type(nodes: list[Node]) -> str:
    counts = Counter(node.op for node in nodes).most_common(4)
    return ", ".join(f"{count} {op}" for op, count in counts)


T04 = Rule(
    "T04",
    Severity.WARNING,
    "no operator is left in FLOAT in a half-precision file",
    why="There is no fallback to FP16: what is FLOAT in the file runs in FLOAT, and can cost more "
    "than INT8 gains. A file without any half precision is worth knowing (a note); with "
    "TensorRT 10 without strong typing --fp16 still helps.",
    source="strong-typing migration notes; ultralytics#26159, #26167",
    remedy="Export in half precision; name what is meant to stay in FLOAT with keep_float32.",
    check=_leftover,
)


def _casts(view: View) -> Iterator[Outcome]:
    for node in view.pairs:
        if cast := made_by(node.input(1), "Cast"):
            yield Fault("its scale is cast", (cast, node))
        cast = made_by(node.first, "Cast") if node.op == QUANTIZE else None
        if cast is not None:
            yield Fault("a Cast is before Q", (cast, node))
        for use in node.output.users if node.op == DEQUANTIZE else ():
            following = [one for one in use.output.users if one.op in WEIGHTED]
            if use.op == "Cast" and following:
                yield Fault(f"a Cast is between DQ and {following[0].op}", (node, use))


T05 = Rule(
    "T05",
    Severity.WARNING,
    "no Cast is at Q/DQ",
    why="It keeps Q/DQ from fusing with the operator. Data centres: reported; TensorRT for RTX: "
    "seen otherwise, it looks through a Cast.",
    source="ModelOpt, torch_onnx.py",
    remedy="Give the scale the type that is needed; it decides what DQ gives.",
    check=_casts,
)


def _is_t06(view: View, node: Node) -> bool:
    if OWN_PAIR in node.attributes:
        return False
    scale = node.input(1)
    values: tuple[Value | None, ...] = (scale, node.first if node.op == QUANTIZE else None)
    halves = any(one is not None and one.dtype in HALF for one in values)
    return view.graph.opset < 19 and halves


def _old_halves(view: View) -> Iterator[Outcome]:
    nodes = tuple(node for node in view.pairs if _is_t06(view, node))
    if nodes:
        what = f"{len(nodes)} are in half precision, and the opset is {view.graph.opset}"
        yield Fault(what, nodes)


T06 = Rule(
    "T06",
    Severity.WARNING,
    "half-precision data and scales of Q/DQ need opset 19",
    why="Below, the file is not valid ONNX, and other tools refuse it; NVIDIA's parser takes it.",
    source="ONNX, schemas of QuantizeLinear and DequantizeLinear",
    remedy="Export with opset 21 or above.",
    check=_old_halves,
)


def _factors(view: View) -> Iterator[Outcome]:
    for node in view.of("Gemm"):
        for name in ("alpha", "beta"):
            value = node.attributes.get(name, 1.0)
            if value != 1.0 and (name == "alpha" or node.input(2) is not None):
                yield Fault(f"{name} is {value:g}", (node,))


T07 = Rule(
    "T07",
    Severity.WARNING,
    "alpha and beta of Gemm are 1",
    why="The parser multiplies by FP32 scalars: more layers, and a clash of types in FP16.",
    source="Parser of 10.1, Gemm",
    remedy="Multiply the factors into weight and bias.",
    check=_factors,
)


def _indices(view: View) -> Iterator[Outcome]:
    for node in view.of("Resize"):
        for index, name in ((1, "roi"), (2, "scales")):
            value = node.input(index)
            if value is not None and value.dtype in HALF:
                what = f"the {name} of Resize are {value.dtype}"
                yield Fault(what, (node,), Severity.WARNING)
    for node in view.of(*_INDICES):
        for index in _INDICES[node.op]:
            value = node.input(index)
            if value is not None and value.dtype in FLOATS:
                yield Fault(f"input {index} of {node.op} counts, and is {value.dtype}", (node,))


T08 = Rule(
    "T08",
    Severity.ERROR,
    "the scales of Resize stay FLOAT, and shapes and indices integers",
    why="They are no data: the operators take these types alone. Half-precision scales of Resize "
    "are not valid ONNX (a warning: NVIDIA's parser takes them).",
    source="ModelOpt, precisionconverter.py; ONNX",
    remedy="Leave these inputs out when a file is cast to half precision.",
    check=_indices,
)


def _range(view: View) -> Iterator[Outcome]:
    for value in view.graph.initializers:
        tensor = value.tensor
        if tensor is None or value.dtype not in {"FLOAT", "FLOAT16"} or not value.uses:
            continue
        users = tuple(value.users)
        if all(_may_be_infinite(use) for use in users):
            continue
        halves = value.dtype == "FLOAT16" or any(use.output.dtype in HALF for use in users)
        if halves and any(_exceeds(chunk) for chunk in tensor.chunks()):
            yield Fault(f"values of '{value.name}' are beyond ±{LARGEST:.0f}", users)
    for value, node in lost_guards(view):
        yield Fault(f"'{value.name}' is zero in FP16, and something divides by the result", (node,))
    for node in view.of(QUANTIZE):
        scale = view.scale(node)
        if scale is None or node.first.dtype != "FLOAT16" or constant(node.first):
            continue
        if (reach := 127 * float(scale.astype("float32").max())) > _WIDE:
            what = f"values up to {reach:.0f} were seen in an FP16 tensor"
            yield Fault(what, (node,), Severity.INFO)


def _may_be_infinite(node: Node) -> bool:
    """Whether a node takes infinities as they are meant: limits, and masks of a softmax."""
    masks = node.op == "Add" and any(use.op == "Softmax" for use in node.output.users)
    return masks or node.op in {"Where", "Clip", "Resize"}


def _exceeds(chunk: "NDArray[Any]") -> bool:
    if chunk.dtype == "float16":  # finite ones are up to 65504; comparing bits is faster
        return bool(((chunk.view("uint16") & 0x7FFF) > 0x7BFF).any())
    return not bool((abs(chunk) <= LARGEST).all())


T09 = Rule(
    "T09",
    Severity.WARNING,
    "constants in half precision are within ±65504, and none that guards a division is zero",
    why="Beyond they are infinite in FP16; below 3e-8 an epsilon is zero, and zero by zero NaN. "
    "Calibrated values above 512 in an FP16 tensor are worth "
    "knowing (a note): sums of them may overflow.",
    source="ModelOpt, AutoCast (data_max, init_max)",
    remedy="Keep the operator in FLOAT, or scale its constant.",
    check=_range,
)
