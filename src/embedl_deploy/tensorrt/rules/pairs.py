"""How Q, DQ and weights belong together."""

from collections.abc import Iterator

from embedl_deploy.onnx_model.graph import Node, Value
from embedl_deploy.onnx_model.view import (
    COMMUTING,
    CONVOLUTIONS,
    DEQUANTIZE,
    KEEPING,
    QUANTIZE,
    WEIGHTED,
    View,
    channels,
    constant,
    dequantizer,
    is_constant,
    made_by,
    quantizer_of,
    reached,
    stored_type,
    weight_quantizer,
)
from embedl_deploy.tensorrt.rules.rule import Fault, Outcome, Rule, Severity, Subject, Unknown


def _constant_scale(view: Subject) -> Iterator[Outcome]:
    old = view.version.may_be_before(10, 13)
    for node in view.pairs:
        if node.input(1) is not None and constant(node.input(1)) is None:
            severity = None if old or _breaks_the_build(node) else Severity.WARNING
            yield Fault("the scale is computed when the network runs", (node,), severity)
        elif made_by(node.input(1), "Cast") is not None:
            yield Fault("a Cast makes the scale", (node,), Severity.WARNING)


def _breaks_the_build(node: Node) -> bool:
    """Whether TensorRT for RTX stops at a pair of a computed scale."""
    for one in reached(node.output, COMMUTING | {DEQUANTIZE}):
        if one is None:
            continue
        if one.op == "Conv" and dequantizer(one.input(1)) is not None:
            return True
        if one.op == "Concat" and all(dequantizer(value) is not None for value in one.inputs):
            return True
    return False


F05 = Rule(
    "F05",
    Severity.ERROR,
    "the scale is a constant",
    why="Up to TensorRT 10.12 a scale that is no constant is refused. Data centres: documented as "
    "taken from 10.13 on; TensorRT for RTX: seen otherwise, a convolution of a quantized weight "
    "crashes the compiler, a concatenation of pairs is refused, and a matrix product loses INT8 (a "
    "warning, as is any other reader). A Cast of a constant is refused now and then (a warning).",
    source="API, NvInfer.h of 10.12 and of 10.13; TensorRT for RTX 1.7.1",
    remedy="Calibrate, and write the scale as an initializer.",
    check=_constant_scale,
)


def _pairing(view: View) -> Iterator[Outcome]:
    for node in view.of(QUANTIZE):
        readers = [one for one in reached(node.output, KEEPING) if one is not None]
        others = [one for one in readers if one.op != DEQUANTIZE]
        if others:
            yield Fault(f"quantized values go to {others[0].op}, not to DQ", (node, others[0]))
        for reader in dict.fromkeys(one for one in readers if one.op == DEQUANTIZE):
            yield from _match(view, node, reader)
        before = made_by(node.first, DEQUANTIZE)
        if before is not None and view.same_scale(before, node):
            what = "it quantizes again what was just dequantized with the same scale"
            yield Fault(what, (before, node))
    for node in view.of(DEQUANTIZE):
        if not _is_quantized(node.first):
            yield Fault("it dequantizes what is neither from Q nor a constant or input", (node,))


def _is_quantized(value: Value) -> bool:
    """Whether a value is from Q, a constant or an input, through operators that keep values."""
    stack: list[Value | None] = [value]
    seen: set[int] = set()
    while stack:
        one = stack.pop()
        if one is None or one.is_input or one.tensor is not None or id(one) in seen:
            continue
        seen.add(id(one))
        maker = one.producer
        if maker is None or maker.op not in KEEPING | {QUANTIZE}:
            return False
        if maker.op != QUANTIZE:
            stack.extend(maker.inputs if maker.op == "Concat" else maker.inputs[:1])
    return True


def _match(view: View, quantize: Node, dequantize: Node) -> Iterator[Outcome]:
    pair = (quantize, dequantize)
    same = view.same_scale(quantize, dequantize)
    if same is None:
        yield Unknown("whether the scales are the same is not known", pair)
    elif not same:
        yield Fault("Q and DQ have different scales", pair)
    elif _axis(quantize) != _axis(dequantize):
        yield Fault("Q and DQ have different axes", pair)


