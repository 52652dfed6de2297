"""`embedl-deploy deploy`: from a model to a checked file."""

from collections import Counter
from pathlib import Path

from rich.filesize import decimal
from rich.text import Text

from embedl_deploy.cli.commands.answer import random_said
from embedl_deploy.cli.commands.job import Job, PrecisionChoice
from embedl_deploy.cli.commands.journey import Deployed, travel
from embedl_deploy.cli.commands.tune import planned
from embedl_deploy.cli.options import DebugOption, JsonOption, SaveRunOption, origin
from embedl_deploy.cli.output import Answer, Steps, answering
from embedl_deploy.cli.spread import spread
from embedl_deploy.cli.values import ObserverChoice, PatternChoice, Shape
from embedl_deploy.report.blocks import figures_table, printed
from embedl_deploy.table import counted
from embedl_deploy.tuning import Tuning, read_plan

_AVOIDED_BY = {"P10": "mixed"}
"""Rules, and the list of patterns without what they warn of."""


@spread
def deploy(
    job: Job,
    save_run: SaveRunOption = None,
    *,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Transform, quantize, export and verify a model."""
    with answering(as_json=as_json, debug=debug) as answer:
        done = say(job, answer)
        if save_run is not None:
            from embedl_deploy.cli.commands.runs import write_run

            write_run(done, save_run)
            answer.values["run"] = str(save_run)
            answer.tables.append(f"wrote {save_run}")


def say(job: Job, answer: Answer) -> Job:
    """Do a job, and fill in the answer; gives the job with the plan that was found.

    Raises:
        DeployError: A step failed. Files are as they were.
    """
    with Steps() as steps:
        job, found = planned(job, steps)
        deployed = travel(job, steps)
    answer.values = deployed.as_dict()
    figures = [*_placed(deployed, found), *_figures(deployed)]
    answer.tables = [figures_table(figures)]
    if found is not None:
        answer.values["tuning"] = found.to_dict()
        answer.tables[:0] = [*printed(found), Text()]
    answer.write_page(job.page, **deployed.parts, figures=figures, tuning=found)
    return job


def _placed(deployed: Deployed, found: Tuning | None) -> list[tuple[str, str]]:
    """Why nothing is quantized, where that is so."""
    if deployed.numbers:
        return []
    said = f"{deployed.job.precision}: the plan '{deployed.job.plan}' quantizes nothing"
    return [("Placement", said if found is None else found.verdict)]


def _figures(deployed: Deployed) -> list[tuple[str, str]]:
    job, summary = deployed.job, deployed.summary
    shapes = ", ".join(str(Shape(shape)) for shape in deployed.input_shapes)
    kinds = ", ".join(f"{count} {kind}" for kind, count in summary.fused.items())
    figures = [
        *([] if deployed.answers is None else deployed.answers.rows),
        *random_said(deployed.random),
        ("Model", origin(job.model, job.weights)),
        ("Fused", f"{counted(len(summary.fusions), 'module')}: {kinds}"),
        ("Quantized", _quantized(deployed)),
        _read(deployed),
        ("Written", f"{job.output}, {_sizes(deployed)}"),
        ("Precision", _precision(deployed)),
        ("Takes", f"{shapes}, any batch" if job.dynamic_batch else shapes),
        ("Parity", _verified(deployed)),
        ("Checked", _checked(deployed)),
        ("Expected", f"{deployed.expected.summary}; embedl-deploy explain shows them"),
    ]
    if job.plan is not None:
        figures.append(("Plan", _planned(job.plan, deployed)))
    if advice := _advice(deployed):
        figures.append(("Advice", advice))
    if deployed.compiled is not None:
        figures += deployed.compiled.rows
    if summary.unfused:
        layers = counted(len(summary.unfused), "layer")
        left = f"{layers} with weights, in floating point; inspect says why"
        place = next(index for index, one in enumerate(figures) if one[0] == "Quantized")
        figures.insert(place, ("Not fused", left))
    return figures


def _quantized(deployed: Deployed) -> str:
    if not deployed.numbers:
        return f"nothing: the plan keeps {deployed.job.precision}"
    counts = (("tensor", deployed.quantized_tensors), ("weight", deployed.quantized_weights))
    said = " and ".join(counted(count, what) for what, count in counts if count)
    return f"{said} to {deployed.word}"


def _read(deployed: Deployed) -> tuple[str, str]:
    """What calibrated, or else what judges alone."""
    job, count = deployed.job, deployed.batches
    if count is None:
        return "Data", f"{job.data}{_normalized(deployed)}"
    kept = "".join(f", {name}" for name in deployed.steps_kept)
    samples = counted(deployed.data["calibration_samples"], "sample")
    return "Calibrated", (
        f"{samples} in {counted(count, 'batch')} of {job.data}, {_observed(job)}"
        f"{kept}{_normalized(deployed)}"
    )


def _normalized(deployed: Deployed) -> str:
    """How images became inputs."""
    how = deployed.data
    if how["resized"] is None:
        return ""
    said = "pixels in 0 to 1" if how["mean"] is None else f"mean {how['mean']}, std {how['std']}"
    return f"; images {how['resized']}, {said}"


def _planned(path: Path, deployed: Deployed) -> str:
    """What a plan was measured with, and whether this file was compiled otherwise."""
    plan = read_plan(path)
    said = f"{path}, for {plan.target}: measured{f' for {plan.gpu}' if plan.gpu else ''} in"
    said = f"{said} {plan.precision} at batch {plan.batch}"
    said = f"{said} with {plan.compiler}" if plan.compiler else said
    if deployed.job.precision is PrecisionChoice.FLOAT32:
        return f"{said}, and this file is float32: --precision {plan.precision} writes that"
    if plan.precision != deployed.job.precision.value:
        return f"{said}, and this file is {deployed.job.precision}: tune again for that"
    if plan.batch != deployed.job.batch:
        return f"{said}, and this file takes {deployed.job.batch}: tune again for that"
    made = None if deployed.compiled is None else deployed.compiled.written
    if made is None or not plan.gpu or (made.gpu, made.compiler) == (plan.gpu, plan.compiler):
        return said
    here = f"for {made.gpu} by {made.compiler}" if made.gpu else f"by {made.compiler}"
    return f"{said}, and not as this file is compiled, {here}: tune again for that"


def _advice(deployed: Deployed) -> str:
    """Which option avoids what the rules warn of."""
    found = Counter(one.rule for one in deployed.report.findings)
    said = [
        f"{found[rule]} × {rule}: --patterns {patterns} avoids it"
        for rule, patterns in _AVOIDED_BY.items()
        if found[rule] and deployed.job.patterns is PatternChoice.FULL
    ]
    return "; ".join(said)


def _precision(deployed: Deployed) -> str:
    job = deployed.job
    if job.precision is PrecisionChoice.FLOAT32:
        return f"float32 and {deployed.word}; for TensorRT 11 --precision float16 is faster"
    ends = "inputs and outputs float32" if job.float32_io else "inputs and outputs too"
    more = f" and {deployed.word}" if deployed.numbers else ""
    return f"{job.precision}{more}, {ends}"


def _observed(job: Job) -> str:
    if job.plan is not None:
        return f"as {job.plan} says"
    if job.observer is ObserverChoice.PERCENTILE:
        return f"percentile {job.share:g}"
    return "min-max" if job.observer is ObserverChoice.MINMAX else job.observer.value


def _sizes(deployed: Deployed) -> str:
    return (
        f"{decimal(deployed.file_bytes)}; the model's tensors have {decimal(deployed.model_bytes)}"
    )


def _verified(deployed: Deployed) -> str:
    if deployed.parity is None:
        return "not measured; --no-verify leaves it out"
    other = "simulation" if deployed.numbers else "the model with its values"
    said = f"file against {other}: {deployed.parity}"
    if deployed.compiled is None:
        return said
    lost = len(deployed.compiled.written.lost)
    kept = "keeps the type of every product" if not lost else f"loses the type of {lost} products"
    return f"{said}; the compiler builds it and {kept}"


def _checked(deployed: Deployed) -> str:
    more = "; embedl-deploy check says which" if deployed.report.findings else ""
    return f"{deployed.report.summary}{more}"
