"""Observers that clip outliers, for finer steps in the rest of the range."""

from collections.abc import Hashable

import torch
from torch import Tensor

from embedl_deploy.errors import QuantizationError
from embedl_deploy.quantize.observing.histogram import HistogramObserver
from embedl_deploy.quantize.rounding import Grid

_TRIED = 33
"""How many shares of the range are tried, the largest first, and how many around the best."""

_FINENESS, _FLOAT8_FINENESS = 4, 16
"""How many of them in an octave. FP8 numbers repeat in every octave, and differ within."""

_CANDIDATES = 256
"""How many ranges are compared by entropy, up to twice as many."""

_TOGETHER = 2**17
"""How many numbers a search has in hand at once, on a processor: its cache holds them."""

_MUCH = 2**26
"""How many on a GPU."""


class PercentileObserver(HistogramObserver):
    """The magnitude that a given share of all values stays below, exact to one bin.

    Args:
        percentile: Share of the values to represent, in percent.
        bins: Number of bins, even.

    Raises:
        QuantizationError: The percentile is not in (0, 100], or the number of bins is odd.
    """

    def __init__(self, percentile: float = 99.99, bins: int = 4096) -> None:
        if not 0 < percentile <= 100:
            raise QuantizationError(f"a percentile lies in (0, 100], {percentile} does not")
        self.percentile = percentile
        super().__init__(bins)

    @property
    def settings(self) -> Hashable:
        return super().settings, self.percentile

    def choose(self, counts: Tensor, widths: Tensor, grid: Grid) -> Tensor:
        """The edge of the bin in which the share is reached."""
        wanted = counts.sum(1, keepdim=True) * (self.percentile / 100)
        reached = counts.cumsum(1) >= wanted
        return (reached.int().argmax(1) + 1) * widths


class MSEObserver(HistogramObserver):
    """The range with the least mean squared error, of clipping and rounding together.

    Values are taken as evenly spread within a bin, for which the error is known exactly.

    Args:
        bins: Number of bins, even.
    """

    def __init__(self, bins: int = 2048) -> None:
        super().__init__(bins)

    def choose(self, counts: Tensor, widths: Tensor, grid: Grid) -> Tensor:
        """The best of a few ranges over several octaves, then of ranges around it."""
        full = _last_bin(counts) * widths
        fineness = _FLOAT8_FINENESS if grid.float8 else _FINENESS
        octaves = torch.arange(_TRIED, dtype=torch.float64, device=counts.device) / fineness
        best = _best(full[:, None] * 2.0**-octaves, counts, widths, grid)
        nearby = torch.linspace(-1, 1, _TRIED, dtype=torch.float64, device=counts.device) / fineness
        fine = _best(best[:, None] * 2.0**nearby, counts, widths, grid)
        return torch.minimum(fine, full)


class EntropyObserver(HistogramObserver):
    """The range whose clipped distribution loses the least information by rounding.

    The Kullback-Leibler divergence between the two is smallest (Migacz, "8-bit inference with
    TensorRT", 2017).

    Args:
        bins: Number of bins, even.
    """

    def __init__(self, bins: int = 4096) -> None:
        super().__init__(bins)

    def choose(self, counts: Tensor, widths: Tensor, grid: Grid) -> Tensor:
        """The edge of the bin with the least divergence.

        Raises:
            QuantizationError: The numbers are not integers.
        """
        if grid.float8:
            raise QuantizationError("EntropyObserver is for integers; take MSEObserver for FP8")
        levels = grid.highest + 1
        pieces = counts.split(_rows(counts, 2 * _CANDIDATES * levels))
        return torch.cat([_least_divergence(piece, levels) for piece in pieces]) * widths


def _last_bin(counts: Tensor) -> Tensor:
    """How many bins there are up to the last that is not empty."""
    return (counts.flip(1).cumsum(1) > 0).sum(1)


