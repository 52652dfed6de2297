"""Figures of a comparison between a simulated model and the file that was exported of it."""

import math
from dataclasses import dataclass, field

from torch import Tensor

_TIE = 1e-3
"""How far from the middle between two integers, in steps, a sum's rounding can move a value."""

_ROUNDING = 2e-5
"""How far, relative to the largest output, two orders of summation can take an output."""


@dataclass
class StubParity:
    """How the integers of one stub compare, given the same integers at the stubs before.

    Attributes:
        path: The stub.
        values: How many integers were compared.
        differing: How many of them differ.
        largest: The largest difference in quantization steps; 1 is a rounding tie.
        distance: How far from the tie, in steps, a value was simulated whose integer differs.
    """

    path: str
    values: int = 0
    differing: int = 0
    largest: int = 0
    distance: float = 0.0

    def add(self, steps: Tensor, computed: Tensor) -> None:
        """Take in one batch: simulated steps, clamped but not rounded, and computed integers."""
        simulated = steps.round()
        apart = (simulated - computed).abs()
        self.values += apart.numel()
        differs = apart > 0
        if not differs.any():
            return
        self.differing += int(differs.sum())
        self.largest = max(self.largest, int(apart.max()))
        off = (steps - (simulated + computed) / 2).abs()[differs]
        self.distance = max(self.distance, float(off.max()))

    @property
    def share(self) -> float:
        """The share of integers that differ."""
        return self.differing / self.values if self.values else 0.0


@dataclass
class Parity:
    """How a file compares with the simulation.

    Attributes:
        values: How many output values were compared.
        largest_difference: Between outputs, both run freely.
        largest_output: Largest magnitude of the simulated outputs.
        signal: Sum of squares of the simulated outputs.
        noise: Sum of squares of the differences.
        rounding_difference: Largest difference between outputs where the simulation goes on from
            the file's integers at every stub; `None` where stubs were not compared.
        stubs: One entry per stub; empty where the model has none or they were not asked for.
    """

    values: int = 0
    largest_difference: float = 0.0
    largest_output: float = 0.0
    signal: float = 0.0
    noise: float = 0.0
    rounding_difference: float | None = None
    stubs: dict[str, StubParity] = field(default_factory=dict)

    def add(self, simulated: Tensor, computed: Tensor) -> None:
        """Take in one output of one batch."""
        difference = simulated.double() - computed.double()
        if not difference.numel():
            return
        self.values += difference.numel()
        self.largest_difference = _larger(self.largest_difference, difference)
        self.largest_output = _larger(self.largest_output, simulated)
        self.signal += float(simulated.double().square().sum())
        self.noise += float(difference.square().sum())

    def add_rounding(self, simulated: Tensor, computed: Tensor) -> None:
        """Take in one output of one batch, simulated from the file's integers."""
        difference = simulated.double() - computed.double()
        self.rounding_difference = _larger(self.rounding_difference or 0.0, difference)

    @property
    def sqnr_db(self) -> float:
        """Signal to noise between simulated and computed outputs, in decibels."""
        return 10 * math.log10(self.signal / self.noise) if self.noise else math.inf

    @property
    def largest_step_difference(self) -> float:
        """The largest output difference in steps of an 8-bit quantization of the output."""
        step = self.largest_output / 127
        return self.largest_difference / step if step else 0.0

    @property
    def largest_stub_difference(self) -> int:
        """The largest difference at any stub in quantization steps."""
        return max((stub.largest for stub in self.stubs.values()), default=0)

    @property
    def tie_share(self) -> float:
        """The share of all stubs' integers that differ."""
        values = sum(stub.values for stub in self.stubs.values())
        return sum(stub.differing for stub in self.stubs.values()) / values if values else 0.0

    @property
    def only_ties(self) -> bool:
        """Whether file and simulation differ by floating-point rounding alone.

        At the stubs, integers differ by one step, at most one in 10,000 (or a single one), and
        only where the value lay at the tie between the two. Behind the last stubs, outputs
        differ by the rounding of sums. `False` where stubs were not compared.
        """
        if self.rounding_difference is None:
            return False
        stubs = self.stubs.values()
        return (
            self.largest_stub_difference <= 1
            and all(stub.distance <= _TIE for stub in stubs)
            and sum(stub.differing for stub in stubs)
            <= max(1, 1e-4 * sum(stub.values for stub in stubs))
            and self.rounding_difference <= _ROUNDING * self.largest_output
        )

    def __str__(self) -> str:
        text = (
            f"output SQNR {self.sqnr_db:.1f} dB, largest output difference "
            f"{self.largest_step_difference:.3f} steps"
        )
        if not self.stubs:
            return text
        return (
            f"{text}; at {len(self.stubs)} stubs {self.tie_share:.1e} of the integers differ, "
            f"by at most {self.largest_stub_difference} step"
        )


def _larger(largest: float, tensor: Tensor) -> float:
    """The larger of a magnitude and a tensor's largest one; not a number where one is in it."""
    if math.isnan(largest) or not tensor.numel():
        return largest
    new = float(tensor.abs().max())
    return new if math.isnan(new) else max(new, largest)
