"""The search: measure, order the groups by what they give for their noise, measure again."""

import copy
import gc
import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from torch import fx

from embedl_deploy.errors import BuildError, ExportError, QuantizationError
from embedl_deploy.export import export_onnx
from embedl_deploy.export.precision import Half
from embedl_deploy.modules import FusedModule, QDQPoint
from embedl_deploy.quantize import QuantConfig, calibrate, insert_qdq
from embedl_deploy.quantize.config import Attention
from embedl_deploy.target import Target
from embedl_deploy.tuning.accuracy import Accuracy, Judge
from embedl_deploy.tuning.bounds import Bound
from embedl_deploy.tuning.candidates import Candidate, Choice, Numbers
from embedl_deploy.tuning.costs import Cost, Unit
from embedl_deploy.tuning.evidence import Evidence
from embedl_deploy.tuning.groups import Group, groups_of
from embedl_deploy.tuning.leaving import leave
from embedl_deploy.tuning.plan import Tuning
from embedl_deploy.tuning.store import Store
from embedl_deploy.tuning.whole import Whole

_ATTENTIONS: tuple[Attention, ...] = ("full", "inputs")
"""Beside `none`."""

Report = Callable[[str, Tuning | None], None]
"""Called with what is measured next, and with the outcome so far, where a candidate is known."""


