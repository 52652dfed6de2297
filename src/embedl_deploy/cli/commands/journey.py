"""The journey of `deploy`: load, transform, quantize, export, verify."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree

from embedl_deploy.cli.commands.answer import LEAST_DB, Answers, answers, data_dict
from embedl_deploy.cli.commands.beside import Beside, compile_beside
from embedl_deploy.cli.commands.job import Job
from embedl_deploy.cli.commands.prepare import Prepared, prepared
from embedl_deploy.cli.data import first_batches
from embedl_deploy.cli.output import Steps
from embedl_deploy.cli.values import RecipeChoice
from embedl_deploy.errors import VerificationError
from embedl_deploy.export import Parity, export_onnx, verify_onnx
from embedl_deploy.export.files import written_beside
from embedl_deploy.onnx_model import OnnxFile
from embedl_deploy.quantize import recipe_report
from embedl_deploy.report.parity import parity_dict
from embedl_deploy.report.summary import Summary, quantizers, summarize
from embedl_deploy.report.words import numbers_of, word_for
from embedl_deploy.tensorrt import Explanation, Report

_VERIFIED_BATCHES = 2
"""Batches that ONNX Runtime computes; each has millions of integers to compare."""


@dataclass(frozen=True)
class Deployed:
    """What came out.

    Attributes:
        job: What was asked for.
        summary: What became of the model.
        input_shapes: Of the example inputs that are tensors.
        quantized_tensors: How many tensors have a stub.
        quantized_weights: How many weights are quantized.
        numbers: The kinds of numbers that they are quantized to, such as INT8.
        word: What the file is, in words.
        batches: How many batches calibrated it; None where nothing is quantized.
        steps_kept: What the accurate recipe kept; none with the fast one.
        model_bytes: Of the parameters and buffers of the source model.
        file_bytes: Of the file, with its external data.
        answers: Of the file and the model in floating point; None where nothing judges it.
        random: The share of the model's parameters that are random; None where not known.
        data: How data were read.
        parity: Of the file and the simulation; None without.
        report: From the check of the file against the rules of TensorRT.
        expected: The kernels that TensorRT is expected to run.
        compiled: What the compiler made of it; None where that was not asked for.
    """

    job: Job
    summary: Summary
    input_shapes: tuple[tuple[int, ...], ...]
    quantized_tensors: int
    quantized_weights: int
    numbers: list[str]
    word: str
    batches: int | None
    steps_kept: tuple[str, ...]
    model_bytes: int
    file_bytes: int
    answers: Answers | None
    random: float | None
    data: dict[str, Any]
    parity: Parity | None
    report: Report
    expected: Explanation
    compiled: Beside | None

    @property
    def parts(self) -> dict[str, Any]:
        """For a page."""
        return {
            "file": self.job.output,
            "check": self.report,
            "explanation": self.expected,
            "compilations": [] if self.compiled is None else [self.compiled.written],
            "answers": None if self.answers is None else self.answers.parity,
            "parity": self.parity,
            "summary": self.summary,
        }

    def as_dict(self) -> dict[str, Any]:
        """All of it for JSON."""
        job = self.job
        return {
            "quantized_against_float": None if self.answers is None else self.answers.as_dict(),
            "model": job.model,
            "weights": None if job.weights is None else str(job.weights),
            "output": str(job.output),
            "input_shapes": [list(shape) for shape in self.input_shapes],
            "dynamic_batch": job.dynamic_batch,
            "precision": job.precision.value,
            "attention": None if job.plan else job.attention.value,
            "plan": None if job.plan is None else str(job.plan),
            "target": job.target.value,
            "patterns": job.patterns.value,
            "observer": job.observer.value if self.numbers and not job.plan else None,
            "recipe": job.recipe.value if self.numbers else None,
            "steps_kept": list(self.steps_kept),
            "random_weights": self.random,
            "data": self.data,
            "calibration_batches": self.batches,
            "quantized_tensors": self.quantized_tensors,
            "quantized_weights": self.quantized_weights,
            "numbers": self.numbers,
            "model_bytes": self.model_bytes,
            "file_bytes": self.file_bytes,
            "parity": None if self.parity is None else parity_dict(self.parity),
            "check": self.report.to_dict() | {"path": str(job.output)},
            "expected": {
                "counts": self.expected.counts,
                "shares": self.expected.shares,
                "uncounted": list(self.expected.uncounted),
            },
            "compiled": None if self.compiled is None else self.compiled.as_dict(),
            **self.summary.as_dict(),
        }


def travel(job: Job, steps: Steps) -> Deployed:
    """Do what `job` asks for; the file is written only when all went well.

    Raises:
        DeployError: A step failed. Files are as they were.
    """
    with written_beside(job.output) as draft:
        made = prepared(job, steps, job.batch)
        with steps.step("Exporting"):
            noted = data_dict(job.data, made.split, made.samples, made.normalization)
            deployment = {"options": job.noted, "data": noted}
            options = {**job.export_options, "deployment": deployment}
            export_onnx(made.model, made.examples, draft, **options)
        parity = None if job.no_verify else _verify(job, made, draft, steps)
        file, target = OnnxFile.open(draft), made.result.target
        judged = answers(file, made.result.model, job, made.split, steps)
        with steps.step("Checking"):
            report = target.check(file, keep_float32=job.kept)
            expected = target.explain(file)
        compiled = _compile(job, made, file, steps) if job.compile else None
        file_bytes = sum(file.stat().st_size for file in draft.parent.iterdir())
    tensors, weights = quantizers(made.model)
    shaped = (one for one in pytree.tree_leaves(made.examples) if isinstance(one, Tensor))
    return Deployed(
        job=job,
        summary=summarize(made.result),
        input_shapes=tuple(tuple(one.shape) for one in shaped),
        quantized_tensors=tensors,
        quantized_weights=weights,
        numbers=numbers_of(file),
        word=word_for(file),
        batches=made.batches,
        steps_kept=_kept(job, made),
        model_bytes=made.source_bytes,
        file_bytes=file_bytes,
        answers=judged,
        random=made.random,
        data=noted,
        parity=parity,
        report=report,
        expected=expected,
        compiled=compiled,
    )


def _kept(job: Job, made: Prepared) -> tuple[str, ...]:
    if job.recipe is RecipeChoice.FAST or made.batches is None:
        return ()
    return tuple(step.name for step in recipe_report(made.model).steps if step.kept)


def _compile(job: Job, made: Prepared, file: OnnxFile, steps: Steps) -> Beside:
    with steps.step("Compiling"):
        found = compile_beside(file, made, job.gpu, job.export_options, job.batch)
    return replace(found, written=replace(found.written, path=job.output))


def _verify(job: Job, made: Prepared, draft: Path, steps: Steps) -> Parity:
    some = first_batches(made.data, _VERIFIED_BATCHES)
    with steps.step("Verifying") as progress:
        parity = verify_onnx(draft, made.model, some, progress=progress)
        if not parity.only_ties:
            wanted = "the model computes" if made.batches is None else "was simulated"
            raise _refused(job, f"it does not compute what {wanted} ({parity})")
        if made.batches is None and parity.sqnr_db < LEAST_DB:
            said = f"{job.precision} does not hold the values of this model ({parity})"
            raise _refused(job, f"{said}: --keep-float32 leaves modules in float32")
        return parity


def _refused(job: Job, why: str) -> VerificationError:
    return VerificationError(
        f"'{job.output}' was not written: {why}; --no-verify writes it all the same"
    )
