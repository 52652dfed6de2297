"""`embedl-deploy analyze`: which layer quantization hurts."""

from dataclasses import dataclass
from typing import Annotated

import typer
from rich.text import Text

from embedl_deploy.cli.commands.order import Order
from embedl_deploy.cli.commands.prepare import prepared
from embedl_deploy.cli.data_options import LimitOption
from embedl_deploy.cli.options import (
    DebugOption,
    JsonOption,
    ReportOption,
    origin,
)
from embedl_deploy.cli.output import Steps, answering
from embedl_deploy.cli.spread import spread
from embedl_deploy.quantize import Analysis
from embedl_deploy.quantize import analyze as analyze_model
from embedl_deploy.report.blocks import figures_table
from embedl_deploy.report.summary import summarize
from embedl_deploy.report.tables import analysis_table

_SHOWN = 20
"""Rows of the table without --all."""


@dataclass(frozen=True, kw_only=True)
class Question(Order):
    """What `analyze` is asked for; its fields are options."""

    limit: LimitOption = 64
    sensitivity: Annotated[
        bool,
        typer.Option(
            "--sensitivity",
            help="Quantize every place alone too, and look at the outputs; one run for each.",
        ),
    ] = False
    every: Annotated[bool, typer.Option("--all", help="List every place, not the worst.")] = False
    page: ReportOption = None


@spread
def analyze(order: Question, *, as_json: JsonOption = False, debug: DebugOption = False) -> None:
    """Show which layer of a model quantization hurts."""
    with answering(as_json=as_json, debug=debug) as answer:
        with Steps() as steps:
            made = prepared(order, steps, 1)
            with steps.step("Analyzing") as progress:
                found = analyze_model(
                    made.model, made.data, sensitivity=order.sensitivity, progress=progress
                )
        answer.values = {"model": order.model, "data": order.data, **found.to_dict()}
        rows = found.rows if order.every else found.rows[:_SHOWN]
        answer.tables = [analysis_table(rows), Text(), figures_table(_figures(order, found))]
        answer.write_page(
            order.page,
            model=made.model,
            analysis=found,
            summary=summarize(made.result),
            figures=_figures(order, found),
            title=order.model,
        )


def _figures(order: Question, found: Analysis) -> list[tuple[str, str]]:
    left = len(found.rows) - _SHOWN
    figures = [
        ("Model", origin(order.model, order.weights)),
        ("At output", f"{found.output_sqnr_db:.1f} dB with everything quantized"),
    ]
    if left > 0 and not order.every:
        figures.append(("Not shown", f"{left} places that hurt less; --all lists them"))
    return figures
