"""Placement where tensors meet: residual additions, concatenations, pooling, copies."""

from collections.abc import Iterator
from dataclasses import dataclass

from embedl_deploy.onnx_model.graph import Node, Value
from embedl_deploy.onnx_model.view import (
    COMMUTING,
    COPIES,
    DEQUANTIZE,
    POOLS,
    QUANTIZE,
    WEIGHTED,
    View,
    bare,
    dequantizer,
    is_constant,
    is_quantized,
    is_quantized_after,
    made_by,
    reached,
)
from embedl_deploy.tensorrt.rules.chains import PLAIN, SMOOTH, adds_residual, conv_branch
from embedl_deploy.tensorrt.rules.rule import Fault, Outcome, Rule, Severity

_POINTWISE = PLAIN | SMOOTH
_PASSED = COMMUTING | _POINTWISE | {"Add", "Mul", "BatchNormalization", QUANTIZE, DEQUANTIZE}


@dataclass(frozen=True)
class Branch:
    """An input of an addition.

    Attributes:
        pair: The DQ at it.
        quantized: Whether it is quantized, also after operators that copy.
        conv: The quantized convolution whose branch it is.
    """

    pair: Node | None
    quantized: bool
    conv: Node | None


def branches(view: View, add: Node) -> list[Branch] | None:
    """Both inputs of a residual addition; None for other additions.

    One of them is the branch of a quantized convolution.
    """
    if not adds_residual(view, add):
        return None
    found = [_branch(value) for value in add.inputs]
    return found if any(one.conv for one in found) else None


def _branch(value: Value | None) -> Branch:
    before, pair = bare(value)
    conv = conv_branch(before)
    used = conv if conv is not None and is_quantized(conv) else None
    return Branch(pair, dequantizer(value) is not None, used)


def _residual(view: View) -> Iterator[Outcome]:
    for add in view.of("Add"):
        found = branches(view, add)
        if found is None:
            continue
        quantized = [one.quantized for one in found]
        if all(quantized):
            yield Fault("both inputs of a residual addition are quantized", (add,))
        elif not any(quantized):
            if is_quantized_after(add.output, COPIES | _POINTWISE):
                yield Fault("the residual input of an addition is not quantized", (add,))
        elif any(one.conv and one.pair for one in found) and not all(one.conv for one in found):
            yield Fault("the input from the convolution is quantized, the other not", (add,))


P04 = Rule(
    "P04",
    Severity.WARNING,
    "at a residual addition exactly one input is quantized: the one that does not come from the "
    "convolution it fuses with",
    why="Convolution, addition and activation are one INT8 kernel only then. A pair after the "
    "convolution splits it; a residual in floating point keeps its output there.",
    source="Guide, recommendation 4; TensorFlow toolkit, custom Q/DQ cases; ModelOpt, "
    "build_non_residual_input_map; MO#425, MO#450",
    remedy="Quantize the residual input alone.",
    check=_residual,
)


def _one_pair(view: View) -> Iterator[Outcome]:
    first: dict[int, Node] = {}
    for node in view.of(QUANTIZE):
        other = first.setdefault(id(node.first), node)
        if other is not node and view.same_scale(other, node) is False:
            yield Fault("one tensor is quantized with different scales", (other, node))


P05 = Rule(
    "P05",
    Severity.WARNING,
    "a tensor is quantized with one scale",
    why="Each scale is a kernel and a copy of its own, and its readers cannot be merged.",
    source="TensorFlow toolkit, horizontal fusion; ModelOpt, DedicatedQDQPair=False; Guide",
    remedy="Let all readers of a tensor share one pair.",
    check=_one_pair,
)


def _concat(view: View) -> Iterator[Outcome]:
    for node in view.of("Concat"):
        following = [one for one in reached(node.output, COMMUTING) if one is not None]
        after = next((one for one in following if one.op == QUANTIZE), None)
        pairs = [dequantizer(one) for one in node.inputs if not is_constant(one)]
        found = [one for one in pairs if one is not None]
        if after is None or not found:
            continue
        if len(found) < len(pairs):
            yield Fault(f"{len(found)} of {len(pairs)} inputs are quantized", (node,))
        elif any(view.same_scale(one, after) is False for one in found):
            yield Fault("inputs and output have different scales", (node, after))


P06 = Rule(
    "P06",
    Severity.WARNING,
    "inputs and output of a quantized concatenation have one scale",
    why="With one scale the concatenation is free. Otherwise every input is quantized again by a "
    "kernel of its own.",
    source="ModelOpt, get_concat_eliminated_tensors; yolov7_qat guidance; TRT#4366",
    remedy="Calibrate what meets in a concatenation together.",
    check=_concat,
)


def _across(view: View) -> Iterator[Outcome]:
    for node in view.of(QUANTIZE):
        before, between = dequantizer(node.first), not made_by(node.first, DEQUANTIZE)
        if before is not None and view.same_scale(before, node) is False:
            what = "scales differ before and after operators that keep values"
            yield Fault(what if between else "a pair stands right after another", (before, node))


