"""Placement around weighted operators: what must be quantized together, and nothing inside."""

from collections import defaultdict
from collections.abc import Iterator

from embedl_deploy.onnx_model.dtypes import BLOCKED, FP8
from embedl_deploy.onnx_model.graph import Node, Value
from embedl_deploy.onnx_model.view import (
    CONVOLUTIONS,
    QUANTIZE,
    WEIGHTED,
    View,
    activation_quantizer,
    bare,
    is_constant,
    is_quantized,
    is_quantized_after,
    kernel,
    made_by,
    pads_exactly,
    reached,
    stored_type,
    weight_index,
    weight_quantizer,
)
from embedl_deploy.tensorrt.rules.chains import (
    PLAIN,
    SMOOTH,
    activation_chains,
    conv_branch,
    data_operand,
    weighted_before,
)
from embedl_deploy.tensorrt.rules.rule import Fault, Outcome, Rule, Severity


def _together(view: View) -> Iterator[Outcome]:
    for node in view.of(*WEIGHTED):
        index = weight_index(node)
        if index is None or not is_constant(node.input(index)):
            continue
        weight, activation = weight_quantizer(node), activation_quantizer(node)
        if weight is not None and activation is None:
            if stored_type(weight) not in BLOCKED - {FP8}:
                yield Fault(f"the weight of {node.op} is quantized, and its input is not", (node,))
        elif weight is None and activation is not None:
            yield Fault(f"the input of {node.op} is quantized, and its weight is not", (node,))


P01 = Rule(
    "P01",
    Severity.WARNING,
    "input and weight of a weighted operator are both quantized, or neither",
    why="Only with both is there an INT8 kernel; one alone is rounding without speed. (INT4 and "
    "FP4 weights alone are meant.)",
    source="Guide, recommendation 1; ModelOpt, insertion_points",
    remedy="Quantize the other one too, or take the pair away.",
    check=_together,
)


def _inside_kernel(view: View) -> Iterator[Outcome]:
    for node in view.of("BatchNormalization", *sorted(PLAIN), "Add"):
        if node.op != "Add":
            value: Value | None = node.first
        else:
            value = data_operand(node)
        before, pair = bare(value)
        if pair is not None and _in_kernel(before):
            yield Fault(f"a pair is between a weighted operator and {node.op}", (pair, node))
        passing = made_by(value, "Identity", "Cast")
        if passing is not None and _in_kernel(passing.first):
            what = f"{passing.op} is between a weighted operator and {node.op}"
            yield Fault(what, (passing, node))


def _in_kernel(value: Value | None) -> bool:
    """Whether a value is the bare result of a weighted operator, or of its residual addition."""
    add = made_by(value, "Add")
    residual = add is not None and any(conv_branch(bare(one)[0]) for one in add.inputs)
    return residual or weighted_before(value) is not None


P02 = Rule(
    "P02",
    Severity.WARNING,
    "nothing is between a weighted operator, its bias, batch norm, residual addition and ReLU "
    "or Clip",
    why="TensorRT runs them as one kernel; a pair, Identity or Cast between them splits it.",
    source="Guide, recommendation 3; ModelOpt, skip_invalid_insertion_points; TRT#1699",
    remedy="Quantize after the activation.",
    check=_inside_kernel,
)


def _inside_activation(view: View) -> Iterator[Outcome]:
    for chain in activation_chains(view):
        found = [node for node in chain.entry if node is not None]
        if chain.inside:
            yield Fault("a pair is inside an activation", (*chain.inside, chain.end))
        elif found and len(found) < len(chain.entry):
            yield Fault("an activation reads its input quantized and not", (*found, chain.end))
        elif found and weighted_before(chain.head):
            what = f"a pair is between a weighted operator and {chain.end.op}"
            yield Fault(what, (found[0], chain.end))
        elif _is_open_gelu(chain.head, chain.end):
            yield Fault("GELU after a quantized convolution does not end in Q", (chain.end,))


