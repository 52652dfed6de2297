"""Figures of a comparison between a simulated model and the file that was exported of it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from embedl_deploy.export.accuracy import Accuracy
from embedl_deploy.export.difference import (
    Difference,
    OrderParity,
    OutputParity,
    ProductParity,
    difference,
    largest,
)
from embedl_deploy.quantize.rounding import INT8, Grid
from embedl_deploy.table import Printed

_STEPS = 0.01
"""How far, in steps, the order of summation can move a value (4e-4 seen with resnet50).

A step is one of 127 to the largest magnitude. FP8 numbers are finer than that near zero; the
rounding of sums is not.
"""

_SHOWN = 3
"""Outputs whose figures stand in the text."""

_ROUNDING = 2e-5
"""How far, relative to its largest magnitude, the order of summation can move an output."""


@dataclass
class StubParity:
    """How the numbers of one stub compare, given the same numbers at the stubs before.

    Attributes:
        path: The stub.
        values: How many numbers were compared.
        differing: How many of them differ.
        largest: The largest difference in spacings of the numbers; 1 is a rounding tie.
        distance: How far apart, in steps of 8 bits, any value was before it was rounded; or,
            where the file does not show that, how far from the tie one was whose number differs.
    """

    path: str
    values: int = 0
    differing: int = 0
    largest: int = 0
    distance: float = 0.0

    def add(
        self, steps: Tensor, computed: Tensor, before: Tensor | None = None, grid: Grid = INT8
    ) -> None:
        """Add one batch.

        Args:
            steps: Simulated multiples of the scale, clamped and not rounded.
            computed: The file's numbers.
            before: The file's multiples, clamped and not rounded, where it shows them.
            grid: The numbers there are.
        """
        unit = grid.highest / 127 if grid.float8 else 1.0
        if before is not None:
            self.distance = max(self.distance, largest(difference(steps, before)) / unit)
        simulated = grid.round(steps)
        least = torch.minimum(simulated.abs(), computed.abs())
        apart = (simulated - computed).abs() / grid.spacing(least).clamp(min=_STEPS * unit)
        self.values += apart.numel()
        differs = apart > 0
        if not differs.any():
            return
        self.differing += int(differs.sum())
        self.largest = max(self.largest, math.ceil(float(apart.max())))
        off = (steps - (simulated + computed) / 2).abs()[differs] / unit
        self.distance = max(self.distance, float(off.max()))

    @property
    def diverges(self) -> bool:
        """Whether more than the rounding of sums and ties is between file and simulation."""
        return self.largest > 1 or self.distance > _STEPS

    @property
    def share(self) -> float:
        """The share of integers that differ."""
        return self.differing / self.values if self.values else 0.0


@dataclass(repr=False)
class Parity(Printed, Difference):
    """How a file compares with the simulation.

    Attributes:
        outputs: Each output by its name in the file; the figures of all are in the parity itself.
        rounding_difference: Largest difference between outputs, relative to the output's largest
            magnitude, where the simulation continues from the file's integers at every stub; `None`
            where stubs were not compared.
        stubs: One entry per stub, in the file's order; empty where the model has none or they were
            not asked for.
        foreign: Whether another tool wrote the file, so that outputs alone were compared.
        orders: Operators that rank, by their name in the file. The simulation picked what they
            did, so near-equal scores in another order are no difference.
        products: By path, the last fused modules before outputs that are computed from them; of
            `compare_onnx`.
        samples: How many rows of data were compared.
        accuracy: How often model and file are right, where the data had labels.
    """

    outputs: dict[str, OutputParity] = field(default_factory=dict)
    rounding_difference: float | None = None
    stubs: dict[str, StubParity] = field(default_factory=dict)
    foreign: bool = False
    orders: dict[str, OrderParity] = field(default_factory=dict)
    products: dict[str, ProductParity] = field(default_factory=dict)
    samples: int = 0
    accuracy: Accuracy = field(default_factory=Accuracy)

    def add_output(self, name: str, simulated: Tensor, computed: Tensor) -> None:
        """Add one output of one batch."""
        self.add(simulated, computed)
        self.outputs.setdefault(name, OutputParity()).add(simulated, computed)

    def add_rounding(self, simulated: Tensor, computed: Tensor) -> None:
        """Add one output of one batch, simulated from the file's integers."""
        found = Difference.of(simulated, computed)
        largest, output = found.largest_difference, found.largest_output
        relative = largest / output if 0 < output < math.inf else largest
        self.rounding_difference = max(relative, self.rounding_difference or 0.0)

    @property
    def largest_step_difference(self) -> float:
        """The largest output difference in steps of an 8-bit quantization of the output."""
        return 127 * self.relative

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
        before they were rounded the values were the same except for the rounding of sums. So are
        the outputs after the last stubs. `False` where stubs were not compared.
        """
        if self.rounding_difference is None or not math.isfinite(self.largest_difference):
            return False
        stubs = self.stubs.values()
        return (
            self.first_divergence is None
            and all(one.sound for one in self.orders.values())
            and sum(stub.differing for stub in stubs)
            <= max(1, 1e-4 * sum(stub.values for stub in stubs))
            and self.rounding_difference <= _ROUNDING
        )

    def _parts(self) -> Sequence[str]:
        return (self._said(),)

    def _said(self) -> str:
        text = (
            f"output SQNR {self.sqnr_db:.1f} dB{self._each()}, largest output difference "
            f"{self.largest_step_difference:.3f} steps"
        )
        if self.foreign:
            return f"{text}; another tool wrote the file, so outputs alone were compared"
        if self.stubs:
            text = f"{text}; {self._at_stubs()}"
        text += "".join(f"; {one.said(name)}" for name, one in self.orders.items())
        return text if self.only_ties else f"{text}{self._fault()}"

    def _each(self) -> str:
        """Of several outputs those with the least."""
        if len(self.outputs) < 2:
            return ""
        worst = sorted(self.outputs.items(), key=lambda one: one[1].sqnr_db)[:_SHOWN]
        more = ", …" if len(self.outputs) > _SHOWN else ""
        return f" ({', '.join(f'{name} {one.sqnr_db:.1f}' for name, one in worst)}{more})"

    def _at_stubs(self) -> str:
        count, largest = len(self.stubs), self.largest_stub_difference
        places = f"at {count} stub{'' if count == 1 else 's'}"
        if not largest:
            return f"{places} no rounded number differs"
        steps = f"{largest} step{'' if largest == 1 else 's'}"
        return f"{places} {self.tie_share:.1e} of the numbers differ, by at most {steps}"

    @property
    def first_divergence(self) -> StubParity | None:
        """The first stub in the file's order that differs by more than rounding.

        What is wrong lies between the stubs before it and this one, since all stubs continue from
        the file's integers.
        """
        return next((stub for stub in self.stubs.values() if stub.diverges), None)

    def _fault(self) -> str:
        """Where it first goes wrong: before a stub, or after the last ones."""
        first = self.first_divergence
        if first is not None:
            count = sum(stub.diverges for stub in self.stubs.values())
            also = f" (and at {count - 1} more)" if count > 1 else ""
            return f"; first at '{first.path}', values differ by {first.distance:.2g} steps{also}"
        if wrong := next((name for name, one in self.orders.items() if not one.sound), None):
            return f"; what '{wrong}' picks does not follow from its scores"
        if (self.rounding_difference or 0.0) > _ROUNDING:
            return f"; from the same integers outputs differ by {self.rounding_difference:.1e}"
        if not math.isfinite(self.largest_difference):
            return "; outputs are infinite or no numbers in one of the two alone"
        return ""
