"""`embedl-deploy tune`: where to quantize, as a plan that `deploy` follows."""

import json
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated

import typer

from embedl_deploy.cli.commands.bounds import Bounds
from embedl_deploy.cli.commands.job import Job
from embedl_deploy.cli.commands.order import Material
from embedl_deploy.cli.commands.prepare import Transformed, transformed
from embedl_deploy.cli.data_options import LimitOption
from embedl_deploy.cli.options import (
    FILE,
    DebugOption,
    FileBatchOption,
    GpuOption,
    JsonOption,
    ReportOption,
    TargetOption,
)
from embedl_deploy.cli.output import StepProgress, Steps, answering
from embedl_deploy.cli.spread import spread
from embedl_deploy.cli.values import HalfChoice, TargetChoice
from embedl_deploy.export.files import written_beside
from embedl_deploy.report.blocks import printed
from embedl_deploy.tuning import Tuning, tune

_GPU = "rtx4090"
_SAMPLES = 64


@dataclass(frozen=True, kw_only=True)
class Search(Material, Bounds):
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
    target: TargetOption = TargetChoice.RTX
    gpu: GpuOption = _GPU
    batch: FileBatchOption = 1
    precision: Annotated[
        HalfChoice,
        typer.Option(
            metavar="TYPE",
            rich_help_panel=FILE,
            help="Of what is not quantized: float16 or bfloat16.",
        ),
    ] = HalfChoice.FLOAT16
    limit: LimitOption = _SAMPLES
    trials: Annotated[
        int,
        typer.Option(min=0, metavar="N", help="Placements beyond those that quantize everything."),
    ] = 12
    page: ReportOption = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_bounds()

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
            found = _found(search, transformed(search, steps, batch=1), steps)
        answer.values = found.to_dict() | {"output": str(search.output)}
        answer.tables = [*printed(found)]
        answer.write_page(search.page, title=search.output.name, tuning=found)


def planned(job: Job, steps: Steps) -> tuple[Job, Tuning | None]:
    """The job with a plan, where it asks for one; what was found is beside its file.

    The samples that judge the file take no part.

    Raises:
        DeployError: A step failed.
    """
    if not job.tune:
        return job, None
    shared = (*fields(Material), *fields(Bounds))
    search = Search(
        **{one.name: getattr(job, one.name) for one in shared},
        output=job.output.with_suffix(".plan.json"),
        gpu=job.gpu or _GPU,
        batch=job.batch,
        precision=HalfChoice(job.precision.value),
    )
    found = _found(replace(search, limit=_SAMPLES), transformed(job, steps, batch=1), steps)
    planned_job = replace(
        job,
        plan=search.output,
        tune=False,
        gpu=job.gpu if job.compile else None,
        min_sqnr=None,
        max_drop=None,
        max_time=None,
        max_bytes=None,
        latency=None,
    )
    return planned_job, found


def _found(search: Search, made: Transformed, steps: Steps) -> Tuning:
    """Search; after each measurement the best so far is on disk."""
    with steps.step("Tuning") as progress:
        found = _tuned(search, made, progress)
    _write(found, search.output)
    return found


def _tuned(search: Search, made: Transformed, progress: StepProgress) -> Tuning:
    def report(_: str, so_far: Tuning | None) -> None:
        if so_far is not None:
            _write(so_far, search.output)
            progress(len(so_far.candidates), None)

    return tune(
        made.result,
        made.data,
        search.base,
        **search.bound,
        gpu=search.gpu,
        batch=search.batch,
        precision=search.precision.value,
        samples=search.limit,
        trials=search.trials,
        store=search.measurements,
        report=report,
    )


def _write(found: Tuning, output: Path) -> None:
    with written_beside(output) as draft:
        draft.write_text(json.dumps(found.to_dict(), indent=1) + "\n", encoding="utf-8")
