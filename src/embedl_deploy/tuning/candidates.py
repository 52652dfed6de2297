"""Placements that are tried, and what came out."""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from embedl_deploy.quantize import QuantConfig
from embedl_deploy.quantize.config import Attention, Format
from embedl_deploy.tuning.accuracy import Accuracy
from embedl_deploy.tuning.costs import Cost
from embedl_deploy.tuning.groups import Group

Numbers = Literal["INT8", "FP8", "INT4 weights"]
"""Of what is quantized. Weights of 4 bits are in blocks; activations are left then."""

_BLOCK = 128


@dataclass(frozen=True)
class Choice:
    """What a candidate quantizes.

    Attributes:
        attention: As `QuantConfig.attention`.
        numbers: Of activations and weights.
        left: Names of the groups in floating point, in the order of the groups.
        residual: As `QuantConfig.residual`.
    """

    attention: Attention = "none"
    numbers: Numbers = "INT8"
    left: tuple[str, ...] = ()
    residual: bool = True

    @property
    def key(self) -> str:
        """The same as text."""
        more = [] if self.residual else ["residual left"]
        return json.dumps([self.attention, self.numbers, list(self.left), *more])

    def leaving(self, names: Iterable[str], groups: Sequence[Group]) -> "Choice":
        """The same with these groups in floating point."""
        chosen = set(names)
        return replace(self, left=tuple(one.name for one in groups if one.name in chosen))

    def config(self, base: QuantConfig, groups: Sequence[Group]) -> QuantConfig:
        """How to quantize so.

        Args:
            base: How to quantize besides.
            groups: Of the model.
        """
        fused = [path for one in groups for path in one.paths]
        left = [pattern for one in groups if one.name in self.left for pattern in one.skips(fused)]
        activations, weights = base.activations, base.weights
        probabilities = base.probabilities
        if self.numbers == "INT4 weights":
            activations = probabilities = None
            size = weights.block_size or _BLOCK
            weights = replace(weights, format="int", bits=4, block_size=size)
        else:
            kind: Format = "int" if self.numbers == "INT8" else "float8_e4m3"
            activations = activations and replace(activations, format=kind)
            weights = replace(weights, format=kind)
        return replace(
            base,
            activations=activations,
            weights=weights,
            probabilities=probabilities,
            attention=self.attention,
            residual=self.residual and base.residual,
            skip=(*base.skip, *left),
        )


@dataclass(frozen=True)
class Candidate:
    """A placement that was measured as a whole.

    Attributes:
        choice: What it quantizes.
        cost: Of its file.
        accuracy: Of its simulation.
        predicted_db: The signal to noise that the additive model gave; None where it was not asked.
    """

    choice: Choice
    cost: Cost
    accuracy: Accuracy
    predicted_db: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data."""
        return {
            "attention": self.choice.attention,
            "numbers": self.choice.numbers,
            "residual": self.choice.residual,
            "left": list(self.choice.left),
            "cost": self.cost.to_dict(),
            "accuracy": self.accuracy.to_dict() | {"sqnr_db": finite(self.accuracy.sqnr_db)},
            "predicted_db": finite(self.predicted_db),
        }


def finite(value: float | None) -> float | None:
    """A number for JSON, which has no infinite ones."""
    return value if value is None or math.isfinite(value) else None


def front_of(candidates: Iterable[Candidate]) -> tuple[Candidate, ...]:
    """Those that no other beats in cost and signal to noise, the cheapest first.

    Of candidates whose files compile to the same layers, the most accurate counts.
    """
    ordered = sorted(candidates, key=lambda one: (one.cost.value, -one.accuracy.sqnr_db))
    front: list[Candidate] = []
    for one in ordered:
        if not front or one.accuracy.sqnr_db > front[-1].accuracy.sqnr_db:
            alike = front and one.cost.layers and one.cost.layers == front[-1].cost.layers
            front[-1 if alike else len(front) :] = [one]
    return tuple(front)
