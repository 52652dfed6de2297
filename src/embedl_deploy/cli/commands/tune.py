"""`embedl-deploy tune`: where to quantize, as a plan that `deploy` follows."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from embedl_deploy.cli.commands.order import Material
from embedl_deploy.cli.commands.prepare import Transformed, transformed
from embedl_deploy.cli.data_options import LimitOption
from embedl_deploy.cli.options import DebugOption, GpuOption, JsonOption, TargetOption
from embedl_deploy.cli.output import StepProgress, Steps, answering
from embedl_deploy.cli.spread import spread
from embedl_deploy.cli.values import TargetChoice
from embedl_deploy.export.files import written_beside
from embedl_deploy.tuning import Tuning, tune

_COST = "Of the file at most; the most accurate placement is sought."


@dataclass(frozen=True, kw_only=True)
class Search(Material):
    """What `tune` is asked for; its fields are options.

    Raises:
        BadParameter: There is more than one bound.
    """

    output: Annotated[
        Path,
        typer.Argument(
            metavar="PLAN.json",
            help="The plan to write; what was measured is beside it.",
            show_default=False,
        ),
    ]
    min_sqnr: Annotated[
        float | None,
        typer.Option("--min-sqnr", metavar="DB", help="Signal to noise at the outputs at least."),
    ] = None
    max_drop: Annotated[
        float | None,
        typer.Option(
            "--max-drop", metavar="PERCENT", help="Share of samples whose class may change."
        ),
    ] = None
    max_time: Annotated[
        float | None, typer.Option("--max-time", metavar="MICROSECONDS", help=_COST)
    ] = None
    max_bytes: Annotated[
        float | None, typer.Option("--max-bytes", metavar="MEGABYTES", help=f"{_COST} Bytes moved.")
    ] = None
    target: TargetOption = TargetChoice.RTX
    gpu: GpuOption = "rtx4090"
    limit: LimitOption = 64
    trials: Annotated[
        int,
        typer.Option(min=0, metavar="N", help="Placements beyond those that quantize everything."),
    ] = 12

    def __post_init__(self) -> None:
        super().__post_init__()
        bounds = (self.min_sqnr, self.max_drop, self.max_time, self.max_bytes)
        if sum(one is not None for one in bounds) > 1:
            raise typer.BadParameter(
                "give one of --min-sqnr, --max-drop, --max-time and --max-bytes"
            )

    @property
    def measurements(self) -> Path:
        """The file that a search continues from."""
        return self.output.with_suffix(".measured.jsonl")


@spread
def find_placement(
    search: Search, *, as_json: JsonOption = False, debug: DebugOption = False
) -> None:
    """Find what to quantize."""
    with answering(as_json=as_json, debug=debug) as answer:
        with Steps() as steps:
            made = transformed(search, steps, batch=1)
            with steps.step("Tuning") as progress:
                found = _found(search, made, progress)
        _write(found, search.output)
        answer.values = found.to_dict() | {"output": str(search.output)}
        answer.tables = [Text(str(found))]


def _found(search: Search, made: Transformed, progress: StepProgress) -> Tuning:
    """Search; after each measurement the best so far is on disk."""

    def report(_: str, so_far: Tuning | None) -> None:
        if so_far is not None:
            _write(so_far, search.output)
            progress(len(so_far.candidates), None)

    return tune(
        made.result,
        made.data,
        min_sqnr=search.min_sqnr,
        max_drop=search.max_drop,
        max_cost=search.max_time if search.max_bytes is None else search.max_bytes,
        unit="time" if search.max_bytes is None else "bytes",
        gpu=search.gpu,
        samples=search.limit,
        trials=search.trials,
        store=search.measurements,
        report=report,
    )


def _write(found: Tuning, output: Path) -> None:
    with written_beside(output) as draft:
        draft.write_text(json.dumps(found.to_dict(), indent=1) + "\n", encoding="utf-8")
