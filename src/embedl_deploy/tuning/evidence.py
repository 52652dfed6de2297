"""What each group saves and how much noise it makes, in one kind of numbers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from embedl_deploy.tuning.candidates import Candidate
from embedl_deploy.tuning.costs import Cost


@dataclass
class Evidence:
    """What is known of the groups in one kind of numbers.

    Attributes:
        base: With everything quantized, the cheapest of the kind: each group is left of it.
        half: The cost of the file in half precision.
        gains: What quantizing a group saves where all others are quantized or, where that costs
            more than half precision, where no other is; below 0 where it costs.
        alone: Noise over signal at the outputs where a group alone is quantized.
    """

    base: Candidate
    half: Cost
    gains: dict[str, float] = field(default_factory=dict)
    alone: dict[str, float] = field(default_factory=dict)

    @property
    def upward(self) -> bool:
        """Whether groups are added to half precision, since everything quantized costs more."""
        return self.base.cost.value >= self.half.value

    def share(self, name: str) -> float:
        """Of the noise of all groups."""
        own, total = self.alone.get(name, 0.0), sum(self.alone.values())
        return float(math.isinf(own)) if math.isinf(total) else own / (total or 1.0)

    def ladder(self) -> list[tuple[str, ...]]:
        """Groups to leave: those that do not pay, and one more at a time, the worst first."""
        costly = [name for name, gain in self.gains.items() if gain <= 0]
        paying = [name for name, gain in self.gains.items() if gain > 0]
        paying.sort(key=lambda name: self.alone.get(name, 0.0) / self.gains[name], reverse=True)
        order = costly + paying
        return [tuple(order[:end]) for end in range(len(costly), len(order))]

    def predicted(self, base: Candidate, left: Sequence[str]) -> tuple[float, float]:
        """Cost and signal to noise by adding up; a whole base is exact."""
        noise = sum(self.alone.values())
        rest = sum(value for name, value in self.alone.items() if name not in left)
        cost = base.cost.value + sum(self.gains[name] for name in left)
        if self.upward:
            kept = sum(gain for name, gain in self.gains.items() if name not in left)
            cost = self.half.value - kept
        if not rest or not noise:
            return cost, math.inf
        return cost, base.accuracy.sqnr_db + 10 * math.log10(noise / rest)
