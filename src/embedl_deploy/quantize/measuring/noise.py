"""What rounding does to tensors, in figures that add up over batches."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

BINS = 48
"""Bins of the distribution of values; a third of them is outside the range."""


@dataclass
class Noise:
    """Signal and noise between tensors and what became of them.

    Attributes:
        values: How many values there were.
        signal: Sum of their squares.
        noise: Sum of the squares of their changes.
        largest: Their largest magnitude.
        clipped: How many of them were outside a range, where there is one.
        counts: How many of them are in each of `BINS` bins of equal width, from -1.5 to 1.5 times
            the largest value that is not clipped; those beyond are in the first and the last.
            `None` where there is no range.
    """

    values: int = 0
    signal: float = 0.0
    noise: float = 0.0
    largest: float = 0.0
    clipped: int = 0
    counts: Tensor | None = None

    def add(self, before: Any, after: Any) -> None:
        """Take in the floating-point tensors of two trees of the same form."""
        pairs = zip(pytree.tree_leaves(before), pytree.tree_leaves(after), strict=True)
        for one, other in pairs:
            if isinstance(one, Tensor) and one.is_floating_point() and one.numel():
                self.values += one.numel()
                self.signal += _squares(one)
                self.noise += _squares(other - one)
                self.largest = max(self.largest, float(one.abs().max()))

    def add_range(self, values: Tensor, low: Tensor, high: Tensor, half: Tensor | int) -> None:
        """Take in how values lie in a range.

        Args:
            values: In floating point.
            low: The lowest value that is represented.
            high: The highest one; above 0.
            half: Half a step, by which a value may be outside and still be rounded as others.
        """
        self.clipped += int(((values < low - half) | (values > high + half)).sum())
        end = (high + half).float() * (1 + 1e-6)  # so that what is at the end is inside
        shares = (values.detach().float() / end).clamp(-1.5, 1.5)
        found = torch.histc(shares, BINS, -1.5, 1.5).to("cpu", torch.int64)
        self.counts = found if self.counts is None else self.counts + found

    @property
    def sqnr_db(self) -> float:
        """Signal to noise in decibels; infinite without noise."""
        if not self.noise:
            return math.inf
        return 10 * math.log10(self.signal / self.noise) if self.signal else -math.inf

    @property
    def outlier_ratio(self) -> float:
        """The largest magnitude over the root of the mean square."""
        root = math.sqrt(self.signal / self.values) if self.values else 0.0
        return self.largest / root if root else 0.0

    @property
    def clipped_share(self) -> float:
        """The share of the values that were outside the range."""
        return self.clipped / self.values if self.values else 0.0


def _squares(tensor: Tensor) -> float:
    return float(torch.linalg.vector_norm(tensor, dtype=torch.float64)) ** 2
