"""Figures of how tensors differ that add up over batches."""

import math
from dataclasses import dataclass

from torch import Tensor


@dataclass
class Difference:
    """How tensors differ from what they should be.

    Attributes:
        values: How many values were compared.
        largest_difference: Between them.
        largest_output: Largest magnitude of what they should be.
        signal: Sum of squares of what they should be.
        noise: Sum of squares of the differences.
    """

    values: int = 0
    largest_difference: float = 0.0
    largest_output: float = 0.0
    signal: float = 0.0
    noise: float = 0.0

    def add(self, wanted: Tensor, found: Tensor) -> None:
        """Add one tensor of one batch."""
        apart = difference(wanted, found)
        self.values += apart.numel()
        self.largest_difference = max(self.largest_difference, largest(apart))
        self.largest_output = max(self.largest_output, largest(wanted))
        self.signal += float(_finite(wanted).square().sum())
        self.noise += float(apart.square().sum())

    @classmethod
    def of(cls, wanted: Tensor, found: Tensor) -> "Difference":
        """Of one tensor."""
        made = cls()
        Difference.add(made, wanted, found)
        return made

    @property
    def sqnr_db(self) -> float:
        """Signal to noise in decibels."""
        ratio = self.signal / self.noise if self.noise else math.inf
        return 10 * math.log10(ratio) if ratio > 0 else -math.inf

    @property
    def relative(self) -> float:
        """The largest difference as a share of the largest magnitude; infinite where that is 0."""
        if not self.largest_output:
            return math.inf if self.largest_difference else 0.0
        return self.largest_difference / self.largest_output


@dataclass
class OutputParity(Difference):
    """How one output compares.

    Attributes:
        rows: How many rows a matrix of scores has, a class for each column; 0 of other outputs.
        same_top: In how many of them the largest score is at the same place.
    """

    rows: int = 0
    same_top: int = 0

    def add(self, wanted: Tensor, found: Tensor) -> None:
        super().add(wanted, found)
        if wanted.dim() == 2 and wanted.shape[1] > 1 and wanted.is_floating_point():
            self.rows += len(wanted)
            self.same_top += int((wanted.argmax(1) == found.argmax(1)).sum())

    @property
    def agreement(self) -> float | None:
        """The share of the rows whose largest score is at the same place; `None` without rows."""
        return self.same_top / self.rows if self.rows else None


@dataclass
class ProductParity(Difference):
    """How the result of the last fused module before an output compares.

    Attributes:
        outputs: Which follow from it by operations without weights, such as the decoding of boxes.
    """

    outputs: tuple[str, ...] = ()


@dataclass
class OrderParity(Difference):
    """How the scores before an operator that ranks compare, and what it picked.

    Attributes:
        outputs: Of the file, which depend on what it picked.
        picks: How many indices it gave.
        same: How many of them the model gives at the same place.
        followed: Whether the model picked what the file did, so that what comes after was
            compared.
        sound: Whether the file's picks are those of its scores.
    """

    outputs: tuple[str, ...] = ()
    picks: int = 0
    same: int = 0
    followed: bool = True
    sound: bool = True

    def said(self, name: str) -> str:
        """In words.

        Args:
            name: Of the operator.
        """
        where = f"the order at '{name}', on which {', '.join(self.outputs)} depend"
        if len(self.outputs) == 1:
            where = f"the order at '{name}', on which {self.outputs[0]} depends"
        if not self.outputs:
            where = f"the order at '{name}'"
        if not self.followed:
            return f"{where}, could not be followed, so these outputs were not compared"
        return (
            f"{where}, was taken from the file, whose picks differ at {self.picks - self.same} of "
            f"{self.picks} places; scores before it {self.sqnr_db:.1f} dB"
        )

    @property
    def agreement(self) -> float:
        """The share of the picks that the model makes as well."""
        return self.same / self.picks if self.picks else 1.0


def difference(wanted: Tensor, found: Tensor) -> Tensor:
    """Zero where both are the same infinity or no number, infinite where one alone is."""
    one, other = wanted.double(), found.double()
    same = (one == other) | (one.isnan() & other.isnan())
    return (one - other).abs().nan_to_num(nan=math.inf, posinf=math.inf).masked_fill(same, 0.0)


def largest(tensor: Tensor) -> float:
    """The largest magnitude that is a number; 0 of nothing."""
    numbers = tensor.double().abs()
    numbers = numbers[~numbers.isnan()]
    return float(numbers.max()) if numbers.numel() else 0.0


def _finite(tensor: Tensor) -> Tensor:
    return tensor.double().nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
