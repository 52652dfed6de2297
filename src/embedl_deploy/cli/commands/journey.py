"""The journey of `deploy`: load, transform, quantize, export, verify."""

import enum
import inspect
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from embedl_deploy import transform
from embedl_deploy.cli.data import (
    Batch,
    Batches,
    Normalization,
    SizedBatches,
    load_data,
    normalization_of,
)
from embedl_deploy.cli.models import example_shape, load_model
from embedl_deploy.cli.options import PatternChoice
from embedl_deploy.cli.output import StepProgress, Steps
from embedl_deploy.errors import LoadError, VerificationError
from embedl_deploy.export import Parity, export_onnx, verify_onnx
from embedl_deploy.export.files import written_beside
from embedl_deploy.quantize import (
    EntropyObserver,
    MinMaxObserver,
    MovingAverageObserver,
    MSEObserver,
    Observer,
    PercentileObserver,
    QuantConfig,
    TensorQuantConfig,
    quantize,
)
from embedl_deploy.report.summary import Summary, quantizers, summarize
from embedl_deploy.tensorrt import Report, check_onnx

_VERIFIED_BATCHES = 2
"""Batches that ONNX Runtime computes; each has millions of integers to compare."""

Inputs = tuple[tuple[Any, ...], dict[str, Any]]


class ObserverChoice(enum.StrEnum):
    """The observers by name."""

    MINMAX = "minmax"
    AVERAGE = "average"
    PERCENTILE = "percentile"
    ENTROPY = "entropy"
    MSE = "mse"


_OBSERVERS: dict[ObserverChoice, type[Observer]] = {
    ObserverChoice.MINMAX: MinMaxObserver,
    ObserverChoice.AVERAGE: MovingAverageObserver,
    ObserverChoice.ENTROPY: EntropyObserver,
    ObserverChoice.MSE: MSEObserver,
}