def _rows(counts: Tensor, each: int) -> int:
    """How many rows to work on at once, where each takes so many numbers."""
    return max(1, (_TOGETHER if counts.device.type == "cpu" else _MUCH) // each)


def _best(ranges: Tensor, counts: Tensor, widths: Tensor, grid: Grid) -> Tensor:
    """Of the ranges of each row, shape (rows, ranges), the one with the least error."""
    size = _rows(counts, ranges.shape[1] * counts.shape[1])
    pieces = zip(ranges.split(size), counts.split(size), widths.split(size), strict=True)
    errors = torch.cat([_errors(*piece, grid) for piece in pieces])
    return ranges.gather(1, errors.argmin(1, keepdim=True))[:, 0]


def _errors(ranges: Tensor, counts: Tensor, widths: Tensor, grid: Grid) -> Tensor:
    """The sums of squared errors of rows that are quantized to ranges, shape (rows, ranges)."""
    counts = counts[:, : int(_last_bin(counts).max())]
    steps = ranges / grid.highest
    width = widths[:, None] / steps
    bins = counts.shape[1]
    places = torch.arange(bins + 1, dtype=torch.float64, device=counts.device)
    if grid.float8:
        middles = (places[:-1] + 0.5) * width[..., None]
        errors = (middles - grid.round(middles.clamp(max=grid.highest).float())).square_()
        return (errors @ counts[..., None])[..., 0] * steps.square()
    # counts times differences of the integral is the integral times differences of the counts
    integral = _integral(places * width[..., None], grid.highest)
    ends = counts.new_zeros(len(counts), 1)
    falls = torch.cat((ends, counts, ends), 1).diff(dim=1).neg_()
    return (integral @ falls[..., None])[..., 0] / (12 * width) * steps.square()


def _integral(steps: Tensor, highest: int) -> Tensor:
    """12 times the integral from 0 of the squared error of rounding to integers up to the highest.

    12·∫ = n + 4·(x - n)³ for the integer n nearest to x.
    """
    nearest = steps.round().clamp_(max=highest)
    apart = steps.sub_(nearest)
    return nearest.add_(apart.mul_(apart * apart), alpha=4)


def _least_divergence(counts: Tensor, levels: int) -> Tensor:
    """How many bins of each row to keep.

    Zeros are exact in every range, and would outweigh all else; the bin next to them counts twice.
    """
    used = _last_bin(counts)[:, None]
    counts = torch.cat((counts[:, 1:2], counts[:, 1:]), 1)
    stride = ((used - levels) // _CANDIDATES).clamp_(min=1)
    most = int(((used - levels) // stride).max().clamp(min=0)) + 1
    kept = used - stride * torch.arange(most, device=counts.device)
    possible = kept >= levels
    found = _divergences(counts, kept.clamp(min=1), levels)
    least = torch.where(possible, found, torch.inf).argmin(1, keepdim=True)
    return torch.where(used <= levels, used, kept.gather(1, least))[:, 0]


def _divergences(counts: Tensor, kept: Tensor, levels: int) -> Tensor:
    """For each number of bins kept of each row: Σ p·log(p/q).

    In p, what is clipped counts in the last bin kept. In q, each level has the bins' counts
    spread evenly over those that are not empty. So log q is one number for a level, and all
    sums are differences of running sums.
    """
    shares = torch.arange(levels + 1, dtype=torch.float64, device=counts.device) / levels
    edges = (shares * kept[..., None]).ceil_().long()  # exact: 2^k levels
    sums, filled = _between(counts, edges), _between((counts > 0).double(), edges)
    total, inside = counts.sum(1, keepdim=True), sums.sum(2)
    clipped, last = total - inside, counts.gather(1, kept - 1)
    own = _running(torch.xlogy(counts, counts)).gather(1, kept - 1)
    own = own + torch.xlogy(last + clipped, last + clipped)
    means = sums / filled.clamp_(min=1)
    sums[..., -1] += clipped
    cross = torch.xlogy(sums, means).sum(2)
    result = (own - cross) / total - total.log() + inside.log()
    return torch.where((clipped > 0) & (last == 0), torch.inf, result)


def _between(values: Tensor, edges: Tensor) -> Tensor:
    """The sums of the values of each row between neighbouring edges."""
    return _running(values).gather(1, edges.flatten(1)).view(edges.shape).diff(dim=2)


def _running(values: Tensor) -> Tensor:
    """Sums of the first 0, 1, 2, … values of each row."""
    return torch.cat((values.new_zeros(len(values), 1), values.cumsum(1)), 1)
