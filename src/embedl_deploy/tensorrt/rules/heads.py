"""Placement in attention."""

from collections.abc import Iterator

from embedl_deploy.onnx_model.view import View, dequantizer
from embedl_deploy.tensorrt.rules.attention import Attention, attentions
from embedl_deploy.tensorrt.rules.rule import Fault, Outcome, Rule, Severity, Unknown

POSITIONS = 512
HEADS = (16, 32, 64)
FP8_POSITIONS = 32
"""Of the key, with which TensorRT for RTX 1.7.1 has an FP8 kernel; the query may have fewer."""


def _int8(view: View) -> Iterator[Attention]:
    return (one for one in attentions(view) if one.quantizers and not one.is_fp8)


def _complete(view: View) -> Iterator[Outcome]:
    for one in _int8(view):
        if one.missing:
            what = f"attention is quantized in part: {', '.join(one.missing)} not"
            yield Fault(what, (one.softmax,))
    for node in view.of("Attention"):
        if any(dequantizer(value) for value in node.inputs[:3]):
            why = "the softmax is inside the operator Attention, where no pair can be seen"
            yield Unknown(why, (node,))


P16 = Rule(
    "P16",
    Severity.WARNING,
    "attention is quantized at query, key, softmax, value and result, or at none of them",
    why="There is an INT8 attention kernel only with all of them.",
    source="developer guide of 10.3, quoted in TRT#2981 and TRT#4167; TRT#3243",
    remedy="Quantize the missing places, or take all pairs away.",
    check=_complete,
)


def _limits(view: View) -> Iterator[Outcome]:
    for one in _int8(view):
        query, key, head = one.sizes
        said = [f"{n} positions" for n in (query, key) if n is not None and n > POSITIONS]
        if head is not None and head not in HEADS:
            said.append(f"heads of {head}")
        if said:
            yield Fault(
                f"quantized attention has {' and '.join(dict.fromkeys(said))}", (one.softmax,)
            )
        elif None in {query, key, head}:
            yield Unknown("positions or the size of a head are not fixed", (one.softmax,))


P17 = Rule(
    "P17",
    Severity.WARNING,
    "INT8 attention has at most 512 positions and heads of 16, 32 or 64",
    why="The INT8 kernel takes no others. (Since 10.14 heads are padded; whether INT8 too is not "
    "said.)",
    source="developer guide quoted in TRT#2981; TRT#3724; ModelOpt",
    remedy="Leave the attention in floating point.",
    check=_limits,
)


def _order(view: View) -> Iterator[Outcome]:
    for one in attentions(view):
        for name in ("query", "key"):
            operand = one.operands[name]
            if operand.between:
                ops = " and ".join(dict.fromkeys(node.op for node in operand.between))
                what = f"{ops} between DQ and the product of the {name}"
                yield Fault(what, (*operand.between, one.scores))


P18 = Rule(
    "P18",
    Severity.WARNING,
    "scaling and transposing of query and key come before Q",
    why="Between DQ and the product they keep DQ from fusing with it.",
    source="ModelOpt, fp8_exporter.py; Fused Attention page",
    remedy="Scale and transpose first, then quantize.",
    check=_order,
)


def _fp8(view: View) -> Iterator[Outcome]:
    for one in attentions(view):
        if not one.is_fp8:
            continue
        head = one.sizes[2]
        if one.missing:
            what = f"FP8 attention is quantized in part: {', '.join(one.missing)} not"
            yield Fault(what, (one.softmax,))
        if head is not None and not 8 < head <= 256:
            yield Fault(f"FP8 attention has heads of {head}", (one.softmax,))
        pair = one.weights.quantizer
        scale = view.scale(pair) if pair is not None else None
        if pair is not None and scale is not None:
            value = float(scale.astype("float32").ravel()[0])
            if abs(value * 448 - 1) > 1e-2:
                yield Fault(f"the scale of the softmax is {value:.3g}, not 1/448", (pair,))


P19 = Rule(
    "P19",
    Severity.WARNING,
    "FP8 attention is quantized at query, key, softmax (scale 1/448), value and result, with heads "
    "of 9 to 256",
    why="The FP8 attention kernel is recognised by this pattern.",
    source="ModelOpt, match_fp8_mha_pattern and fp8_exporter.py",
    remedy="Complete the pattern, or take its pairs away.",
    check=_fp8,
)


def _one_query(view: View) -> Iterator[Outcome]:
    for one in attentions(view):
        if lost := one.half_projections:
            what = f"{len(lost)} quantized projections feed an attention of one query"
            yield Fault(what, (*lost, one.softmax))


P28 = Rule(
    "P28",
    Severity.INFO,
    "weights of projections have one scale where an attention of one query reads them",
    why="Data centres: not documented; TensorRT for RTX: seen, with a scale per channel and four "
    "heads or more (times the batch) it computes query, key and value in half precision, in one "
    "kernel with the attention.",
    source="TensorRT for RTX 1.7.1",
    remedy="Write one scale for the weight and a factor per channel after the product, as the "
    "target rtx does, or leave them in floating point.",
    check=_one_query,
)
