"""Observers that clip outliers, for finer steps in the rest of the range."""

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
"""How many ranges are compared by entropy."""


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
        octaves = torch.arange(_TRIED, dtype=torch.float64) / fineness
        best = _best(full[:, None] * 2.0**-octaves, counts, widths, grid)
        nearby = torch.linspace(-1, 1, _TRIED, dtype=torch.float64) / fineness
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
        chosen = [_least_divergence(row, grid.highest + 1) for row in counts]
        return torch.tensor(chosen, dtype=torch.float64) * widths


def _last_bin(counts: Tensor) -> Tensor:
    """How many bins there are up to the last that is not empty."""
    return (counts.flip(1).cumsum(1) > 0).sum(1)


def _best(ranges: Tensor, counts: Tensor, widths: Tensor, grid: Grid) -> Tensor:
    """Of the ranges of each row, shape (rows, ranges), the one with the least error."""
    errors = [_error(one, counts, widths, grid) for one in ranges.unbind(1)]
    index = torch.stack(errors, 1).argmin(1, keepdim=True)
    return ranges.gather(1, index)[:, 0]


def _error(largest: Tensor, counts: Tensor, widths: Tensor, grid: Grid) -> Tensor:
    """The sum of squared errors of each row where it is quantized to a range."""
    step = largest / grid.highest
    width = (widths / step)[:, None]
    edges = torch.arange(counts.shape[1] + 1, dtype=torch.float64) * width
    if grid.float8:
        middles = edges[:, :-1] + width / 2
        errors = (middles - grid.round(middles.clamp(max=grid.highest).float())).square()
    else:
        errors = _integral(edges, grid.highest).diff(dim=1) / width
    return (counts * errors).sum(1) * step.square()


def _integral(steps: Tensor, highest: int) -> Tensor:
    """The integral from 0 of the squared error of rounding to integers up to the highest."""
    nearest = steps.round().clamp(max=highest)
    return nearest / 12 + (steps - nearest).pow(3) / 3


def _least_divergence(counts: Tensor, levels: int) -> int:
    """How many bins to keep."""
    used = int(_last_bin(counts[None]))
    if used <= levels:
        return used
    counts = counts[:used].clone()
    counts[0] = counts[1]  # zeros are exact in every range, and would outweigh all else
    stride = max(1, (used - levels) // _CANDIDATES)
    kept = torch.arange(used, levels - 1, -stride)
    return int(kept[_divergences(counts, kept, levels).argmin()])


def _divergences(counts: Tensor, kept: Tensor, levels: int) -> Tensor:
    """For each number of bins kept: Σ p·log(p/q).

    In p, what is clipped counts in the last bin kept. In q, each level has the bins' counts
    spread evenly over those that are not empty. So log q is one number for a level, and all
    sums are differences of running sums.
    """
    edges = -(-torch.arange(levels + 1) * kept[:, None] // levels)
    sums, filled = _between(counts, edges), _between((counts > 0).double(), edges)
    total, inside = counts.sum(), sums.sum(1)
    clipped, last = total - inside, counts[kept - 1]
    own = _running(torch.xlogy(counts, counts))[kept - 1] + torch.xlogy(
        last + clipped, last + clipped
    )
    shares = torch.cat((sums[:, :-1], sums[:, -1:] + clipped[:, None]), 1)
    cross = torch.xlogy(shares, sums / filled.clamp(min=1)).sum(1)
    result = (own - cross) / total - total.log() + inside.log()
    return torch.where((clipped > 0) & (last == 0), torch.inf, result)


def _between(values: Tensor, edges: Tensor) -> Tensor:
    """The sums of values between neighbouring edges."""
    return _running(values)[edges].diff(dim=1)


def _running(values: Tensor) -> Tensor:
    """Sums of the first 0, 1, 2, … values."""
    return torch.cat((values.new_zeros(1), values.cumsum(0)))
