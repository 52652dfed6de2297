"""A histogram of magnitudes whose range grows with the data, and the observers that read it.

Nothing waits for the device: the range of a batch, the width of its bins and how they are merged
are tensors. On a GPU a batch costs a dozen kernels, four of which read the activation.
"""

from abc import abstractmethod
from collections.abc import Hashable, Iterable
from typing import Self

import torch
from torch import Tensor

from embedl_deploy.errors import QuantizationError
from embedl_deploy.quantize.observing.observers import Observer, rows_of
from embedl_deploy.quantize.rounding import INT8, Grid

_SMALLEST = 2.0**-100
"""Magnitudes below count as zero; the width of a bin stays a normal float32."""

_PIECE = 2**17
"""Values that a processor counts at a time; they stay in its cache."""

_PENDING = 8
"""Batches whose histograms are kept before they are added up, at once."""

_LONGEST = 31
"""Doublings of a range after which one bin is left."""


class HistogramObserver(Observer):
    """Counts magnitudes in bins of equal width, up to a power of two.

    When a batch exceeds the range, it is doubled by merging neighbouring bins, which loses no
    count. So the order of the batches does not matter, nor how they are spread over processes.

    Args:
        bins: Number of bins, even.

    Raises:
        QuantizationError: The number of bins is odd.
    """

    _batches: list[tuple[Tensor, Tensor]]

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

    @property
    def settings(self) -> Hashable:
        """What `choose` depends on besides its arguments: where equal, one stands for another."""
        return type(self), self.bins

    def collect(self, tensor: Tensor) -> None:
        largest = self._see(tensor)
        if tensor.device.type == "cpu" and not torch.isfinite(largest).all():
            return
        limits = largest.view(-1).clamp(min=_SMALLEST)
        mantissas, exponents = torch.frexp(limits)
        factors = mantissas * self.bins / limits  # powers of two times `bins`: exact
        self._batches.append((_count(rows_of(tensor, self.axis), self.bins, factors), exponents))
        if len(self._batches) > _PENDING:
            self._batches = [_added(self._batches)]

    def histogram(self) -> tuple[Tensor, Tensor] | None:
        """Counts in float64, shape (rows, bins), and widths of a bin, shape (rows)."""
        if not self._batches:
            return None
        counts, exponents = _added(self._batches)
        self._batches = [(counts, exponents)]
        return counts, torch.ldexp(torch.ones_like(exponents).double(), exponents) / self.bins

    def compute(self, grid: Grid | None = None) -> Tensor | None:
        return computed([(self, grid or INT8)])[0]

    def reset(self) -> None:
        self.lowest = self.largest = None
        self._batches = []

    def merge(self, other: Self) -> None:
        self._keep_of(other)
        if self._batches or other._batches:
            self._batches = [_added([*self._batches, *other._batches])]


def computed(asked: Iterable[tuple[Observer, Grid]]) -> list[Tensor | None]:
    """What `compute` gives for each observer and grid; those that choose alike choose at once."""
    pairs = list(asked)
    groups: dict[Hashable, list[int]] = {}
    results: list[Tensor | None] = [None] * len(pairs)
    for index, (one, grid) in enumerate(pairs):
        if isinstance(one, HistogramObserver):
            seen = one.largest
            key = None if seen is None else (one.settings, grid, seen.device)
            groups.setdefault(key, []).append(index)
        else:
            results[index] = one.compute(grid)
    groups.pop(None, None)
    for members in groups.values():
        chosen = _chosen([pairs[index][0] for index in members], pairs[members[0]][1])
        for index, largest in zip(members, chosen, strict=True):
            results[index] = largest
    return results


def _chosen(observers: list[Observer], grid: Grid) -> list[Tensor]:
    """The ranges of observers that have seen data; what is not finite stays so."""
    found = [(one, one.histogram()) for one in observers if isinstance(one, HistogramObserver)]
    known = [(one, made) for one, made in found if made is not None]
    if not known:
        return [one.largest for one in observers if one.largest is not None]
    first = known[0][0]
    counts = torch.cat([made[0] for _, made in known])
    ranges = first.choose(counts, torch.cat([made[1] for _, made in known]), grid)
    parts = iter(ranges.split([len(made[0]) for _, made in known]))
    return [_limited(one, None if made is None else next(parts)) for one, made in found]


def _limited(one: HistogramObserver, chosen: Tensor | None) -> Tensor:
    """The range, but no more than was seen, and what is not finite as it is."""
    largest = one.largest
    assert largest is not None  # noqa: S101 - the callers ask who has seen data
    if chosen is None:
        return largest
    limited = torch.minimum(chosen.to(largest).view_as(largest), largest)
    return torch.where(largest.isfinite().all(), limited, largest)


def _added(batches: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """The sum of histograms, in float64, in bins that reach as high as the highest."""
    if len(batches) == 1:
        return batches[0][0].double(), batches[0][1]
    exponents = torch.stack([exponents for _, exponents in batches])
    highest = exponents.amax(0)
    doublings = (highest - exponents).clamp_(0, _LONGEST)
    counts = torch.stack([counts.double() for counts, _ in batches])
    places = torch.arange(counts.shape[-1], device=counts.device) >> doublings[..., None]
    return torch.zeros_like(counts).scatter_add_(-1, places, counts).sum(0), highest


def _count(rows: Tensor, bins: int, factors: Tensor) -> Tensor:
    """How many magnitudes of each row are in each bin.

    Args:
        rows: Shape (rows, values).
        bins: Number of bins.
        factors: Bins in a unit, shape (rows).
    """
    if len(rows) > 1:
        places = (rows.float() * factors[:, None]).abs_().long().clamp_(0, bins - 1)
        ones = torch.ones(1, dtype=torch.int32, device=rows.device).expand_as(places)
        counts = torch.zeros(len(rows), bins, dtype=torch.int32, device=rows.device)
        return counts.scatter_add_(1, places, ones)
    if rows.device.type != "cpu":
        # integers are counted exactly, and a range that is given is not asked of the device
        places = (rows[0].float() * factors).abs_().int()
        return torch.histc(places, bins, 0, bins)[None]
    small = torch.int16 if bins < 2**15 else torch.int32
    total = torch.zeros(bins + 1, dtype=torch.int64)
    factor = factors[0]
    for piece in rows[0].split(_PIECE):
        total += torch.bincount((piece.float() * factor).abs_().to(small), minlength=bins + 1)
    total[bins - 1] += total[bins]  # what rounding took to the upper end
    return total[None, :bins]
