"""The outcome of a search, as something to read, keep and edit."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from embedl_deploy.export.precision import Half
from embedl_deploy.quantize import QuantConfig
from embedl_deploy.table import Printed, counted, percent, table
from embedl_deploy.tuning.bounds import Bound
from embedl_deploy.tuning.candidates import Candidate, Numbers, finite, front_of
from embedl_deploy.tuning.costs import Cost, Unit
from embedl_deploy.tuning.evidence import Evidence
from embedl_deploy.tuning.groups import Group
from embedl_deploy.tuning.stored import SCHEMA

_SAVES = 0.995
"""The share of half precision's cost that the best costs at most."""


@dataclass(frozen=True, repr=False)
class Tuning(Printed):
    """What was measured, and what is best; prints as tables.

    Attributes:
        groups: Of the model.
        evidence: Of the groups, by kind of numbers.
        candidates: All that were measured as a whole.
        half: The cost of the file in half precision.
        score: The user's score of the model in floating point; None without.
        bound: What the best has to keep to.
        base: How to quantize besides.
        unit: Of the costs: `time`, an estimate in microseconds, or `bytes`, in megabytes.
        gpu: That files were compiled for; empty where a function gave the costs.
        batch: Samples that a file takes at a time.
        precision: Of what is not quantized.
        target: The name of the target that files were written for.
        refused: Formats and placements that could not be measured, and why.
        complete: Whether the search came to its end.
    """

    groups: tuple[Group, ...]
    evidence: dict[Numbers, Evidence]
    candidates: tuple[Candidate, ...]
    half: Cost
    score: float | None
    bound: Bound
    base: QuantConfig
    unit: Unit
    gpu: str
    batch: int
    precision: Half
    target: str
    refused: dict[str, str]
    complete: bool

    @property
    def front(self) -> tuple[Candidate, ...]:
        """The candidates that neither another nor half precision beats, the cheapest first."""
        return front_of(one for one in self.candidates if one.cost.value < self.half.value)

    @property
    def best(self) -> Candidate | None:
        """The best that keeps to the bound and costs less than half precision; None without one.

        What saves less than half a percent does not count.
        """
        enough = self.half.value * _SAVES
        cheaper = [one for one in self.candidates if one.cost.value < enough]
        return self.bound.best(cheaper, self.score)

    @property
    def config(self) -> QuantConfig | None:
        """How to quantize; None: not at all, half precision is better."""
        best = self.best
        return None if best is None else best.choice.config(self.base, self.groups)

    @property
    def verdict(self) -> str:
        """The best in one line."""
        best, unit = self.best, self._unit
        if best is None:
            cheapest = min(one.cost.value for one in self.candidates)
            return (
                f"keep {self.precision} ({self.half.value:.1f}{unit}): no placement costs less"
                f"{f' and keeps to {self.bound}' if self.bound else ''}; the cheapest costs "
                f"{cheapest:.1f}{unit}"
            )
        return (
            f"{best.cost.value:.1f}{unit}, {best.cost.value / self.half.value:.0%} of "
            f"{self.precision}'s, at {best.accuracy.sqnr_db:.1f} dB"
        )

    @property
    def cost_from(self) -> str:
        """What gave the costs, in words."""
        compiler = self.half.compiler
        if not compiler:
            return "by the given function"
        if self.half.kernels is None:
            return f"measured at batch {self.batch} by {compiler}"
        said = (
            f"estimated for {self.gpu} at batch {self.batch} from what {compiler} makes; nothing "
            "was run"
        )
        if self.target in {compiler, compiler.rpartition(" ")[0]}:
            return said
        return f"{said}; the files are for {self.target}, whose kernels may be others"

    @property
    def error_db(self) -> float | None:
        """The largest error of the additive model; None where it predicted nothing."""
        errors = [
            abs(one.predicted_db - one.accuracy.sqnr_db)
            for one in self.candidates
            if one.predicted_db is not None and math.isfinite(one.predicted_db)
        ]
        return max(errors, default=None)

    @property
    def shown(self) -> Evidence | None:
        """The evidence in the numbers of the best, or in INT8 without one; None before any.

        Without INT8, where the config asks for other numbers, in those.
        """
        numbers: Numbers = "INT8" if self.best is None else self.best.choice.numbers
        return self.evidence.get(numbers) or next(iter(self.evidence.values()), None)

    def reason(self, group: Group) -> str:
        """What became of a group in the best, and why."""
        found = self.shown
        if found is None or group.name not in found.gains:
            return "not measured yet"
        gain, share = found.gains[group.name], found.share(group.name)
        whole = found.base.cost.value
        if self.best is None or group.name in self.best.choice.left:
            if gain <= 0:
                return f"half precision: quantizing costs {abs(gain):.1f}{self._unit} more"
            return (
                f"half precision: quantizing saves {gain / whole:.1%} of the cost and makes "
                f"{share:.0%} of the noise"
            )
        numbers = self.best.choice.numbers
        if numbers == "INT4 weights" and not gain and not share:
            return "half precision: weights alone are quantized"
        return f"{numbers}: saves {gain:.1f}{self._unit} and makes {share:.0%} of the noise"

    def to_dict(self) -> dict[str, Any]:
        """All of it for JSON; `read_plan` takes it."""
        best, found = self.best, self.shown
        gains, alone = ({}, {}) if found is None else (found.gains, found.alone)
        return {
            "schema": SCHEMA,
            "complete": self.complete,
            "config": self.config and self.config.to_dict(),
            "verdict": self.verdict,
            "bound": str(self.bound),
            "target": self.target,
            "compiler": self.half.compiler,
            "gpu": self.gpu,
            "batch": self.batch,
            "cost_from": self.cost_from,
            "unit": self.unit,
            "precision": self.precision,
            "half": self.half.to_dict(),
            "best": best and best.to_dict(),
            "groups": [
                {
                    "name": one.name,
                    "kind": one.kind,
                    "paths": list(one.paths),
                    "saves": gains.get(one.name),
                    "noise_over_signal": finite(alone.get(one.name)),
                    "reason": self.reason(one),
                }
                for one in self.groups
            ],
            "front": [one.to_dict() for one in self.front],
            "candidates": len(self.candidates),
            "additive_error_db": self.error_db,
            "refused": self.refused,
        }

    def _parts(self) -> Sequence[str]:
        rows = [(one.name, str(len(one.paths)), self.reason(one)) for one in self.groups]
        parts = [
            table(("Group", "Layers", "In the best, and why"), rows),
            table(("Cost", "SQNR", "Same class", "Kernels", "In half precision"), self._front()),
        ]
        said = [f"{counted(len(self.candidates), 'placement')} measured; {self.cost_from}"]
        if self.error_db is not None:
            said.append(f"the additive model of noise erred by {self.error_db:.1f} dB at most")
        said += [f"{kind} was not tried: {why}" for kind, why in self.refused.items()]
        return (*parts, "\n".join([*said, self.verdict]))

    def _front(self) -> Sequence[tuple[str, ...]]:
        half = (f"{self.half.value:.1f}{self._unit}", "", "", _count(self.half.kernels), "all")
        rows = [
            (
                f"{one.cost.value:.1f}{self._unit}",
                f"{one.accuracy.sqnr_db:.1f} dB",
                _shared(one.accuracy.agreement),
                _count(one.cost.kernels),
                self._left(one),
            )
            for one in self.front
        ]
        return [*rows, half]

    def _left(self, one: Candidate) -> str:
        left = len(one.choice.left)
        said = f"{left} of {len(self.groups)} groups" if left else "nothing"
        more = [] if one.choice.attention == "none" else [f"attention {one.choice.attention}"]
        more += [] if one.choice.residual else ["residuals too"]
        more += [] if one.choice.numbers == "INT8" else [one.choice.numbers]
        return "; ".join([said, *more]) + (" (best)" if one == self.best else "")

    @property
    def _unit(self) -> str:
        return {"time": " µs", "bytes": " MB"}[self.unit] if self.half.compiler else ""


def _count(number: int | None) -> str:
    return "" if number is None else str(number)


def _shared(value: float | None) -> str:
    return "" if value is None else percent(value)
