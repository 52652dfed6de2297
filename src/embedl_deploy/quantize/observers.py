"""Observers: they collect what passes a tensor and say which range to quantize.

They keep no activations, so memory does not grow with the data.
"""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from embedl_deploy.errors import QuantizationError

_COUNTABLE = 2**24
"""How far float32, in which torch.histc counts, knows all integers."""

_SMALLEST = 2.0**-100
"""Magnitudes below count as zero; the width of a bin stays a normal float32."""


class Observer(ABC):
    """Collects statistics of a tensor over batches."""

    def __init__(self) -> None:
        self.reset()

    @abstractmethod
    def collect(self, tensor: Tensor) -> None:
        """Take in one batch, of any shape but not empty."""

    @abstractmethod
    def compute(self) -> Tensor | None:
        """The largest magnitude to represent, a scalar; `None` before any data."""

    @abstractmethod
    def reset(self) -> None:
        """Forget everything."""


class MinMaxObserver(Observer):
    """The largest magnitude seen."""

    _largest: Tensor | None

    def collect(self, tensor: Tensor) -> None:
        low, high = torch.aminmax(tensor.detach())
        largest = torch.maximum(-low, high).float()
        self._largest = largest if self._largest is None else torch.maximum(self._largest, largest)

    def compute(self) -> Tensor | None:
        return self._largest

    def reset(self) -> None:
        self._largest = None


class PercentileObserver(Observer):
    """The magnitude that a given share of all values stays below.

    Magnitudes are counted in a histogram up to a power of two. When a batch exceeds it, it is
    doubled by merging neighbouring bins, which loses no count. So the order of the batches does
    not matter, and the result is exact to one bin.

    Args:
        percentile: Share of the values to represent, in percent.
        bins: Number of bins, even.

    Raises:
        QuantizationError: The percentile is not in (0, 100], or the number of bins is odd.
    """

    _largest: Tensor | None
    _counts: Tensor | None
    _limit: float

    def __init__(self, percentile: float = 99.99, bins: int = 4096) -> None:
        if not 0 < percentile <= 100:
            raise QuantizationError(f"a percentile lies in (0, 100], {percentile} does not")
        if bins < 2 or bins % 2:
            raise QuantizationError(f"the number of bins must be even, {bins} is not")
        self.percentile = percentile
        self.bins = bins
        super().__init__()

    def collect(self, tensor: Tensor) -> None:
        magnitudes = tensor.detach().abs().float().flatten()
        largest = magnitudes.max()
        self._largest = largest if self._largest is None else torch.maximum(self._largest, largest)
        if not torch.isfinite(self._largest):
            return
        self._grow(self._largest.item())
        limit = min(self._limit, torch.finfo(torch.float32).max)
        for part in magnitudes.split(_COUNTABLE):
            counts = torch.histc(part, self.bins, 0, limit).double()
            self._counts = counts if self._counts is None else self._counts + counts

    def _grow(self, largest: float) -> None:
        """Raise the limit to the power of two above `largest`."""
        limit = 2.0 ** math.frexp(max(largest, _SMALLEST))[1]
        if self._counts is None:
            self._limit = limit
            return
        while self._limit < limit:
            self._limit *= 2
            merged = self._counts.view(-1, 2).sum(1)
            self._counts = torch.cat((merged, torch.zeros_like(merged)))

    def compute(self) -> Tensor | None:
        if self._largest is None or self._counts is None or not torch.isfinite(self._largest):
            return self._largest
        reached = self._counts.cumsum(0) >= self._counts.sum() * (self.percentile / 100)
        index = int(reached.int().argmax())
        edge = self._largest.new_tensor((index + 1) * self._limit / self.bins)
        return torch.minimum(edge, self._largest)

    def reset(self) -> None:
        self._largest = None
        self._counts = None
        self._limit = 0.0
