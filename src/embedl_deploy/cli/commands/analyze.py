"""`embedl-deploy analyze`: which layer quantization hurts."""

from typing import Annotated

import typer
from rich.text import Text

from embedl_deploy.cli.commands.prepare import Order, prepared
from embedl_deploy.cli.options import (
    BatchSizeOption,
    DataOption,
    DebugOption,
    JsonOption,
    LimitOption,
    MeanOption,
    ModelArgument,
    NoNormalizationOption,
    ObserverChoice,
    ObserverOption,
    PatternChoice,
    PatternsOption,
    PercentileOption,
    ShapeOption,
    StdOption,
    WeightsOption,
    check_choices,
    origin,
)
from embedl_deploy.cli.output import Steps, answering
from embedl_deploy.quantize import analyze as analyze_model
from embedl_deploy.report.tables import analysis_table, figures_table

_SHOWN = 20
"""Rows of the table without --all."""


def analyze(  # noqa: PLR0913 - one argument for each option
    model: ModelArgument,
    data: DataOption,
    weights: WeightsOption = None,
    shape: ShapeOption = None,
    *,
    patterns: PatternsOption = PatternChoice.FULL,
    observer: ObserverOption = ObserverChoice.MINMAX,
    percentile: PercentileOption = None,
    batch_size: BatchSizeOption = 32,
    limit: LimitOption = 64,
    mean: MeanOption = None,
    std: StdOption = None,
    no_normalization: NoNormalizationOption = False,
    sensitivity: Annotated[
        bool,
        typer.Option(
            "--sensitivity",
            help="Quantize every place alone too, and look at the outputs; one run for each.",
        ),
    ] = False,
    every: Annotated[bool, typer.Option("--all", help="List every place, not the worst.")] = False,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Show which layer of a model quantization hurts."""
    check_choices(observer, percentile, mean, std, normalize=not no_normalization)
    order = Order(
        model=model,
        data=data,
        weights=weights,
        shape=shape,
        patterns=patterns,
        observer=observer,
        percentile=99.99 if percentile is None else percentile,
        batch_size=batch_size,
        limit=limit,
        mean=mean,
        std=std,
        normalize=not no_normalization,
    )
    with answering(as_json=as_json, debug=debug) as answer:
        with Steps() as steps:
            made = prepared(order, steps, 1)
            with steps.step("Analyzing") as progress:
                found = analyze_model(
                    made.model, made.data, sensitivity=sensitivity, progress=progress
                )
        answer.values = {"model": model, "data": data, **found.to_dict()}
        left = len(found.rows) - _SHOWN
        figures = [
            ("Model", origin(model, weights)),
            ("At output", f"{found.output_sqnr_db:.1f} dB with everything quantized"),
        ]
        if left > 0 and not every:
            figures.append(("Not shown", f"{left} places that hurt less; --all lists them"))
        rows = found.rows if every else found.rows[:_SHOWN]
        answer.tables = [analysis_table(rows), Text(), figures_table(figures)]
