"""Versions, operators and number types that the parser takes."""

from collections.abc import Iterator

from embedl_deploy.onnx_model.dtypes import FP4, FP8, OWN_PAIR, QUANTIZED
from embedl_deploy.onnx_model.graph import Node
from embedl_deploy.onnx_model.view import (
    COPIES,
    DEQUANTIZE,
    QUANTIZE,
    View,
    activation_quantizer,
    dequantizer,
    is_constant,
    made_by,
    reached,
    stored_type,
    weight_quantizer,
)
from embedl_deploy.tensorrt.rules.rule import Fault, Outcome, Rule, Severity, Unknown

OLDEST, NEWEST = 13, 24
REFUSED = frozenset(
    {"QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger", "DynamicQuantizeLinear"}
)
_KNOWN_DOMAINS = frozenset({"", "trt", "TRT"})


def _opset(view: View) -> Iterator[Outcome]:
    opset = view.graph.opset
    if not OLDEST <= opset <= NEWEST:
        yield Fault(f"the file has opset {opset or 'none'}; {OLDEST} to {NEWEST} are taken")
        return
    for node in view.pairs:
        needed, what = _needed(node)
        if opset < needed:
            yield Fault(f"{what} needs opset {needed}, and the file has {opset}", (node,))


def _needed(node: Node) -> tuple[int, str]:
    """The lowest opset for what a pair uses; half precision is the matter of T06."""
    written = node.attributes
    if OWN_PAIR in written:
        return 0, ""
    needs = (
        (23, "DequantizeLinear with output_dtype", node.op == DEQUANTIZE, "output_dtype"),
        (21, "block quantization", bool(written.get("block_size")), "block_size"),
    )
    found = next(((n, what) for n, what, so, name in needs if so and name in written), (0, ""))
    types = {FP4: 23, "INT4": 21, FP8: 19}
    by_type = types.get(stored_type(node), 0)
    return (by_type, stored_type(node)) if by_type > found[0] else found


F01 = Rule(
    "F01",
    Severity.WARNING,
    "the opset is 13 to 24, and has what the Q/DQ operators use",
    why="The file is not valid ONNX, or its version is not among those that the parser names. Data "
    "centres: documented as not supported; TensorRT for RTX: seen otherwise, it takes any version.",
    source="operators.md of onnx-tensorrt (11.1); ONNX",
    remedy="Export with opset 21 or above.",
    check=_opset,
)


def _operators(view: View) -> Iterator[Outcome]:
    from onnx import defs

    for node in view.graph:
        if node.op in REFUSED:
            yield Fault(f"{node.op} is not taken", (node,))
        elif node.domain and _quantizes(node.op):
            what = f"{node.op} of the domain '{node.domain}' is not taken everywhere"
            yield Fault(what, (node,), Severity.WARNING)
        elif node.op.startswith("TRT_"):
            continue
        elif node.domain not in _KNOWN_DOMAINS:
            what = f"{node.op} is of the domain '{node.domain}', which needs a plugin"
            yield Fault(what, (node,), Severity.WARNING)
        elif not node.domain and not defs.has(node.op):
            what = f"{node.op} is no operator of ONNX, so it needs a plugin"
            yield Fault(what, (node,), Severity.WARNING)


def _quantizes(op: str) -> bool:
    return op in {QUANTIZE, DEQUANTIZE} or op.startswith("QLinear")


F02 = Rule(
    "F02",
    Severity.ERROR,
    "quantization is written as QuantizeLinear and DequantizeLinear of ONNX itself",
    why="Operators that compute on integers are refused. Q/DQ of other domains are a warning. Data "
    "centres: documented as not supported; TensorRT for RTX: seen otherwise, it takes those of "
    "com.microsoft.",
    source="operators.md of onnx-tensorrt (11.1); ModelOpt, fp8.py",
    remedy="Write Q/DQ pairs in the default domain around float operators (the QDQ format).",
    check=_operators,
)


_NOT_LEFT_OUT = {
    "Conv": 2, "Gemm": 2, "DequantizeLinear": 2, "QuantizeLinear": 2, "Slice": 3, "Split": 1,
    "Squeeze": 1,
}  # fmt: skip
"""Operators, and the first of their inputs that the parser counts where it is written empty."""


def _left_out(view: View) -> Iterator[Outcome]:
    for op, first in _NOT_LEFT_OUT.items():
        for node in view.of(op):
            if len(node.inputs) > first and node.inputs[-1] is None:
                what = f"{op} ends in an empty input; it has {len(node.inputs)}"
                yield Fault(what, (node,))


F15 = Rule(
    "F15",
    Severity.ERROR,
    "Conv, Gemm, Q/DQ, Slice, Split and Squeeze do not end in an empty input",
    why="The parser takes an empty name at the end for an input: 'Invalid Node'.",
    source="TensorRT for RTX 1.7.1",
    remedy="Write fewer inputs in place of empty names at the end.",
    check=_left_out,
)


