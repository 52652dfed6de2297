"""The search: measure, order the groups by what they give for their noise, measure again."""

import gc
import json
import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, partial
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
from embedl_deploy.tuning.candidates import Candidate, Choice
from embedl_deploy.tuning.costs import Cost, Unit
from embedl_deploy.tuning.groups import Group, groups_of, quantizers_by_group
from embedl_deploy.tuning.leaving import leave
from embedl_deploy.tuning.plan import Tuning
from embedl_deploy.tuning.store import Store

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
    gains: dict[str, float] = field(default_factory=dict)
    alone: dict[str, float] = field(default_factory=dict)
    base_choice: Choice = field(default_factory=Choice)
    complete: bool = False

    def run(self) -> Tuning:
        """Measure all."""
        self.groups = self._groups()
        self.half = Cost(**self.store.of("half", lambda: {"cost": self._half()})["cost"])
        self.score = self._score()
        bases = self._bases()
        self.base = min(bases, key=lambda one: one.cost.value)
        self.base_choice = self.base.choice
        self.bound.holds(self.base, self.score)  # raises where no drop can be told
        self._gain()
        self.alone = {
            one.name: self.store.of(f"alone {one.name}", partial(self._alone, one))["noise"]
            for one in self.groups
        }
        for one in ("whole", "calibrated"):  # as large as the model
            vars(self).pop(one, None)
        self._climb(bases)
        self.complete = True
        return self.outcome()

    def outcome(self) -> Tuning:
        """What was found so far."""
        return Tuning(
            groups=self.groups,
            gains={**self.gains},
            alone=self.alone,
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
            base_choice=self.base_choice,
            complete=self.complete,
        )

    def _report(self, what: str) -> None:
        self.report(what, self.outcome() if self.candidates else None)

    @property
    def upward(self) -> bool:
        """Whether groups are added to half precision, since everything quantized costs more."""
        return self.base.cost.value >= self.half.value

    @cached_property
    def whole(self) -> fx.GraphModule:
        """With everything quantized, as the base; `calibrated` is the same with scales."""
        gc.collect()  # graph modules are in circles, and hold the weights of the one before
        return insert_qdq(self.source, self.base.choice.config(self.config, self.groups))

    @cached_property
    def calibrated(self) -> fx.GraphModule:
        """The same object."""
        return calibrate(self.whole, self.learned)

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

    def _alone(self, group: Group) -> dict[str, float]:
        self._report(f"measuring the noise of {group.name} alone")
        quantizers = quantizers_by_group(self.calibrated, [group])[group.name]
        return {"noise": self.judge.alone(self.calibrated, quantizers)}

    # --- choosing -----------------------------------------------------------------------------

    def _bases(self) -> list[Candidate]:
        """Everything quantized, in each way that the compiler takes."""
        attends = any(isinstance(one, FusedModule) and one.attends for one in self.source.modules())
        choices = [Choice(), *(Choice(one) for one in _ATTENTIONS if attends)]
        bases = [self._measure(one) for one in choices]
        cheapest = min(bases, key=lambda one: one.cost.value)
        if QDQPoint.RESIDUAL_INPUT in self._points():
            bases.append(self._measure(replace(cheapest.choice, residual=False)))
        for one in (replace(cheapest.choice, numbers="FP8"), Choice(numbers="INT4 weights")):
            try:
                bases.append(self._measure(one))
            except (BuildError, ExportError) as error:
                self.refused[one.numbers] = str(error)
            except QuantizationError:  # no weight has blocks; or the config has 4 bits, not in FP8
                pass
        return bases

    def _points(self) -> set[QDQPoint]:
        """That the model declares."""
        fused = (one for one in self.source.modules() if isinstance(one, FusedModule))
        return {point for one in fused for point in one.qdq_points}

    def _gain(self) -> None:
        """Find what quantizing each group saves; below 0 where it costs.

        The files are those of the base, edited.
        """
        with self.store.draft(f"whole {self.base.choice.key}") as whole:
            for one in self.groups:
                names = [other.name for other in self.groups if (other is one) != self.upward]
                cost = self.half.value
                if len(names) < len(self.groups):
                    key = f"without {json.dumps(names)}"
                    what = f"{one.name} alone" if self.upward else f"all but {one.name}"
                    cost = self.store.of(key, partial(self._without, names, what, whole))["cost"]
                saved = self.half.value - cost if self.upward else cost - self.base.cost.value
                self.gains[one.name] = saved

    def _without(self, names: Sequence[str], what: str, whole: Path) -> dict[str, Any]:
        """The cost of the base's file without some groups."""
        self._report(f"costing {what}")
        self._export(lambda: self.calibrated, whole)
        left = [path for one in self.groups if one.name in names for path in one.paths]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "candidate.onnx"
            leave(self.whole, whole, path, left)
            gc.collect()  # what is read of a file is in circles, and holds its weights
            return {"cost": self.costing(path).value}

    def _ladder(self) -> list[tuple[str, ...]]:
        """Groups to leave: those that do not pay, and one more at a time, the worst first."""
        costly = [name for name, gain in self.gains.items() if gain <= 0]
        paying = [name for name, gain in self.gains.items() if gain > 0]
        paying.sort(key=lambda name: self.alone.get(name, 0.0) / self.gains[name], reverse=True)
        order = costly + paying
        return [tuple(order[:end]) for end in range(len(costly), len(order))]

    def _predicted(self, base: Candidate, left: Sequence[str]) -> tuple[float, float]:
        """Cost and signal to noise by adding up; the whole base is exact."""
        noise = sum(self.alone.values())
        rest = sum(value for name, value in self.alone.items() if name not in left)
        cost = base.cost.value + sum(self.gains[name] for name in left)
        if self.upward:
            kept = sum(gain for name, gain in self.gains.items() if name not in left)
            cost = self.half.value - kept
        if not rest or not noise:
            return cost, math.inf
        return cost, base.accuracy.sqnr_db + 10 * math.log10(noise / rest)

    def _climb(self, bases: Sequence[Candidate]) -> None:
        """Measure those that look best, until there is nothing better or no trial left."""
        pending = {
            choice.key: (choice, *self._predicted(base, left))
            for base in bases
            for left in self._ladder()
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
        """Whether another one, measured or predicted, costs no more and has less noise."""
        known = [(it.cost.value, it.accuracy.sqnr_db) for it in self.candidates.values()]
        others = known + [it[1:] for it in pending]
        return any(cost <= one[1] and db > one[2] for cost, db in others)


def _said(choice: Choice) -> str:
    more = "" if choice.residual else ", residuals in half precision"
    said = f"{choice.numbers}, attention {choice.attention}{more}"
    return f"{said}, without {', '.join(choice.left)}" if choice.left else said