def _is_open_gelu(head: Value, end: Node) -> bool:
    gelu = end.op == "Gelu" or (end.op == "Mul" and not made_by(end.first, "Sigmoid"))
    conv = made_by(head, *CONVOLUTIONS)
    if not gelu or conv is None or not is_quantized(conv) or not _is_gelu(end):
        return False
    return not is_quantized_after(end.output)


def _is_gelu(end: Node) -> bool:
    """Whether Gelu, Erf or Tanh is the activation that ends here."""
    stack, seen = [end], 0
    while stack and seen < 12:
        node, seen = stack.pop(), seen + 1
        if node.op in {"Gelu", "Erf", "Tanh"}:
            return True
        if node.op in {"Mul", "Add", "Div"}:
            stack.extend(one.producer for one in node.inputs if one and one.producer)
    return False


P03 = Rule(
    "P03",
    Severity.WARNING,
    "no pair is inside an activation of several operators (SiLU, GELU, HardSwish), nor between "
    "it and its weighted operator; GELU after a quantized convolution ends in Q",
    why="Convolution and activation then stay in floating point, or run as several kernels. GELU "
    "fuses only if the convolution reads and gives one precision.",
    source="TRT#3629, TRT#3127; fusion catalog (second-hand)",
    remedy="Quantize after the activation.",
    check=_inside_activation,
)


def _padding(view: View) -> Iterator[Outcome]:
    for node in view.of(*CONVOLUTIONS):
        before, pair = bare(node.first)
        pad = made_by(before, "Pad")
        if pad is not None and pair is not None and pads_exactly(pad):
            yield Fault("a pair is between Pad and the convolution", (pad, pair, node))


P22 = Rule(
    "P22",
    Severity.WARNING,
    "the pair of a padded convolution is before Pad",
    why="Pad fuses with the convolution; with a pair between them INT8 was no faster than FP16. "
    "(Padding by another number than zero is not exact, and its pair is after it.)",
    source="TRT#2592",
    remedy="Quantize before Pad: zeros, and values that are there already, stay exact.",
    check=_padding,
)


def _parallel(view: View) -> Iterator[Outcome]:
    groups: dict[tuple[int, tuple[int, ...]], list[Node]] = defaultdict(list)
    for node in view.of("Conv"):
        if is_quantized(node):
            groups[id(node.first), kernel(node)].append(node)
    for nodes in groups.values():
        following = [_following(node) for node in nodes]
        found = [node for node in following if node is not None]
        if len(found) > 1 and any(view.same_scale(found[0], one) is False for one in found):
            yield Fault("convolutions of one tensor give different scales", tuple(nodes))


def _following(node: Node) -> Node | None:
    """The Q after a convolution and its activation."""
    nodes = reached(node.output, PLAIN | SMOOTH | {"BatchNormalization"})
    return next((one for one in nodes if one is not None and one.op == QUANTIZE), None)


P24 = Rule(
    "P24",
    Severity.INFO,
    "convolutions of one tensor with one window give one scale",
    why="TensorRT merges parallel convolutions only then.",
    source="TRT#1602, MO#1538 (open)",
    remedy="Calibrate their outputs together.",
    check=_parallel,
)


def _transposed(view: View) -> Iterator[Outcome]:
    for node in view.of("ConvTranspose"):
        if is_quantized(node):
            yield Fault("a transposed convolution is quantized", (node,))


P27 = Rule(
    "P27",
    Severity.INFO,
    "transposed convolutions are not quantized",
    why="Data centres: reported in INT8, not fused with an activation and Q, and then wrong; "
    "TensorRT for RTX: seen in floating point, whatever the scales of the weight.",
    source="TRT#4366; TensorRT for RTX 1.7.1",
    remedy="Leave it in floating point, or compare the engine's output with the file's.",
    check=_transposed,
)
