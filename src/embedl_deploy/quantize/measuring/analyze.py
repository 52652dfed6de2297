"""Which layer hurts: what each quantizer does to its tensor, and to the model's result."""

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from operator import length_hint
from typing import Any

from torch import fx, nn

from embedl_deploy.batches import (
    Inputs,
    batches_for,
    device_of,
    fitting,
    inferring,
    moved,
)
from embedl_deploy.errors import CalibrationError
from embedl_deploy.graph.interpreter import Interpreter
from embedl_deploy.quantize.calibrating.calibrate import Progress, check_calibrated, stubs_of
from embedl_deploy.quantize.calibrating.faults import in_order
from embedl_deploy.quantize.measuring.noise import Noise
from embedl_deploy.quantize.measuring.onepass import OnePass, measured_modules, stubs_before
from embedl_deploy.quantize.stubs import QuantStub, enabled_only, quantizers_of
from embedl_deploy.table import Printed, table


@dataclass(frozen=True)
class AnalysisRow:
    """What quantization does at one place.

    Attributes:
        kind: `"stub"`, or the class of a fused module.
        path: Of the stub or the fused module.
        points: The Q/DQ points of a stub.
        sqnr_db: Signal to noise of its own error, from inputs in floating point: of a stub's
            rounding; of a fused module's result with its inputs and weights rounded.
        output_sqnr_db: Signal to noise at the model's outputs where it alone is quantized, a
            fused module with the stubs that it reads; `None` where it was not asked for.
        largest: The largest magnitude, of a stub's input or a fused module's result.
        range: The largest magnitude that a stub represents; `None` of a fused module.
        clipped_share: The share of values outside the range by more than half a step; `None` of a
            fused module.
        outlier_ratio: The largest magnitude over the root of the mean square.
        histogram: How many values are in each of 48 bins of equal width, from -1.5 to 1.5 times
            the largest that is not clipped, those beyond in the first and the last; empty of a
            fused module.
    """

    kind: str
    path: str
    points: tuple[str, ...]
    sqnr_db: float
    output_sqnr_db: float | None
    largest: float
    range: float | None
    clipped_share: float | None
    outlier_ratio: float
    histogram: tuple[int, ...] = ()