class PrecisionChoice(enum.StrEnum):
    """The types of what is not quantized."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"


@dataclass(frozen=True)
class Job:
    """What `deploy` is asked for; see its options."""

    model: str
    output: Path
    data: str
    weights: Path | None
    shape: tuple[int, ...] | None
    batch: int
    dynamic_batch: bool
    precision: PrecisionChoice
    patterns: PatternChoice
    observer: ObserverChoice
    percentile: float
    batch_size: int
    limit: int
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    normalize: bool
    verify: bool

    @property
    def config(self) -> QuantConfig:
        """How to quantize."""
        observer = _OBSERVERS.get(self.observer) or partial(PercentileObserver, self.percentile)
        observer()  # so that a percentile out of range is said before any work
        return QuantConfig(TensorQuantConfig(observer=observer))


@dataclass(frozen=True)
class Deployed:
    """What came out.

    Attributes:
        job: What was asked for.
        summary: What became of the model.
        input_shape: Of the first example input.
        quantized_tensors: How many tensors have a stub.
        quantized_weights: How many weights are INT8.
        batches: How many batches calibrated it.
        model_bytes: Of the parameters and buffers of the source model.
        file_bytes: Of the file, with its external data.
        parity: From the verification; None without.
        report: From the check of the file against the rules of TensorRT.
    """

    job: Job
    summary: Summary
    input_shape: tuple[int, ...]
    quantized_tensors: int
    quantized_weights: int
    batches: int
    model_bytes: int
    file_bytes: int
    parity: Parity | None
    report: Report

    def as_dict(self) -> dict[str, Any]:
        """All of it for JSON."""
        job = self.job
        return {
            "model": job.model,
            "weights": None if job.weights is None else str(job.weights),
            "output": str(job.output),
            "input_shape": list(self.input_shape),
            "dynamic_batch": job.dynamic_batch,
            "precision": job.precision.value,
            "patterns": job.patterns.value,
            "observer": job.observer.value,
            "data": job.data,
            "calibration_batches": self.batches,
            "quantized_tensors": self.quantized_tensors,
            "quantized_weights": self.quantized_weights,
            "model_bytes": self.model_bytes,
            "file_bytes": self.file_bytes,
            "verification": None if self.parity is None else _parity_dict(self.parity),
            "check": self.report.to_dict() | {"path": str(job.output)},
            **self.summary.as_dict(),
        }


def travel(job: Job, steps: Steps) -> Deployed:
    """Do what `job` asks for; the file is written only when all went well.

    Raises:
        DeployError: A step failed. Files are as they were.
    """
    config = job.config
    with written_beside(job.output) as draft:
        with steps.step("Loading"):
            source = load_model(job.model, weights=job.weights)
            data = _data(job, source)
            args, kwargs = _example(source, next(iter(data)), job.batch)
        with steps.step("Transforming"):
            result = transform(source, args, kwargs, patterns=job.patterns.patterns, copy=False)
        with steps.step("Calibrating") as progress:
            counted = _Counted(data)
            model = quantize(result, counted, config, progress=progress)
        examples = _positional(model, args, kwargs)
        with steps.step("Exporting"):
            export_onnx(
                model,
                examples,
                draft,
                precision=job.precision.value,
                dynamic_batch=job.dynamic_batch,
            )
        parity = None
        if job.verify:
            with steps.step("Verifying") as progress:
                parity = _verify(job, draft, model, data, progress)
        with steps.step("Checking"):
            report = check_onnx(draft)
        file_bytes = sum(file.stat().st_size for file in draft.parent.iterdir())
    tensors, weights = quantizers(model)
    return Deployed(
        job=job,
        summary=summarize(result),
        input_shape=tuple(examples[0].shape),
        quantized_tensors=tensors,
        quantized_weights=weights,
        batches=counted.count,
        model_bytes=_bytes(source),
        file_bytes=file_bytes,
        parity=parity,
        report=report,
    )


# --- data --------------------------------------------------------------------------------------


def _data(job: Job, source: nn.Module) -> Batches:
    shape = job.shape or example_shape(job.model, source)
    if shape is None and Path(job.data).is_dir():
        raise LoadError(
            f"which shape to scale the images of '{job.data}' to is not known for '{job.model}'; "
            "give it: --shape 3,224,224"
        )
    return load_data(
        job.data,
        shape=shape if job.shape or Path(job.data).is_dir() else None,
        batch_size=job.batch_size,
        limit=job.limit,
        normalization=_normalization(job, source),
    )


def _normalization(job: Job, source: nn.Module) -> Normalization | None:
    if not job.normalize:
        return None
    usual = normalization_of(source)
    return replace(usual, mean=job.mean or usual.mean, std=job.std or usual.std)


class _Counted(Batches):
    """Batches that are counted while they are gone through."""

    def __init__(self, batches: Batches) -> None:
        super().__init__(batches.__iter__)
        self.count = 0

    def __iter__(self) -> Iterator[Batch]:
        self.count = 0
        for batch in super().__iter__():
            self.count += 1
            yield batch


def _example(source: nn.Module, batch: Batch, size: int) -> Inputs:
    """The first samples of a batch as example inputs, without what is no input, such as labels."""
    cut = pytree.tree_map_only(Tensor, lambda one: one[:size] if one.dim() else one, batch)
    match cut:
        case Mapping():
            return (), dict(cut)
        case tuple():
            return cut[: _required_inputs(source)], {}
    return (cut,), {}


def _required_inputs(source: nn.Module) -> int:
    parameters = inspect.signature(source.forward).parameters.values()
    if any(one.kind is inspect.Parameter.VAR_POSITIONAL for one in parameters):
        return len(parameters)
    return sum(one.default is inspect.Parameter.empty for one in parameters)


def _positional(model: fx.GraphModule, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
    names = [str(node.target) for node in model.graph.nodes if node.op == "placeholder"]
    given = dict(zip(names, args, strict=False)) | kwargs
    return [given[name] for name in names if name in given]


# --- proof -------------------------------------------------------------------------------------


def _verify(
    job: Job, draft: Path, model: fx.GraphModule, data: Batches, progress: StepProgress
) -> Parity:
    some = SizedBatches(lambda: islice(iter(data), _VERIFIED_BATCHES), _VERIFIED_BATCHES)
    parity = verify_onnx(draft, model, some, progress=progress)
    if parity.only_ties:
        return parity
    raise VerificationError(
        f"'{job.output}' was not written: it does not compute what was simulated ({parity}); "
        "--no-verify writes it all the same"
    )


def _parity_dict(parity: Parity) -> dict[str, Any]:
    sqnr = parity.sqnr_db
    return {
        "sqnr_db": sqnr if math.isfinite(sqnr) else None,
        "largest_step_difference": parity.largest_step_difference,
        "largest_stub_difference": parity.largest_stub_difference,
        "differing_share": parity.tie_share,
        "only_ties": parity.only_ties,
    }


def _bytes(model: nn.Module) -> int:
    return sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))
