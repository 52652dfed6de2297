"""`embedl-deploy inspect`: a dry run."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.text import Text
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from embedl_deploy import transform
from embedl_deploy.cli.commands.prepare import example_of
from embedl_deploy.cli.data import load_data
from embedl_deploy.cli.data_options import ExampleDataOption
from embedl_deploy.cli.models import advising, example_dtype, example_shape, load_model
from embedl_deploy.cli.options import (
    BatchOption,
    DebugOption,
    InputsOption,
    JsonOption,
    ModelArgument,
    PatternsOption,
    ReportOption,
    ShapeOption,
    TargetOption,
    WeightsOption,
    origin,
)
from embedl_deploy.cli.output import Steps, answering
from embedl_deploy.cli.spread import spread
from embedl_deploy.cli.values import PatternChoice, Shape, TargetChoice
from embedl_deploy.errors import QuantizationError
from embedl_deploy.quantize import insert_qdq
from embedl_deploy.report.blocks import figures_table
from embedl_deploy.report.summary import Summary, quantizers, summarize
from embedl_deploy.report.tables import summary_tables

_NO_EXAMPLE = (
    "none: a few conversions need shapes and are declined without; --shape C,H,W gives them, or "
    "--input NAME:SHAPE:DTYPE, or --data"
)


@dataclass(frozen=True, kw_only=True)
class Look:
    """What `inspect` is asked for; its fields are options.

    Raises:
        BadParameter: Options contradict each other.
    """

    model: ModelArgument
    weights: WeightsOption = None
    shape: ShapeOption = None
    inputs: InputsOption = None
    data: ExampleDataOption = None
    batch: BatchOption = 1
    no_example: Annotated[
        bool, typer.Option("--no-example", help="Use no example input, so no shapes.")
    ] = False
    target: TargetOption = TargetChoice.TENSORRT
    patterns: PatternsOption = PatternChoice.FULL
    every: Annotated[
        bool, typer.Option("--all", help="List every match and refusal, not groups of them.")
    ] = False
    page: ReportOption = None

    def __post_init__(self) -> None:
        given = {"--no-example": self.no_example, "--input": bool(self.inputs)}
        given |= {"--shape": self.shape is not None, "--data": self.data is not None}
        named = [name for name, there in given.items() if there]
        images = {"--shape", "--data"} == set(named) and Path(str(self.data)).is_dir()
        if len(named) > 1 and not images:
            raise typer.BadParameter(f"{' and '.join(named)} contradict each other")
        if self.inputs and self.batch != 1:
            raise typer.BadParameter("--batch says nothing beside --input, whose shapes have it")


@spread
def inspect(look: Look, *, as_json: JsonOption = False, debug: DebugOption = False) -> None:
    """Show what would fuse in a model, what would not, and why."""
    with answering(as_json=as_json, debug=debug) as answer:
        seen = _inspected(look)
        answer.values = {
            "model": look.model,
            "weights": None if look.weights is None else str(look.weights),
            "input_shape": list(seen.shapes[0]) if len(seen.shapes) == 1 else None,
            "input_shapes": [list(shape) for shape in seen.shapes],
            "target": look.target.value,
            "patterns": look.patterns.value,
            "quantized_tensors": seen.tensors,
            "quantized_weights": seen.weights,
            **seen.summary.as_dict(),
        }
        head = (
            ("Model", origin(look.model, look.weights)),
            ("Input", ", ".join(map(str, seen.shapes)) or _NO_EXAMPLE),
            ("Target", look.target.target.name),
            ("Patterns", look.patterns.value),
        )
        tables = summary_tables(seen.summary, every=look.every)
        tail = figures_table((("In all", _in_all(seen)), ("Coverage", _coverage(seen.summary))))
        answer.tables = [figures_table(head), *tables, Text(), tail]
        answer.write_page(
            look.page, model=seen.model, summary=seen.summary, figures=head, title=look.model
        )


@dataclass(frozen=True)
class _Inspected:
    """What would come out; `tensors` and `weights` are how many would be quantized."""

    model: fx.GraphModule
    shapes: tuple[Shape, ...]
    summary: Summary
    tensors: int
    weights: int


def _inspected(look: Look) -> _Inspected:
    with Steps() as steps:
        with steps.step("Loading"):
            source = load_model(look.model, weights=look.weights)
            args, kwargs = _example(look, source)
        with steps.step("Transforming"):
            target = look.target.target
            patterns = target.named(look.patterns.value)
            with advising(look.model, source):
                result = transform(
                    source, args, kwargs, patterns=patterns, target=target, copy=False
                )
            summary = summarize(result)
            tensors, stubbed = _quantized(result.model)
    given = [one for one in pytree.tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
    return _Inspected(
        result.model, tuple(Shape(one.shape) for one in given), summary, tensors, stubbed
    )


def _example(look: Look, source: nn.Module) -> tuple[tuple[Any, ...] | None, dict[str, Any]]:
    """Example inputs, by position and by name; `None` for no example."""
    if look.inputs:
        unnamed = tuple(one.tensor for one in look.inputs if not one.name)
        return unnamed, {one.name: one.tensor for one in look.inputs if one.name}
    if look.no_example:
        return None, {}
    usual = look.shape or example_shape(look.model, source)
    if look.data is None:
        if usual is None:
            return None, {}
        return (torch.zeros(look.batch, *usual, dtype=example_dtype(source)),), {}
    images = Path(look.data).is_dir()
    data = load_data(
        look.data,
        shape=usual if images else None,
        batch_size=look.batch,
        limit=look.batch,
    )
    return example_of(source, next(iter(data)), look.batch)


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
