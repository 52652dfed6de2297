"""Where to quantize: the fastest placement that keeps accuracy, by measurement."""

from collections.abc import Iterable, Sequence
from functools import partial
from importlib.metadata import distributions, version
from pathlib import Path
from typing import Any, TypeVar, get_args

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from embedl_deploy.batches import inferring
from embedl_deploy.default import target_for
from embedl_deploy.errors import QuantizationError
from embedl_deploy.export.precision import Half
from embedl_deploy.quantize import QuantConfig
from embedl_deploy.quantize.config import config_of
from embedl_deploy.quantize.measuring.sidebyside import first_inputs
from embedl_deploy.rewrite import Result
from embedl_deploy.tuning.accuracy import Evaluate, Judge
from embedl_deploy.tuning.bounds import Bound
from embedl_deploy.tuning.costs import CostFunction, Unit, cost_of
from embedl_deploy.tuning.plan import Tuning
from embedl_deploy.tuning.search import Report, Search
from embedl_deploy.tuning.store import Store, fingerprint

T = TypeVar("T")


def tune(  # noqa: PLR0913 - each is one choice
    result: Result | fx.GraphModule,
    data: Iterable[Any],
    config: QuantConfig | None = None,
    *,
    min_sqnr: float | None = None,
    max_drop: float | None = None,
    max_cost: float | None = None,
    gpu: str = "rtx4090",
    batch: int = 1,
    precision: Half = "float16",
    unit: Unit = "time",
    cost: CostFunction | None = None,
    evaluate: Evaluate | None = None,
    samples: int = 64,
    trials: int = 12,
    store: str | Path | None = None,
    report: Report | None = None,
) -> Tuning:
    """Find what to quantize, so that the file costs least within a bound.

    Equal layers are one group, quantized or left in half precision together. What each saves is
    compiled: everything quantized without it, or, where everything costs more than half precision,
    it alone. Candidates are exported in half precision, compiled and simulated as a whole; an
    additive model of cost and noise only says which to measure next. Attention is tried with
    `none`, `full` and `inputs`, residuals in half precision, FP8 where the compiler takes it, and
    weights of 4 bits.

    Args:
        result: What `transform` returned, or its model; left as it is.
        data: Batches; three quarters of them calibrate, and the last quarter judges. One batch
            alone does both.
        config: How to quantize besides; by default as the target asks.
        min_sqnr: Decibels at the outputs at least.
        max_drop: Percentage points of the score of `evaluate` that may be lost; without
            `evaluate`, percent of the samples whose class may change.
        max_cost: Of the file at most, in microseconds or megabytes; the most accurate is sought.
            Without any bound, the cheapest is.
        gpu: As `compile_onnx` takes it.
        batch: Samples that the file takes at a time; it decides what a layer costs.
        precision: Of what is not quantized, `float16` or `bfloat16`; likewise.
        unit: `time`, an estimate by the compiler's layers, or `bytes` that they move.
        cost: Gives the cost of an ONNX file in place of both, such as `tensorrt.TrtexecLatency`.
        evaluate: Gives the accuracy of a model in percent.
        samples: Samples of the data at most.
        trials: Placements at most, beyond those that quantize everything.
        store: A file of measurements; a search that was stopped continues from there.
        report: Called before each measurement with what it is, and with the outcome so far once
            there is a candidate.

    Raises:
        BuildError: There is no compiler, it takes no file, or the GPU is unknown.
        CalibrationError: There is no data, or a batch does not fit the model.
        QuantizationError: There is more than one bound, no such precision, or nothing to quantize.
    """
    if precision not in get_args(Half):
        raise QuantizationError(f"precision is float16 or bfloat16, not {precision!r}")
    bound = Bound(min_sqnr, max_drop, max_cost)
    source = result.model if isinstance(result, Result) else result
    if not isinstance(source, fx.GraphModule):
        raise QuantizationError(f"tune takes the result of transform(), not a {type(source)}")
    target, base = target_for(source), config or config_of(source)
    with inferring(source):
        some = first_inputs(source, data, samples)
    learned, judged = parted(some)
    about = fingerprint(
        source, some, base, gpu, batch, precision, unit, target, cost, evaluate, *_versions()
    )
    search = Search(
        source=source,
        examples=pytree.tree_map_only(Tensor, partial(_repeated, batch), some[0]),
        learned=learned,
        judge=Judge(source, judged, evaluate),
        config=base,
        costing=partial(cost_of, target=target, gpu=gpu, unit=unit, own=cost),
        unit=unit,
        gpu="" if cost else gpu,
        batch=batch,
        precision=precision,
        target=target,
        store=Store(None if store is None else Path(store), about),
        bound=bound,
        trials=trials,
        report=report or _silent,
    )
    return search.run()


def parted(batches: Sequence[T]) -> tuple[Sequence[T], Sequence[T]]:
    """Batches that calibrate, and the last quarter, which judges; one batch alone does both."""
    cut = len(batches) - max(1, len(batches) // 4) if len(batches) > 1 else 0
    return batches[:cut] or batches, batches[cut:]


def _repeated(batch: int, one: Tensor) -> Tensor:
    """The first sample, so many times."""
    return one[:1].expand(batch, *one.shape[1:]) if one.dim() else one


def _versions() -> list[str]:
    """Of what gives the figures."""
    compilers = {
        f"{one.name} {one.version}" for one in distributions() if one.name.startswith("tensorrt")
    }
    return [torch.__version__, version("embedl_deploy"), *sorted(compilers)]


def _silent(_: str, __: Tuning | None) -> None:
    """Say nothing."""
