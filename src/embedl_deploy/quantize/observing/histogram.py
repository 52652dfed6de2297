"""A histogram of magnitudes whose range grows with the data, and the observers that read it."""

import math
from abc import abstractmethod
from typing import Self

import torch
from torch import Tensor

from embedl_deploy.errors import QuantizationError
from embedl_deploy.quantize.observing.observers import Observer, rows_of
from embedl_deploy.quantize.rounding import INT8, Grid

_SMALLEST = 2.0**-100
"""Magnitudes below count as zero; the width of a bin stays a normal float32."""

_PIECE = 2**17
"""Values that are counted at a time; they stay in the processor's cache."""


class HistogramObserver(Observer):
    """Counts magnitudes in bins of equal width, up to a power of two.

    When a batch exceeds the range, it is doubled by merging neighbouring bins, which loses no
    count. So the order of the batches does not matter, nor how they are spread over processes.

    Args:
        bins: Number of bins, even.

    Raises:
        QuantizationError: The number of bins is odd.
    """

    _counts: Tensor | None
    _exponents: Tensor

    def __init__(self, bins: int) -> None:
        if bins < 2 or bins % 2:
            raise QuantizationError(f"the number of bins must be even, {bins} is not")
        self.bins = bins
        super().__init__()

    @abstractmethod
    def choose(self, counts: Tensor, widths: Tensor, grid: Grid) -> Tensor:
        """The range to represent of each row.

        Args:
            counts: Shape (rows, bins), in float64.
            widths: Width of a bin, shape (rows).
            grid: The numbers there are.
        """

    def collect(self, tensor: Tensor) -> None:
        largest = self._see(tensor)
        if not torch.isfinite(largest).all():
            return
        rows = rows_of(tensor, self.axis)
        limits = largest.view(-1).double().cpu().clamp(min=_SMALLEST)
        self._grow(torch.frexp(limits).exponent)
        assert self._counts is not None  # noqa: S101 - _grow made them
        for counts, exponent, row in zip(self._counts, self._exponents.tolist(), rows, strict=True):
            counts.add_(_count(row, self.bins, exponent).to(counts))

    def _grow(self, exponents: Tensor) -> None:
        """Raise each row's limit to a power of two."""
        if self._counts is None:
            self._exponents = exponents
            self._counts = torch.zeros(len(exponents), self.bins, dtype=torch.float64)
        wanted = torch.maximum(self._exponents, exponents)
        self._counts = _raised(self._counts, self._exponents, wanted)
        self._exponents = wanted

    def compute(self, grid: Grid = INT8) -> Tensor | None:
        if self.largest is None or self._counts is None or not torch.isfinite(self.largest).all():
            return self.largest
        widths = torch.ldexp(torch.ones(len(self._exponents)).double(), self._exponents) / self.bins
        chosen = self.choose(self._counts, widths, grid).to(self.largest).view_as(self.largest)
        return torch.minimum(chosen, self.largest)

    def reset(self) -> None:
        self.lowest = self.largest = self._counts = None
        self._exponents = torch.zeros(0, dtype=torch.int32)

    def merge(self, other: Self) -> None:
        self._keep_of(other)
        if other._counts is None:
            return
        self._grow(other._exponents)
        assert self._counts is not None  # noqa: S101 - as above
        self._counts += _raised(other._counts, other._exponents, self._exponents)


def _raised(counts: Tensor, exponents: Tensor, wanted: Tensor) -> Tensor:
    """The counts of bins that reach higher, each of them the sum of neighbours."""
    counts = counts.clone()
    while (low := exponents < wanted).any():
        merged = counts[low].unflatten(1, (-1, 2)).sum(2)
        counts[low] = torch.cat((merged, torch.zeros_like(merged)), 1)
        exponents = exponents + low.to(exponents.dtype)
    return counts


def _count(row: Tensor, bins: int, exponent: int) -> Tensor:
    """How many magnitudes of a row are in each bin."""
    factor = math.ldexp(bins, -exponent)
    total = torch.zeros(bins, dtype=torch.int64, device=row.device)
    for piece in row.split(_PIECE):
        indices = (piece.float() * factor).abs_().int().clamp_(max=bins - 1)
        total += torch.bincount(indices, minlength=bins)
    return total
