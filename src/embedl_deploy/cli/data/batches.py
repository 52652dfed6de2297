"""What calibration data is: batches that can be gone through again and again."""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, TypeAlias

from torch import Tensor

__all__ = [
    "Batch",
    "Batches",
    "SizedBatches",
    "first_batches",
    "first_of",
    "samples_of",
    "spans",
    "tensors_of",
]

Batch: TypeAlias = Tensor | tuple[Tensor, ...] | dict[str, Tensor]
"""What a model's forward takes: a tensor, several in order, or several by name."""


class Batches(Iterable[Batch]):
    """Batches that are read anew, one at a time, each time they are gone through."""

    def __init__(self, read: Callable[[], Iterator[Batch]]) -> None:
        self._read = read

    def __iter__(self) -> Iterator[Batch]:
        return self._read()


class SizedBatches(Batches):
    """Batches whose number is known beforehand."""

    def __init__(self, read: Callable[[], Iterator[Batch]], count: int) -> None:
        super().__init__(read)
        self._count = count

    def __len__(self) -> int:
        return self._count


def first_batches(data: Batches, count: int) -> SizedBatches:
    """At most so many batches of data."""
    return SizedBatches(lambda: islice(iter(data), count), count)


def spans(count: int, size: int) -> list[tuple[int, int]]:
    """The start and end of each batch of `size` samples, the last one possibly shorter."""
    return [(start, min(start + size, count)) for start in range(0, count, size)]


def tensors_of(batch: Any) -> tuple[Any, ...]:
    """The tensors of a batch."""
    if isinstance(batch, dict):
        return tuple(batch.values())
    return batch if isinstance(batch, tuple) else (batch,)


def samples_of(batch: Batch) -> int:
    """How many samples a batch has."""
    first = tensors_of(batch)[0]
    return len(first) if first.dim() else 1


def first_of(batch: Batch, count: int) -> Batch:
    """The first samples of a batch."""
    if isinstance(batch, Tensor):
        return batch[:count]
    if isinstance(batch, dict):
        return {name: tensor[:count] for name, tensor in batch.items()}
    return tuple(tensor[:count] for tensor in batch)