def _number_type(view: View) -> Iterator[Outcome]:
    for node in view.pairs:
        dtype = stored_type(node)
        if not dtype:
            yield Unknown("the quantized type is not known", (node,))
        elif dtype not in QUANTIZED and not _is_elsewhere(node, dtype):
            yield Fault(f"it quantizes to {dtype}", (node,))
    for node in view.graph:
        if node.domain and node.op.startswith("TRT_") and "uantize" in node.op:
            yield Unknown(f"{node.op} is TensorRT's own, and no rule reads it", (node,))


def _is_elsewhere(node: Node, dtype: str) -> bool:
    """Whether F04 (no zero-point) or F11 (integers of a bias) says it."""
    if node.op == QUANTIZE:
        return node.input(2) is None and "output_dtype" not in node.attributes
    source = node.first.producer
    if source is not None and source.op == QUANTIZE:
        return True  # said once, at the QuantizeLinear
    return dtype == "INT32"


F03 = Rule(
    "F03",
    Severity.ERROR,
    "the quantized type is INT8, FP8 (E4M3FN), INT4 or FP4 (E2M1)",
    why="UINT8 at a DequantizeLinear is refused; a UINT8 zero-point at a QuantizeLinear is read as "
    "INT8 with no more than a warning, so the network computes something else. Other types "
    "are refused.",
    source="Parser",
    remedy="Quantize symmetrically, to signed types: int8 with zero-point 0.",
    check=_number_type,
)


def _four_bits(view: View) -> Iterator[Outcome]:
    for node in view.of(DEQUANTIZE):
        dtype, shape = stored_type(node), node.first.shape
        if dtype not in {"INT4", FP4}:
            continue
        if dtype == "INT4" and not is_constant(node.first):
            yield Fault("an activation is quantized to INT4, which is for weights alone", (node,))
        elif shape is None or None in shape:
            yield Unknown("the number of 4-bit elements is not known", (node,))
        elif _count(shape) % 2:
            yield Fault(f"{list(shape)} has an odd number of 4-bit elements", (node,))


def _count(shape: tuple[int | None, ...]) -> int:
    count = 1
    for one in shape:
        count *= one or 1
    return count


F12 = Rule(
    "F12",
    Severity.ERROR,
    "4-bit tensors have an even number of elements, and INT4 is for weights alone",
    why="Two elements share a byte. There are no kernels for INT4 activations: TensorRT for RTX "
    "refuses most products of them and of what is quantized to INT8 next to them.",
    source="Parser; Guide",
    remedy="Pad the weight by a channel, or leave it in INT8; quantize activations to INT8 or FP8.",
    check=_four_bits,
)


def _mixed(view: View) -> Iterator[Outcome]:
    for node in view.of("Conv", "Gemm", "MatMul"):  # transposed, it is computed in half precision
        weight = weight_quantizer(node)
        by = activation_quantizer(node), weight or dequantizer(node.input(1))
        kinds = {stored_type(one) for one in by if one is not None}
        if weight is not None and stored_type(weight) == "INT8":
            kinds |= _joined(node)
        if kinds == {"INT8", FP8}:
            yield Fault(f"{node.op} multiplies INT8 and FP8", (node,), Severity.ERROR)
    for node in view.of(DEQUANTIZE):
        yield from _changed(node)
    first: dict[str, Node] = {}
    for node in view.pairs:
        if stored_type(node) in {"INT8", FP8}:
            first.setdefault(stored_type(node), node)
    if len(first) == 2:
        yield Fault("the file has both INT8 and FP8", tuple(first.values()))


def _joined(node: Node) -> set[str]:
    """Types of the pairs whose values a product reads joined."""
    joined = made_by(node.first, "Concat")
    pairs = [] if joined is None else [dequantizer(one, COPIES) for one in joined.inputs]
    known = {stored_type(one) for one in pairs if one is not None}
    return known if None not in pairs else set()


def _changed(node: Node) -> Iterator[Outcome]:
    """What is quantized to the other kind, with nothing computed between."""
    for one in reached(node.output, COPIES | {"Concat"}):
        if one is not None and one.op == QUANTIZE:
            kinds = stored_type(node), stored_type(one)
            if {*kinds} == {"INT8", FP8}:
                what = f"{kinds[0]} is dequantized and quantized to {kinds[1]}"
                yield Fault(what, (node, one), Severity.ERROR)


P26 = Rule(
    "P26",
    Severity.WARNING,
    "INT8 and FP8 are not mixed",
    why="Whether one network may have both is not documented; trtexec 10.16 forbids its options "
    "for the two together. TensorRT for RTX: seen, it builds some such files, but no product of "
    "the two, and no pair of one kind right after a pair of the other (errors).",
    source="trtexec 10.16, sampleOptions.cpp; TensorRT for RTX 1.7.1",
    remedy="Quantize to one kind.",
    check=_mixed,
)