@dataclass(frozen=True, repr=False)
class Analysis(Printed):
    """Where quantization hurts; prints as a table, the worst on top.

    Attributes:
        rows: By the signal to noise at the outputs where it was asked for, else by that of
            the own error.
        output_sqnr_db: Signal to noise at the outputs with everything quantized.
    """

    rows: tuple[AnalysisRow, ...]
    output_sqnr_db: float

    def _parts(self) -> Sequence[str]:
        header = ("Kind", "Path", "SQNR", "At output", "Largest", "Range", "Clipped", "Outliers")
        told = f"At the output with everything quantized: {_db(self.output_sqnr_db)}"
        return table(header, [_cells(row) for row in self.rows]), told

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain data; `None` for what is infinite."""
        rows = [
            {key: _finite(value) for key, value in asdict(row).items()}
            | {"points": [*row.points], "histogram": [*row.histogram]}
            for row in self.rows
        ]
        return {"output_sqnr_db": _finite(self.output_sqnr_db), "rows": rows}


def analyze(
    model: fx.GraphModule,
    data: Iterable[Any],
    *,
    sensitivity: bool = False,
    progress: Progress | None = None,
) -> Analysis:
    """Measure what quantization does, at every stub and fused module and at the outputs.

    Own errors come from one pass over the data, in floating point. With `sensitivity` there is
    one more run for each place, of what comes after it. The model is left as it is.

    Args:
        model: A calibrated model.
        data: Batches; see `calibrate`. All values of a batch are kept while it is analyzed.
        sensitivity: Whether to quantize every place alone and look at the outputs.
        progress: Called after every run with the number of runs done and their total, where
            the number of batches is known.

    Raises:
        CalibrationError: There is no data, or a batch does not fit the model.
        QuantizationError: The model has no stubs, or one of them no scale.
    """
    check_calibrated(model)
    work = _Work(model, sensitivity=sensitivity)
    runs = 2 + len(work.alone)
    batches = length_hint(data)
    done = 0
    with inferring(model):
        for index, inputs in enumerate(batches_for(model, data)):
            steps = work.steps(inputs)
            with fitting(f"batch {index}", inputs):
                next(steps)
            for _ in chain([None], steps):
                done += 1
                if progress is not None:
                    progress(done, batches * runs or None)
    if not done:
        raise CalibrationError("there is no data to analyze; give at least one batch")
    return work.result()


class _Work:
    """Measures batch by batch."""

    def __init__(self, model: fx.GraphModule, *, sensitivity: bool) -> None:
        self.model = model
        self.stubs = stubs_of(model)
        self.fused = measured_modules(model)
        self.stub_noise = {path: Noise() for path in self.stubs}
        self.fused_noise = {path: Noise() for path in self.fused}
        self.all = Noise()
        self.places = _places(model, self.stubs, self.fused) if sensitivity else {}
        self.alone = {path: Noise() for path in self.places}

    def steps(self, inputs: Inputs) -> Iterator[None]:
        """Everything for one batch, run by run."""
        given = in_order(self.model, *moved(inputs, device_of(self.model)))
        one = OnePass(self.model, self.stub_noise, self.fused_noise)
        with enabled_only(self.model):
            want = one.run(*given)
        yield
        with enabled_only(self.model, quantizers_of(self.model)):
            self.all.add(want, self.model(*given))
        yield
        for path, (nodes, chosen) in self.places.items():
            with enabled_only(self.model, chosen):
                changed = _after(nodes)
                known = {node: value for node, value in one.env.items() if node not in changed}
                again = Interpreter(self.model)
                self.alone[path].add(want, again.run(*given, initial_env=known))
            yield

    def result(self) -> Analysis:
        rows = [self._stub(path, noise) for path, noise in self.stub_noise.items()]
        rows += [self._fused(path, noise) for path, noise in self.fused_noise.items()]
        rows.sort(key=lambda row: row.sqnr_db if row.output_sqnr_db is None else row.output_sqnr_db)
        return Analysis(tuple(rows), self.all.sqnr_db)

    def _stub(self, path: str, noise: Noise) -> AnalysisRow:
        stub = self.stubs[path]
        largest = stub.step.item() * stub.highest
        return self._row("stub", path, noise, stub.points, largest, noise.clipped_share)

    def _fused(self, path: str, noise: Noise) -> AnalysisRow:
        return self._row(type(self.fused[path]).__name__, path, noise, (), None, None)

    def _row(
        self,
        kind: str,
        path: str,
        noise: Noise,
        points: tuple[str, ...],
        largest: float | None,
        clipped: float | None,
    ) -> AnalysisRow:
        alone = self.alone[path].sqnr_db if path in self.alone else None
        counts = () if noise.counts is None else tuple(noise.counts.tolist())
        return AnalysisRow(
            kind,
            path,
            points,
            noise.sqnr_db,
            alone,
            noise.largest,
            largest,
            clipped,
            noise.outlier_ratio,
            counts,
        )


Place = tuple[list[fx.Node], Collection[nn.Module]]
"""The calls that a place changes, and the quantizers in it."""


def _places(
    model: fx.GraphModule, stubs: Collection[str], fused: Collection[str]
) -> dict[str, Place]:
    modules = dict(model.named_modules())
    places: dict[str, Place] = {}
    for node in model.graph.nodes:
        path = str(node.target)
        if node.op != "call_module":
            continue
        if path in stubs:
            places[path] = ([node], [modules[path]])
        if path in fused:
            read = stubs_before(node, modules)
            nodes = places[path][0] if path in places else []
            places[path] = ([*nodes, *read, node], {*read.values(), *quantizers_of(modules[path])})
            for name, one in modules[path].named_modules(prefix=path):
                if isinstance(one, QuantStub):
                    places[name] = ([node], [one])
    return places


def _after(nodes: Iterable[fx.Node]) -> set[fx.Node]:
    """These nodes and all that come after them."""
    found: set[fx.Node] = set()
    pending = [*nodes]
    while pending:
        node = pending.pop()
        if node not in found:
            found.add(node)
            pending.extend(node.users)
    return found


def _cells(row: AnalysisRow) -> tuple[str, ...]:
    show: Callable[[float | None, str], str] = lambda value, form: (  # noqa: E731
        "" if value is None else format(value, form)
    )
    return (
        row.kind,
        row.path,
        _db(row.sqnr_db),
        "" if row.output_sqnr_db is None else _db(row.output_sqnr_db),
        show(row.largest, ".3g"),
        show(row.range, ".3g"),
        show(row.clipped_share, ".2%"),
        show(row.outlier_ratio, ".1f"),
    )


def _db(value: float) -> str:
    return f"{value:.1f} dB"


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
