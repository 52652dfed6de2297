"""`embedl-deploy compare`: two ONNX files side by side."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import RenderableType
from rich.filesize import decimal
from rich.text import Text

from embedl_deploy.cli.data import Normalization, load_data
from embedl_deploy.cli.data_options import MeanOption, NoNormalizationOption, StdOption
from embedl_deploy.cli.options import (
    DATA,
    DebugOption,
    FileArgument,
    JsonOption,
    ReportOption,
    ShapeOption,
    VersionOption,
)
from embedl_deploy.cli.output import Steps, answering
from embedl_deploy.cli.spread import spread
from embedl_deploy.export import Difference, FileParity, OutputParity, compare_files
from embedl_deploy.report.beside import Beside, Side
from embedl_deploy.report.blocks import columns, figures_table
from embedl_deploy.table import counted

_SHOWN = 10
"""Layers without --all."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """What `compare` is asked for; its fields are options.

    Raises:
        BadParameter: How images are to be normalized is not said, or there are none.
    """

    first: FileArgument
    second: Annotated[
        Path, typer.Argument(metavar="OTHER.onnx", help="Another one.", show_default=False)
    ]
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            metavar="SOURCE",
            rich_help_panel=DATA,
            help="Inputs for both, as in deploy; one batch of random numbers without.",
            show_default=False,
        ),
    ] = None
    shape: ShapeOption = None
    mean: MeanOption = None
    std: StdOption = None
    no_normalization: NoNormalizationOption = False
    limit: Annotated[
        int, typer.Option(min=1, metavar="N", rich_help_panel=DATA, help="Samples at most.")
    ] = 16
    version: VersionOption = "11.x"
    least: Annotated[
        float | None,
        typer.Option(
            "--min-sqnr",
            metavar="DB",
            help="Signal to noise of the outputs below which it fails.",
            show_default=False,
        ),
    ] = None
    every: Annotated[bool, typer.Option("--all", help="List every layer, not the worst.")] = False

    def __post_init__(self) -> None:
        images = self.data is not None and Path(self.data).is_dir()
        how = (self.mean, self.std) != (None, None) or self.no_normalization
        if how and not images:
            raise typer.BadParameter("--mean, --std and --no-normalization are for images")
        if images and not self.no_normalization and None in (self.mean, self.std):
            raise typer.BadParameter("images need --mean and --std, or --no-normalization")
        if self.shape is not None and self.data is None:
            raise typer.BadParameter("--shape is for --data; what is drawn has the file's shapes")

    @property
    def normalization(self) -> Normalization | None:
        """Of images."""
        if self.mean is None or self.std is None:
            return None
        return Normalization(tuple(self.mean), tuple(self.std))


@spread
def compare(
    pair: Pair,
    *,
    page: ReportOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Compare two ONNX files."""
    with answering(as_json=as_json, debug=debug) as answer:
        with Steps() as steps:
            with steps.step("Reading"):
                sides = Side.of(pair.first, pair.version), Side.of(pair.second, pair.version)
            with steps.step("Running") as progress:
                found = compare_files(pair.first, pair.second, _data(pair), progress=progress)
        beside = Beside(sides, found, pair.data)
        answer.values = beside.to_dict()
        answer.tables = [*_tables(sides), *_layer_tables(found, every=pair.every)]
        answer.tables.append(figures_table(_figures(pair, found)))
        title = " and ".join(one.file.path.name for one in sides)
        answer.write_page(page, file=sides[0].file, title=title, beside=beside)
    if pair.least is not None and found.sqnr_db < pair.least:
        raise typer.Exit(1)


def _data(pair: Pair) -> Any:
    if pair.data is None:
        return None
    return load_data(
        pair.data,
        shape=pair.shape,
        limit=pair.limit,
        normalization=pair.normalization,
        batch_size=pair.limit,
    )


def _tables(sides: Sequence[Side]) -> Iterator[RenderableType]:
    table = columns("", "First", "Second")
    for name, said in _facts(sides).items():
        table.add_row(Text(name, "bold"), *said)
    yield table
    yield Text()
    for title, counts in (
        ("Kernels expected", [one.kernels for one in sides]),
        ("Findings", [one.rules for one in sides]),
    ):
        if any(counts):
            yield _counted(title, counts)
            yield Text()


def _facts(sides: Sequence[Side]) -> Mapping[str, Sequence[str]]:
    return {
        "File": [str(one.file.path) for one in sides],
        "Size": [decimal(one.size) for one in sides],
        "Opset": [str(one.report.opset) for one in sides],
        "Operators": [str(len(one.file.model.graph.node)) for one in sides],
        "Arithmetic": [one.types or "not known" for one in sides],
        "Kernels": [str(len(one.expected.kernels)) for one in sides],
        "Checked": [one.report.summary.partition(" by ")[0] for one in sides],
    }


def _counted(title: str, counts: Sequence[Counter[str]]) -> RenderableType:
    table = columns(title, "First", "Second", right=("First", "Second"))
    for name in dict.fromkeys((*counts[0], *counts[1])):
        one, other = (counter[name] for counter in counts)
        table.add_row(Text(name, "" if one == other else "yellow"), str(one), str(other))
    return table


def _layer_tables(found: FileParity, *, every: bool) -> Iterator[RenderableType]:
    shown = _differing(found) if not every else found.layers
    if not shown:
        return
    numbers = ("SQNR", "Largest difference")
    table = columns(*numbers, "Layer", right=numbers)
    worst = sorted(shown.items(), key=lambda one: one[1].sqnr_db)
    for name, one in worst if every else worst[:_SHOWN]:
        same = not one.largest_difference
        figures = ("the same", "") if same else (f"{one.sqnr_db:.1f} dB", f"{one.relative:.2%}")
        table.add_row(*figures, Text(name))
    yield table
    yield Text()


def _differing(found: FileParity) -> dict[str, Difference]:
    return {name: one for name, one in found.layers.items() if one.largest_difference}


def _figures(pair: Pair, found: FileParity) -> list[tuple[str, str]]:
    source = "random numbers" if pair.data is None else pair.data
    figures = [("Compared", f"on {counted(found.samples, 'sample')} of {source}")]
    figures += [(name, _said(one)) for name, one in found.outputs.items()]
    differing = len(_differing(found))
    if same := len(found.layers) - differing:
        figures.append(("The same", f"{counted(same, 'layer')} of {len(found.layers)}"))
    if not pair.every and (hidden := max(0, differing - _SHOWN)):
        left = counted(hidden, "layer")
        figures.append(("Not shown", f"{left} with less difference; --all lists them"))
    if not found.layers:
        figures.append(("Layers", "none has the same name and kind in both files"))
    return figures


def _said(one: OutputParity) -> str:
    said = f"{one.sqnr_db:.1f} dB, differs by at most {one.relative:.2%} of the largest value"
    said = said if one.largest_difference else "the same numbers"
    if not one.rows:
        return said
    return f"{said}; top-1 agrees in {one.agreement:.1%} ({one.same_top} of {one.rows})"
