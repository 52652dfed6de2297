"""`embedl-deploy verify`: does an ONNX file compute what a model does?"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text
from torch import nn

from embedl_deploy.cli.commands.prepare import Order, data_of, prepared
from embedl_deploy.cli.data import first_batches
from embedl_deploy.cli.models import load_model
from embedl_deploy.cli.options import DebugOption, FileArgument, JsonOption, ReportOption, origin
from embedl_deploy.cli.output import Steps, answering
from embedl_deploy.cli.spread import spread
from embedl_deploy.errors import VerificationError
from embedl_deploy.export import Parity, verify_onnx
from embedl_deploy.export.manifest import Manifest
from embedl_deploy.export.probe import load
from embedl_deploy.report.parity import parity_dict, stub_dicts, stub_table
from embedl_deploy.report.tables import figures_table

_SHOWN = 20
"""Rows of the table without --all."""

_SAME = "are weights, data and options those that deploy wrote the file with?"


@dataclass(frozen=True, kw_only=True)
class Comparison(Order):
    """What `verify` is asked for; its fields are options."""

    layers: Annotated[
        bool,
        typer.Option(
            "--layers",
            help="Compare every quantizer with the simulation; give the options that deploy wrote "
            "the file with.",
        ),
    ] = False
    least: Annotated[
        float,
        typer.Option(
            "--min-sqnr", metavar="DB", help="Signal to noise of the outputs below which it fails."
        ),
    ] = 10.0
    batches: Annotated[
        int, typer.Option("--batches", min=1, metavar="N", help="Batches to compare.")
    ] = 2
    every: Annotated[bool, typer.Option("--all", help="List every layer, not the worst.")] = False
    page: ReportOption = None


@spread
def verify(
    file: FileArgument,
    order: Comparison,
    *,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Compare an ONNX file, run by ONNX Runtime, with a model."""
    with answering(as_json=as_json, debug=debug) as answer:
        with Steps() as steps:
            parity = _compared(file, order, steps)
        ok = parity.only_ties if order.layers else parity.sqnr_db >= order.least
        answer.values = {"file": str(file), "model": order.model, "ok": ok, **parity_dict(parity)}
        answer.tables = [figures_table(_figures(file, order, parity, ok=ok))]
        if order.layers:
            answer.values["layers"] = stub_dicts(parity)
            worst = sorted(parity.stubs.values(), key=lambda one: -one.distance)
            shown = worst if order.every else worst[:_SHOWN]
            answer.tables = [stub_table(shown), Text(), *answer.tables]
        answer.write_page(
            order.page, file=file, parity=parity, figures=_figures(file, order, parity, ok=ok)
        )
    if not ok:
        raise typer.Exit(1)


def _compared(file: Path, order: Comparison, steps: Steps) -> Parity:
    model: nn.Module
    if order.layers:
        _hold_ours(file)
        made = prepared(order, steps, 1)
        model, data = made.model, made.data
    else:
        with steps.step("Loading"):
            model = load_model(order.model, weights=order.weights)
            data = data_of(order, model)
    some = first_batches(data, order.batches)
    with steps.step("Verifying") as progress:
        return verify_onnx(file, model, some, stubs=order.layers, progress=progress)


def _hold_ours(file: Path) -> None:
    """Raise unless the quantizers of a file have counterparts in the simulation.

    Raises:
        VerificationError: Another tool wrote it.
    """
    if Manifest.read(load(file)) is None:
        raise VerificationError(
            f"another tool wrote '{file}', so its quantizers have no counterpart in the model; "
            "leave --layers out to compare the outputs"
        )


def _by_output(parity: Parity) -> list[tuple[str, str]]:
    """Each of several outputs, and what is an order."""
    rows = [("", f"{one.sqnr_db:.1f} dB at {name}") for name, one in parity.outputs.items()]
    orders = [("Order", one.said(name)) for name, one in parity.orders.items()]
    return [*(rows if len(rows) > 1 else ()), *orders]


def _figures(file: Path, order: Comparison, parity: Parity, *, ok: bool) -> list[tuple[str, str]]:
    figures = [
        ("File", str(file)),
        ("Model", origin(order.model, order.weights)),
        ("Compared", f"{parity.values:,} output values of {order.data}"),
        ("Signal to noise", f"{parity.sqnr_db:.1f} dB at the outputs"),
        *_by_output(parity),
        ("Largest difference", f"{parity.largest_difference:.3g} of {parity.largest_output:.3g}"),
    ]
    if order.layers:
        hidden = 0 if order.every else max(0, len(parity.stubs) - _SHOWN)
        more = f"; {hidden} that differ less are not shown, --all lists them" if hidden else ""
        figures.append(("Layers", f"{len(parity.stubs)} quantizers{more}"))
        verdict = "the file computes what was simulated" if ok else f"{parity}; {_SAME}"
    else:
        side = "at least" if ok else "less than"
        verdict = f"{side} the {order.least:g} dB that are asked for"
    return [*figures, ("Verdict", verdict)]