def _axis(node: Node) -> int | None:
    scale = node.input(1)
    several = scale is not None and scale.shape not in {(), (1,), None}
    return node.number("axis", 1) if several else None


F10 = Rule(
    "F10",
    Severity.WARNING,
    "Q goes to DQ alone, DQ comes from Q, a quantized constant or an input, and the two have the "
    "same scale and axis; what keeps values may stand between",
    why="A pair stands for a rounding; with two scales it multiplies. A DQ with a Q of the same "
    "scale after it does nothing. Data centres: operators that compute are documented to take no "
    "INT8; TensorRT for RTX: seen otherwise, it builds them.",
    source="Guide; strong-typing migration notes",
    remedy="Let both operators of a pair read one scale and one zero-point.",
    check=_pairing,
)


def _bias(view: View) -> Iterator[Outcome]:
    said: set[int] = set()
    for node in view.of("Conv", "ConvTranspose", "Gemm"):
        found = made_by(node.input(2), DEQUANTIZE)
        if found is not None:
            said.add(id(found))
            what = f"the bias of {node.op} is quantized to {stored_type(found)}"
            yield Fault(what, (found, node), _of_bias(found))
    for node in view.of("Add"):
        for bias, other in (node.inputs, node.inputs[::-1]):
            found = made_by(bias, DEQUANTIZE)
            if found is not None and is_constant(found.first) and made_by(other, *WEIGHTED):
                said.add(id(found))
                yield Fault("an added bias is quantized", (found, node), _of_bias(found))
    for node in view.of(DEQUANTIZE):
        if stored_type(node) == "INT32" and id(node) not in said and quantizer_of(node) is None:
            yield Fault("it dequantizes INT32", (node,))


def _of_bias(dequantize: Node) -> Severity:
    return Severity.ERROR if stored_type(dequantize) == "INT32" else Severity.WARNING


F11 = Rule(
    "F11",
    Severity.ERROR,
    "biases are not quantized, and nothing dequantizes INT32",
    why="The parser says 'only activation types allowed as input to this layer'. ONNX Runtime's "
    "quantize_static writes INT32 biases by default. Another type than INT32 loses precision and "
    "gains nothing (a warning).",
    source="OTT#850; ORT#14229; TRT#3360; ModelOpt, QuantizeBias=False",
    remedy="Keep biases in floating point: extra_options={'QuantizeBias': False} in ONNX Runtime.",
    check=_bias,
)


def _groups(view: View) -> Iterator[Outcome]:
    for node in view.of(*CONVOLUTIONS):
        if weight_quantizer(node) is None or node.number("group", 1) == 1:
            continue
        found = channels(node)
        if found is None:
            yield Unknown("the shape of the weight is not known", (node,))
            continue
        inputs, outputs, group = found
        each = inputs // group, outputs // group
        if 1 < group < inputs and (each[0] % 4 or each[1] % 4):
            what = (
                f"each group has {each[0]} inputs and {each[1]} outputs; both need a multiple of 4"
            )
            yield Fault(what, (node,))


F13 = Rule(
    "F13",
    Severity.WARNING,
    "quantized grouped convolutions have a multiple of 4 channels in each group",
    why="Data centres: documented, the API requires it of INT8; TensorRT for RTX: seen otherwise, "
    "it computes 2 channels a group in INT8. (Depthwise convolutions are the matter of P10.)",
    source="API, IConvolutionLayer::setNbGroups",
    remedy="Leave the convolution in floating point, or change its groups.",
    check=_groups,
)


def _constant_weight(view: View) -> Iterator[Outcome]:
    for node in view.of(*CONVOLUTIONS):
        weight: Value | None = node.input(1)
        if made_by(weight, DEQUANTIZE) and not is_constant(weight):
            yield Fault("the quantized weight is no constant", (node,))


F14 = Rule(
    "F14",
    Severity.WARNING,
    "the weight of a quantized convolution is a constant",
    why="NVIDIA's tool leaves a convolution with a computed weight in floating point. Data "
    "centres: reported; TensorRT for RTX: seen otherwise, it quantizes the weight at every "
    "inference and computes in INT8.",
    source="ModelOpt, find_nodes_from_convs_to_exclude",
    remedy="Leave a convolution with a computed weight in floating point.",
    check=_constant_weight,
)
