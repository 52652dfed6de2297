"""`embedl-deploy inspect`: a dry run."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text
from torch import fx

from embedl_deploy import transform
from embedl_deploy.cli.models import example_shape, load_model
from embedl_deploy.cli.options import (
    BatchOption,
    DebugOption,
    JsonOption,
    ModelArgument,
    PatternChoice,
    PatternsOption,
    Shape,
    ShapeOption,
    WeightsOption,
    example,
    origin,
)
from embedl_deploy.cli.output import Steps, answering
from embedl_deploy.errors import QuantizationError
from embedl_deploy.quantize import insert_qdq
from embedl_deploy.report.summary import Summary, quantizers, summarize
from embedl_deploy.report.tables import figures_table, summary_tables

_NO_EXAMPLE = (
    "none: a few conversions need shapes and are declined without; --shape C,H,W gives them"
)


def inspect(
    model: ModelArgument,
    weights: WeightsOption = None,
    shape: ShapeOption = None,
    batch: BatchOption = 1,
    *,
    no_example: Annotated[
        bool, typer.Option("--no-example", help="Use no example input, so no shapes.")
    ] = False,
    patterns: PatternsOption = PatternChoice.FULL,
    every: Annotated[
        bool, typer.Option("--all", help="List every match and refusal, not groups of them.")
    ] = False,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Show what would fuse in a model, what would not, and why."""
    if no_example and shape is not None:
        raise typer.BadParameter("--no-example and --shape contradict each other")
    with answering(as_json=as_json, debug=debug) as answer:
        seen = _inspected(model, weights, patterns, shape, batch, no_example=no_example)
        answer.values = {
            "model": model,
            "weights": None if weights is None else str(weights),
            "input_shape": None if seen.shape is None else list(seen.shape),
            "patterns": patterns.value,
            "quantized_tensors": seen.tensors,
            "quantized_weights": seen.weights,
            **seen.summary.as_dict(),
        }
        head = (
            ("Model", origin(model, weights)),
            ("Input", _NO_EXAMPLE if seen.shape is None else str(seen.shape)),
            ("Patterns", patterns.value),
        )
        tables = summary_tables(seen.summary, every=every)
        tail = figures_table((("In all", _in_all(seen)), ("Coverage", _coverage(seen.summary))))
        answer.tables = [figures_table(head), *tables, Text(), tail]


@dataclass(frozen=True)
class _Inspected:
    """What would come out; `tensors` and `weights` are how many would be quantized."""

    shape: Shape | None
    summary: Summary
    tensors: int
    weights: int


def _inspected(
    model: str,
    weights: Path | None,
    patterns: PatternChoice,
    shape: Shape | None,
    batch: int,
    *,
    no_example: bool,
) -> _Inspected:
    with Steps() as steps:
        with steps.step("Loading"):
            source = load_model(model, weights=weights)
        usual = None if no_example else example_shape(model, source)
        inputs = example(shape or usual, batch)
        with steps.step("Transforming"):
            result = transform(source, inputs, patterns=patterns.patterns, copy=False)
            summary = summarize(result)
            tensors, stubbed = _quantized(result.model)
    given = None if inputs is None else Shape(inputs[0].shape)
    return _Inspected(given, summary, tensors, stubbed)


def _coverage(summary: Summary) -> str:
    return str(summary.coverage or "not known without an example input")


def _quantized(model: fx.GraphModule) -> tuple[int, int]:
    """How many tensors and weights would be quantized; the model gets its stubs."""
    try:
        return quantizers(insert_qdq(model, copy=False))
    except QuantizationError:  # no match declares a Q/DQ point
        return 0, 0


def _in_all(seen: _Inspected) -> str:
    left = seen.summary.weighted
    covered = seen.summary.coverage
    arithmetic = "" if covered is None else f" ({covered.share:.1%} of the arithmetic)"
    outside = f"{left} operations with weights are in none" if left else "all weights are in them"
    return (
        f"{len(seen.summary.fusions)} fused modules{arithmetic}, {outside}; quantization would put "
        f"{seen.tensors} tensors and {seen.weights} weights into INT8"
    )
