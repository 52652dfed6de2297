"""Placement at the inputs and outputs of the file, and at embeddings."""

from collections.abc import Iterator

from embedl_deploy.onnx_model.view import (
    BINARY,
    COPIES,
    DEQUANTIZE,
    POOLS,
    QUANTIZE,
    View,
    dequantizer,
    is_constant,
    made_by,
)
from embedl_deploy.tensorrt.rules.chains import PLAIN, SMOOTH
from embedl_deploy.tensorrt.rules.rule import Fault, Outcome, Rule, Severity

_WITHOUT_WEIGHTS = ("MaxPool", *sorted(POOLS | BINARY | PLAIN | SMOOTH))


def _ends(view: View) -> Iterator[Outcome]:
    for value in view.graph.outputs:
        pair = dequantizer(value, COPIES)
        if pair is not None:
            yield Fault(f"the output '{value.name}' is quantized", (pair,))
            continue
        maker = made_by(value, *_WITHOUT_WEIGHTS)
        inputs = [one for one in maker.inputs if not is_constant(one)] if maker else []
        if maker is not None and all(made_by(one, DEQUANTIZE) for one in inputs):
            what = f"{maker.op} reads quantized values and gives the output '{value.name}'"
            yield Fault(what, (maker,))
    for node in view.of(QUANTIZE):
        if node.first.is_input:
            what = f"the input '{node.first.name}' is quantized first"
            yield Fault(what, (node,), Severity.INFO)


P21 = Rule(
    "P21",
    Severity.WARNING,
    "no output is quantized, nor comes from a quantized operator without weights",
    why="Values are rounded without a kernel that gains from it. A Q on an input of the file is a "
    "kernel of its own (a note).",
    source="ModelOpt, get_skipped_output_layers; TRT#3492",
    remedy="Take the pairs at the output away; one at an input is needed by the kernel after it.",
    check=_ends,
)


def _embedding(view: View) -> Iterator[Outcome]:
    for node in view.of("Gather"):
        table = node.input(0)
        following = [use for use in node.output.users if use.op == DEQUANTIZE]
        if is_constant(table) and (made_by(table, DEQUANTIZE) or following):
            yield Fault("an embedding is quantized", (node,))


P23 = Rule(
    "P23",
    Severity.INFO,
    "embeddings are not quantized",
    why="Gather computes nothing; INT8 saves memory there, and no time.",
    source="ModelOpt, presets",
    remedy="Leave the table in floating point unless memory counts.",
    check=_embedding,
)
