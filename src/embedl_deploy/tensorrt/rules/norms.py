"""Placement at normalizations and softmax."""

from collections.abc import Iterator

from embedl_deploy.onnx_model.view import (
    CONVOLUTIONS,
    COPIES,
    DEQUANTIZE,
    View,
    is_quantized,
    made_by,
)
from embedl_deploy.tensorrt.rules.chains import decomposed_norms
from embedl_deploy.tensorrt.rules.rule import Fault, Outcome, Rule, Severity


def _written_out(view: View) -> Iterator[Outcome]:
    if not any(True for _ in view.quantized):
        return
    for norm in decomposed_norms(view):
        yield Fault("a layer norm is written out in single operators", (norm.division,))
        if norm.inside:
            yield Fault("a pair is inside a layer norm", (*norm.inside, norm.division))


P13 = Rule(
    "P13",
    Severity.WARNING,
    "layer norm is the one operator LayerNormalization",
    why="Written out it runs as many kernels in floating point, which takes what INT8 gains.",
    source="TRT#4242, TRT#3230",
    remedy="Export with opset 17 or above.",
    check=_written_out,
)


def _behind_conv(view: View) -> Iterator[Outcome]:
    for node in view.of("LayerNormalization"):
        value = node.input(0)
        while copying := made_by(value, *COPIES):
            value = copying.first
        conv = made_by(value, *CONVOLUTIONS)
        if conv is not None and is_quantized(conv):
            yield Fault("a quantized convolution gives layer norm its values unquantized", (node,))


P14 = Rule(
    "P14",
    Severity.WARNING,
    "a pair is between a quantized convolution and layer norm",
    why="The convolution's output stays in floating point, which is slow in ConvNeXt. Contested: "
    "the Guide quantizes no outputs without need.",
    source="MO#1117",
    remedy="Quantize the output of the convolution, or leave it in floating point; measure.",
    check=_behind_conv,
)


def _into_softmax(view: View) -> Iterator[Outcome]:
    for node in view.of("Softmax"):
        pair = made_by(node.first, DEQUANTIZE)
        if pair is not None:
            yield Fault("a pair is before Softmax", (pair, node))
        mask = made_by(node.first, "Add")
        pairs = [made_by(one, DEQUANTIZE) for one in mask.inputs] if mask is not None else []
        for found in pairs:
            if found is not None and mask is not None:
                yield Fault("a pair is at the addition of the mask", (found, mask))
    for node in view.of("LayerNormalization"):
        for index in (1, 2):
            pair = made_by(node.input(index), DEQUANTIZE)
            if pair is not None:
                yield Fault("factor or shift of a layer norm is quantized", (pair, node))


P15 = Rule(
    "P15",
    Severity.WARNING,
    "the input of Softmax, the addition of a mask, and factor and shift of layer norm are not "
    "quantized",
    why="They run in floating point; a pair there splits the attention kernel or the norm.",
    source="ModelOpt, filter_quantizable_kgen_heads",
    remedy="Take the pair away.",
    check=_into_softmax,
)
