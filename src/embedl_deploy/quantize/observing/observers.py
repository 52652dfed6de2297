"""Observers: they collect what passes a tensor and say which range to quantize.

They keep no activations, so memory does not grow with the data.
"""

from abc import ABC, abstractmethod
from typing import Any, Self

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from embedl_deploy.errors import QuantizationError
from embedl_deploy.quantize.rounding import Grid


class Observer(ABC):
    """Collects statistics of a tensor over batches.

    Attributes:
        axis: The dimension that has a range for each of its indices; `None` for one range. Set
            before the first batch.
        lowest: The smallest value seen, if the observer keeps it; so `largest`, the
            largest magnitude. From these, calibration knows of negative values and of values
            that are not finite.
    """

    axis: int | None = None
    lowest: Tensor | None = None
    largest: Tensor | None = None

    def __init__(self) -> None:
        self.reset()

    @abstractmethod
    def collect(self, tensor: Tensor) -> None:
        """Add one batch, of any shape but not empty."""

    @abstractmethod
    def compute(self, grid: Grid | None = None) -> Tensor | None:
        """The largest magnitude to represent; `None` before any data.

        A scalar, or one for each index of `axis`.

        Args:
            grid: The numbers there are, for observers that weigh clipping against rounding; by
                default those of INT8. (torch.compile of torch 2.11 takes no grid as a default.)
        """

    @abstractmethod
    def reset(self) -> None:
        """Forget everything."""

    def merge(self, other: Self) -> None:
        """Take in what another observer of the same kind has seen, in another process.

        Raises:
            QuantizationError: This kind of observer cannot.
        """
        raise QuantizationError(
            f"{type(self).__name__} has no merge(), which calibration in several processes needs"
        )

    def __getstate__(self) -> dict[str, Any]:
        """What another process gets: the same, off the device."""
        state: dict[str, Any] = pytree.tree_map_only(Tensor, Tensor.cpu, self.__dict__)
        return state

    def _see(self, tensor: Tensor) -> Tensor:
        """Keep the range of a batch; returns its largest magnitude."""
        rows = rows_of(tensor, self.axis)
        low, high = torch.aminmax(rows) if self.axis is None else torch.aminmax(rows, dim=1)
        largest = torch.maximum(-low, high).float()
        self._keep(low.float(), largest)
        return largest

    def _keep(self, low: Tensor, largest: Tensor) -> None:
        self.lowest = low if self.lowest is None else torch.minimum(self.lowest, low)
        self.largest = largest if self.largest is None else torch.maximum(self.largest, largest)

    def _keep_of(self, other: Self) -> None:
        if other.lowest is not None and other.largest is not None:
            self._keep(other.lowest, other.largest)


class MinMaxObserver(Observer):
    """The largest magnitude seen."""

    def collect(self, tensor: Tensor) -> None:
        self._see(tensor)

    def compute(self, grid: Grid | None = None) -> Tensor | None:
        return self.largest

    def reset(self) -> None:
        self.lowest = self.largest = None

    def merge(self, other: Self) -> None:
        self._keep_of(other)


class FixedObserver(Observer):
    """A range that is known beforehand, such as 1 for probabilities.

    Args:
        bound: The largest magnitude.

    Raises:
        QuantizationError: It is not above zero.
    """

    def __init__(self, bound: float) -> None:
        if not bound > 0:
            raise QuantizationError(f"the bound of a range is above 0, {bound} is not")
        self.bound = bound
        super().__init__()

    def collect(self, tensor: Tensor) -> None:
        self._see(tensor)

    def compute(self, grid: Grid | None = None) -> Tensor | None:
        return None if self.largest is None else torch.full_like(self.largest, self.bound)

    def reset(self) -> None:
        self.lowest = self.largest = None

    def merge(self, other: Self) -> None:
        self._keep_of(other)


class MovingAverageObserver(Observer):
    """A moving average of the batches' largest magnitudes: rare outliers count little.

    It depends on the order of the batches. Over processes, averages are weighted by batches.

    Args:
        momentum: Weight of each new batch.

    Raises:
        QuantizationError: The momentum is not in (0, 1].
    """

    _average: Tensor | None
    _batches: int

    def __init__(self, momentum: float = 0.1) -> None:
        if not 0 < momentum <= 1:
            raise QuantizationError(f"a momentum lies in (0, 1], {momentum} does not")
        self.momentum = momentum
        super().__init__()

    def collect(self, tensor: Tensor) -> None:
        largest = self._see(tensor)
        before = largest if self._average is None else self._average
        self._average = before + self.momentum * (largest - before)
        self._batches += 1

    def compute(self, grid: Grid | None = None) -> Tensor | None:
        return self._average

    def reset(self) -> None:
        self.lowest = self.largest = self._average = None
        self._batches = 0

    def merge(self, other: Self) -> None:
        self._keep_of(other)
        if other._average is None:
            return
        self._batches += other._batches
        own = other._average if self._average is None else self._average
        self._average = own + (other._average - own) * (other._batches / self._batches)


def rows_of(tensor: Tensor, axis: int | None) -> Tensor:
    """The values as rows: one for each index of `axis`, or a single one."""
    tensor = tensor.detach()
    return tensor.reshape(1, -1) if axis is None else tensor.movedim(axis, 0).flatten(1)