@dataclass
class Search:
    """Finds candidates, each measured as a whole.

    Attributes:
        source: The transformed model.
        examples: Example inputs of the file.
        learned: Batches that calibrate.
        judge: Measures accuracy.
        config: How to quantize besides.
        costing: Gives the cost of a file.
        unit: Of it.
        gpu: That files are compiled for; empty where they are not.
        batch: Samples that a file takes at a time.
        precision: Of what is not quantized.
        target: That files are written for.
        store: Of what was measured.
        bound: What the best has to keep to.
        trials: Candidates at most beyond those that quantize everything.
        report: Called before each measurement.
    """

    source: fx.GraphModule
    examples: Sequence[Any]
    learned: Sequence[Sequence[Any]]
    judge: Judge
    config: QuantConfig
    costing: Callable[[Path], Cost]
    unit: Unit
    gpu: str
    batch: int
    precision: Half
    target: Target
    store: Store
    bound: Bound
    trials: int
    report: Report
    candidates: dict[str, Candidate] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    evidence: dict[Numbers, Evidence] = field(default_factory=dict)
    complete: bool = False

    def run(self) -> Tuning:
        """Measure all."""
        self.groups = self._groups()
        self.half = Cost(**self.store.of("half", lambda: {"cost": self._half()})["cost"])
        self.score = self._score()
        bases = self._bases()
        self.bound.holds(bases[0], self.score)  # raises where no drop can be told
        for one in sorted(bases, key=lambda one: one.cost.value):
            self.evidence.setdefault(one.choice.numbers, Evidence(one, self.half))
        for found in self.evidence.values():
            self._find(found)
        self._climb(bases)
        self.complete = True
        return self.outcome()

    def outcome(self) -> Tuning:
        """What was found so far."""
        return Tuning(
            groups=self.groups,
            evidence=copy.deepcopy(self.evidence),
            candidates=tuple(self.candidates.values()),
            half=self.half,
            score=self.score,
            bound=self.bound,
            base=self.config,
            unit=self.unit,
            gpu=self.gpu,
            batch=self.batch,
            precision=self.precision,
            target=self.target.name,
            refused={**self.refused},
            complete=self.complete,
        )

    def _report(self, what: str) -> None:
        self.report(what, self.outcome() if self.candidates else None)

    # --- measuring ----------------------------------------------------------------------------

    def _quantized(self, choice: Choice) -> fx.GraphModule:
        gc.collect()  # graph modules are in circles, and hold the weights of the one before
        model = insert_qdq(self.source, choice.config(self.config, self.groups))
        return calibrate(model, self.learned)

    def _measure(self, choice: Choice, predicted: float | None = None) -> Candidate:
        @cache
        def quantized() -> fx.GraphModule:
            self._report(f"measuring {_said(choice)}")
            return self._quantized(choice)

        key = choice.key
        accuracy = self.store.of(
            f"accuracy {key}", lambda: self.judge.accuracy(quantized()).to_dict()
        )
        cost = self.store.of(f"cost {key}", lambda: self._cost(key, quantized).to_dict())
        one = Candidate(choice, Cost(**cost), Accuracy(**accuracy), predicted)
        self.candidates[choice.key] = one
        return one

    def _cost(self, key: str, made: Callable[[], fx.GraphModule]) -> Cost:
        with self.store.draft(key) as path:
            self._export(made, path)
            return self.costing(path)

    def _export(self, made: Callable[[], fx.GraphModule], path: Path) -> None:
        """Write the file of a model, unless a run that was stopped did."""
        if not path.exists():
            export_onnx(made(), self.examples, path, precision=self.precision)

    def _half(self) -> dict[str, Any]:
        self._report(f"measuring {self.precision}")
        return self._cost("half", lambda: self.source).to_dict()

    def _score(self) -> float | None:
        """The user's score of the model in floating point."""
        found = self.store.of("float", lambda: self.judge.accuracy(self.source).to_dict())
        return Accuracy(**found).score

    def _groups(self) -> tuple[Group, ...]:
        return groups_of(insert_qdq(self.source, replace(self.config, attention="full")))

    def _find(self, found: Evidence) -> None:
        """Find what quantizing each group saves, and its noise.

        The files are those of the base, edited.
        """
        config = found.base.choice.config(self.config, self.groups)
        whole = Whole(self.source, config, self.learned, self.groups)
        with self.store.draft(f"whole {found.base.choice.key}") as path:
            for one in self.groups:
                found.gains[one.name] = self._gain(found, one, whole, path)
        for one in self.groups:
            key = f"alone {found.base.choice.numbers} {one.name}"
            what = f"measuring the noise of {one.name} alone in {found.base.choice.numbers}"
            stored = self.store.of(key, partial(self._alone, whole, one, what))
            found.alone[one.name] = stored["noise"]

    def _gain(self, found: Evidence, group: Group, whole: Whole, path: Path) -> float:
        names = [one.name for one in self.groups if (one is group) != found.upward]
        if not whole.quantizers[group.name]:
            return 0.0
        numbers, cost = found.base.choice.numbers, found.half.value  # where every group is left
        if len(names) < len(self.groups):
            what = f"costing {group.name} {'alone' if found.upward else 'left'} in {numbers}"
            key = f"without {numbers} {json.dumps(names)}"
            cost = self.store.of(key, partial(self._without, names, what, whole, path))["cost"]
        return found.half.value - cost if found.upward else cost - found.base.cost.value

    def _without(self, names: Sequence[str], what: str, whole: Whole, path: Path) -> dict[str, Any]:
        """The cost of a base's file without some groups."""
        self._report(what)
        self._export(lambda: whole.calibrated, path)
        left = [path for one in self.groups if one.name in names for path in one.paths]
        with tempfile.TemporaryDirectory() as folder:
            output = Path(folder) / "candidate.onnx"
            leave(whole.placed, path, output, left)
            gc.collect()  # what is read of a file is in circles, and holds its weights
            return {"cost": self.costing(output).value}

    def _alone(self, whole: Whole, group: Group, what: str) -> dict[str, float]:
        quantizers = whole.quantizers[group.name]
        if not quantizers:
            return {"noise": 0.0}
        self._report(what)
        return {"noise": self.judge.alone(whole.calibrated, quantizers)}

    # --- choosing -----------------------------------------------------------------------------

    def _bases(self) -> list[Candidate]:
        """Everything quantized, in each way that the compiler takes."""
        if self.config.weights.block_size is not None:
            return [self._measure(Choice(numbers="INT4 weights"))]
        attends = any(isinstance(one, FusedModule) and one.attends for one in self.source.modules())
        choices = [Choice(), *(Choice(one) for one in _ATTENTIONS if attends)]
        bases = [self._measure(one) for one in choices]
        cheapest = min(bases, key=lambda one: one.cost.value)
        if QDQPoint.RESIDUAL_INPUT in self._points():
            bases.append(self._measure(replace(cheapest.choice, residual=False)))
        for one in (replace(cheapest.choice, numbers="FP8"), Choice(numbers="INT4 weights")):
            try:
                bases.append(self._measure(one))
            except (BuildError, ExportError, QuantizationError) as error:
                if one.numbers == "FP8" or not isinstance(error, QuantizationError):
                    self.refused[one.numbers] = str(error)  # else no weight has blocks
        return bases

    def _points(self) -> set[QDQPoint]:
        """That the model declares."""
        fused = (one for one in self.source.modules() if isinstance(one, FusedModule))
        return {point for one in fused for point in one.qdq_points}

    def _climb(self, bases: Sequence[Candidate]) -> None:
        """Measure those that look best, until there is nothing better or no trial left."""
        pending = {
            choice.key: (choice, *self.evidence[base.choice.numbers].predicted(base, left))
            for base in bases
            for left in self.evidence[base.choice.numbers].ladder()
            if (choice := base.choice.leaving(left, self.groups)).key not in self.candidates
        }
        most = len(self.candidates) + self.trials
        while len(self.candidates) < most and (found := self._next([*pending.values()])):
            choice, _, predicted = found
            try:
                self._measure(choice, predicted)
            except QuantizationError:  # only what this kind of attention leaves was to be quantized
                pass
            except (BuildError, ExportError) as error:
                self.refused[_said(choice)] = str(error)
            del pending[choice.key]

    def _next(
        self, pending: Sequence[tuple[Choice, float, float]]
    ) -> tuple[Choice, float, float] | None:
        """The most promising of those that may beat the best; without a bound, of a new figure."""
        pending = [one for one in pending if not self._beaten(one, pending)]
        if not pending:
            return None
        best = self.bound.best(self.candidates.values(), self.score)
        cheaper = [one for one in pending if best is None or one[1] < best.cost.value]
        if not self.bound and not cheaper:
            known = [one.accuracy.sqnr_db for one in self.candidates.values()]
            return max(pending, key=lambda one: min(abs(one[2] - db) for db in known))
        if self.bound.max_cost is not None:
            fit = [one for one in pending if one[1] <= self.bound.max_cost]
            better = [one for one in fit if best is None or one[2] > best.accuracy.sqnr_db]
            return max(better, key=lambda one: one[2], default=None)
        needed = self.bound.needed_db(self.candidates.values(), self.score)
        enough = [one for one in cheaper if one[2] >= needed]
        if enough:
            return min(enough, key=lambda one: one[1])
        return max(cheaper, key=lambda one: one[2], default=None) if best is None else None

    def _beaten(
        self, one: tuple[Choice, float, float], pending: Sequence[tuple[Choice, float, float]]
    ) -> bool:
        """Whether another one, measured or predicted, costs no more and has less noise.

        Of the measured, those that keep to the bound count: a score need not follow the noise.
        """
        holding = [it for it in self.candidates.values() if self.bound.holds(it, self.score)]
        known = [(it.cost.value, it.accuracy.sqnr_db) for it in holding]
        others = known + [it[1:] for it in pending]
        return any(cost <= one[1] and db > one[2] for cost, db in others)


def _said(choice: Choice) -> str:
    more = "" if choice.residual else ", residuals in half precision"
    said = f"{choice.numbers}, attention {choice.attention}{more}"
    return f"{said}, without {', '.join(choice.left)}" if choice.left else said