P07 = Rule(
    "P07",
    Severity.WARNING,
    "the scale is the same on both sides of max pooling and of operators that copy, and no pair "
    "follows another with another scale",
    why="Q/DQ move across them only with equal scales; otherwise there is one more kernel, and "
    "values are rounded twice.",
    source="yolov7_qat guidance; Guide, limitations",
    remedy="Use one scale on both sides.",
    check=_across,
)


def _joins(view: View) -> Iterator[Node]:
    """Additions that are not residual, products and average pooling with quantized inputs."""
    for node in view.of("Add", "Mul", *sorted(POOLS)):
        values = [one for one in node.inputs if not is_constant(one)]
        if not values or any(dequantizer(one) is None for one in values):
            continue
        if node.op == "Mul" and _scales_scores(node):
            continue
        if node.op != "Add" or branches(view, node) is None:
            yield node


def _scales_scores(node: Node) -> bool:
    """Whether it is the scaling of an attention's operands, which P18 speaks of."""
    following = reached(node.output, COPIES)
    constant = any(is_constant(one) for one in node.inputs)
    return constant and any(one is not None and one.op == "MatMul" for one in following)


def _in_and_out(view: View) -> Iterator[Outcome]:
    for node in _joins(view):
        following = list(reached(node.output, COPIES | _POINTWISE))
        others = [one for one in following if one is not None and one.op != QUANTIZE]
        if others:
            what = f"{node.op} reads quantized values and gives {others[0].op} others"
            yield Fault(what, (node, others[0]))


P08 = Rule(
    "P08",
    Severity.WARNING,
    "an addition (not residual), product or average pooling with quantized inputs has a quantized "
    "output",
    why="A layer without weights that takes INT8 has to give INT8; else it runs in floating point "
    "and the pairs before it are wasted.",
    source="Guide, recommendation 5",
    remedy="Quantize the output too, or take the pairs at the inputs away.",
    check=_in_and_out,
)


def _isolated(view: View) -> Iterator[Outcome]:
    for node in (*_joins(view), *view.of("MaxPool")):
        pairs = [dequantizer(one) for one in node.inputs if not is_constant(one)]
        following = [one for one in reached(node.output, COPIES | _POINTWISE) if one is not None]
        quantizers = [one for one in following if one.op == QUANTIZE]
        if None in pairs or not quantizers:
            continue
        before = any(one is not None and _from_quantized(one) for one in pairs)
        if not before and not any(map(_to_quantized, quantizers)):
            yield Fault(f"a quantized {node.op} has no quantized neighbour", (node,))


def _from_quantized(pair: Node) -> bool:
    value: Value | None = pair.output
    for _ in range(20):
        maker = value.producer if value is not None else None
        if maker is None:
            return False
        if maker.op in WEIGHTED:
            return is_quantized(maker)
        if maker.op not in _PASSED:
            return False
        value = next((one for one in maker.inputs if not is_constant(one)), None)
    return False


def _to_quantized(quantize: Node) -> bool:
    readers = reached(quantize.output, COMMUTING | {QUANTIZE, DEQUANTIZE})
    return any(one is not None and one.op in WEIGHTED and is_quantized(one) for one in readers)


P09 = Rule(
    "P09",
    Severity.WARNING,
    "pooling and pointwise operators are quantized only beside a quantized weighted operator",
    why="Alone they cost the conversion to INT8 and back.",
    source="ModelOpt, find_quantizable_nodes",
    remedy="Take the pairs away.",
    check=_isolated,
)


def _gate(view: View) -> Iterator[Outcome]:
    for node in view.of("Mul"):
        sides = [bare(value) for value in node.inputs]
        for before, _ in sides:
            gate = made_by(before, "Sigmoid", "HardSigmoid")
            if gate is None or not _pooled(gate):
                continue
            if any(pair is not None for _, pair in sides):
                yield Fault("the product of a squeeze-and-excite gate is quantized", (node,))


def _pooled(gate: Node) -> bool:
    value: Value | None = gate.first
    for _ in range(20):
        value = bare(value)[0]
        maker = value.producer if value is not None else None
        if maker is None:
            return False
        if maker.op in {"GlobalAveragePool", "ReduceMean"}:
            return True
        value = next((one for one in maker.inputs if not is_constant(one)), None)
    return False


P25 = Rule(
    "P25",
    Severity.INFO,
    "the product of a squeeze-and-excite gate is in floating point",
    why="NVIDIA's two tools disagree: the TensorFlow toolkit quantizes both inputs, Model "
    "Optimizer none.",
    source="TensorFlow toolkit, EfficientNet; ModelOpt, _is_fusible_mul",
    remedy="Measure both.",
    check=_gate,
)
