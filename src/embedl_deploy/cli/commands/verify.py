"""`embedl-deploy verify`: does an ONNX file compute what a model does?"""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from embedl_deploy.cli.commands.answer import LEAST_DB, Answers, answers
from embedl_deploy.cli.commands.order import Judged
from embedl_deploy.cli.commands.prepare import data_of, prepared
from embedl_deploy.cli.data import first_batches
from embedl_deploy.cli.models import load_model
from embedl_deploy.cli.options import DebugOption, FileArgument, JsonOption, ReportOption, origin
from embedl_deploy.cli.output import Steps, answering
from embedl_deploy.cli.spread import given_options, spread
from embedl_deploy.errors import LoadError, VerificationError
from embedl_deploy.export import Parity, verify_onnx
from embedl_deploy.export.manifest import Manifest
from embedl_deploy.export.probe import load
from embedl_deploy.onnx_model import OnnxFile
from embedl_deploy.report.blocks import figures_table
from embedl_deploy.report.parity import parity_dict, stub_dicts, stub_table
from embedl_deploy.report.words import numbers_of
from embedl_deploy.table import counted

_SHOWN = 20
"""Rows of the table without --all."""

_VERIFIED_BATCHES = 2
"""Batches of which every integer is compared."""

_SAME = "are weights, data and options those that deploy wrote the file with?"


@dataclass(frozen=True, kw_only=True)
class Comparison(Judged):
    """What `verify` is asked for; its fields are options, and the file's manifest has the rest."""

    model: Annotated[
        str,
        typer.Argument(
            metavar="[MODEL]",
            help="As in deploy; a file that deploy wrote knows it.",
            show_default=False,
        ),
    ] = ""
    data: Annotated[
        str,
        typer.Option(
            "--data", metavar="SOURCE", help="As in deploy; likewise.", show_default=False
        ),
    ] = ""
    layers: Annotated[
        bool,
        typer.Option(
            "--layers",
            help="Compare every quantizer with the simulation, not the outputs with the model.",
        ),
    ] = False
    least: Annotated[
        float,
        typer.Option(
            "--min-sqnr", metavar="DB", help="Signal to noise of the outputs below which it fails."
        ),
    ] = LEAST_DB
    every: Annotated[bool, typer.Option("--all", help="List every layer, not the worst.")] = False
    page: ReportOption = None


@spread
def verify(
    file: FileArgument,
    order: Comparison,
    context: typer.Context,
    *,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Compare an ONNX file, run by ONNX Runtime, with a model."""
    with answering(as_json=as_json, debug=debug) as answer:
        order = _whole(file, order, given_options(context))
        opened = OnnxFile.open(file)
        with Steps() as steps:
            found = _layers(file, order, steps) if order.layers else _outputs(opened, order, steps)
        parity = found.parity if isinstance(found, Answers) else found
        ok = parity.only_ties if order.layers else parity.sqnr_db >= order.least
        said = found.as_dict() if isinstance(found, Answers) else parity_dict(parity)
        known = {"file": str(file), "model": order.model, "data": order.data}
        answer.values = {**known, "numbers": numbers_of(opened), "ok": ok, **said}
        answer.tables = [figures_table(_figures(file, order, found, ok=ok))]
        if order.layers:
            answer.values["layers"] = stub_dicts(parity)
            worst = sorted(parity.stubs.values(), key=lambda one: -one.distance)
            shown = worst if order.every else worst[:_SHOWN]
            answer.tables = [stub_table(shown), Text(), *answer.tables]
        part = {"parity" if order.layers else "answers": parity}
        figures = _figures(file, order, found, ok=ok)
        answer.write_page(order.page, file=opened, figures=figures, **part)
    if not ok:
        raise typer.Exit(1)


def _whole(file: Path, order: Comparison, given: Collection[str]) -> Comparison:
    """With the options that the file's manifest has, where none are given.

    Raises:
        LoadError: Neither says which model, or which data.
    """
    manifest = Manifest.read(load(file))
    noted = {} if manifest is None else manifest.deployment.get("options", {})
    order = order.restored(noted, given)
    for name, value in (("a model", order.model), ("--data", order.data)):
        if not value:
            raise LoadError(f"'{file}' does not say what it was made of; give {name}")
    return order


def _outputs(file: OnnxFile, order: Comparison, steps: Steps) -> Answers:
    """The file against the model in floating point."""
    with steps.step("Loading"):
        model = load_model(order.model, weights=order.weights)
        split = data_of(order, model)
    found = answers(file, model, order, split, steps)
    if found is None:
        raise LoadError("--held-out 0 leaves nothing to compare")
    return found


def _layers(file: Path, order: Comparison, steps: Steps) -> Parity:
    """The file against the simulation."""
    _hold_ours(file)
    made = prepared(order, steps, 1)
    with steps.step("Verifying") as progress:
        some = first_batches(made.data, _VERIFIED_BATCHES)
        return verify_onnx(file, made.model, some, progress=progress)


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


def _figures(
    file: Path, order: Comparison, found: Answers | Parity, *, ok: bool
) -> list[tuple[str, str]]:
    about = [("File", str(file)), ("Model", origin(order.model, order.weights))]
    if isinstance(found, Answers):
        side = "at least" if ok else "less than"
        verdict = f"{side} the {order.least:g} dB that are asked for"
        compared = f"{found.parity.values:,} output values of {order.data}"
        return [*found.rows, *about, ("Compared", compared), ("Verdict", verdict)]
    hidden = 0 if order.every else max(0, len(found.stubs) - _SHOWN)
    more = f"; not shown: {hidden} with less difference, --all lists them" if hidden else ""
    verdict = "the file computes what was simulated" if ok else f"{found}; {_SAME}"
    return [
        *about,
        ("Compared", f"{found.values:,} output values of {order.data}"),
        ("Parity", f"file against simulation: {found}"),
        ("Layers", f"{counted(len(found.stubs), 'quantizer')}{more}"),
        ("Verdict", verdict),
    ]
