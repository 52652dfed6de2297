"""Figures of a comparison between a simulated model and the file that was exported of it."""

import math
from dataclasses import dataclass, field

from torch import Tensor


@dataclass
class StubParity:
    """How the integers of one stub compare, given the same integers at the stubs before.

    Attributes:
        path: The stub.
        values: How many integers were compared.
        differing: How many of them differ.
        largest: The largest difference in quantization steps; 1 is a rounding tie.
    """

    path: str
    values: int = 0
    differing: int = 0
    largest: int = 0

    def add(self, simulated: Tensor, computed: Tensor) -> None:
        """Take in the integers of one batch."""
        steps = (simulated.int() - computed.int()).abs()
        self.values += steps.numel()
        self.differing += int((steps > 0).sum())
        self.largest = max(self.largest, int(steps.max()))

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
        stubs: One entry per stub; empty where the model has none or they were not asked for.
    """

    values: int = 0
    largest_difference: float = 0.0
    largest_output: float = 0.0
    signal: float = 0.0
    noise: float = 0.0
    stubs: dict[str, StubParity] = field(default_factory=dict)

    def add(self, simulated: Tensor, computed: Tensor) -> None:
        """Take in one output of one batch."""
        difference = simulated.double() - computed.double()
        self.values += difference.numel()
        self.largest_difference = max(self.largest_difference, float(difference.abs().max()))
        self.largest_output = max(self.largest_output, float(simulated.abs().max()))
        self.signal += float(simulated.double().square().sum())
        self.noise += float(difference.square().sum())

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
        """Whether integers differ by rounding ties alone: by one step, at most one in 10,000."""
        return self.largest_stub_difference <= 1 and self.tie_share <= 1e-4

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
