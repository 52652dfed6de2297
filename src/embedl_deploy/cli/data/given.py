"""Batches that the user's own code makes are checked one by one as they come."""

import re
from collections.abc import Iterable, Iterator, Sequence, Sized
from operator import length_hint
from pathlib import Path
from typing import Any

from torch import Tensor

from embedl_deploy.cli.building import find_object
from embedl_deploy.cli.data.batches import (
    Batch,
    Batches,
    SizedBatches,
    first_of,
    samples_of,
    tensors_of,
)
from embedl_deploy.errors import LoadError

__all__ = ["check_callable", "from_callable"]


_CALLABLE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")
_FORMS = "a folder of images, an .npz file, or module:callable"


def check_callable(source: str) -> None:
    """Raise unless a source that is neither a folder nor an `.npz` file can be a callable.

    Raises:
        LoadError: It is another file, or nothing at all.
    """
    there = Path(source).exists()
    if there or not _CALLABLE.fullmatch(source):
        fault = "is no kind of data known here" if there else "does not exist"
        raise LoadError(f"'{source}' {fault}: name {_FORMS}")


def from_callable(spec: str, shape: Sequence[int] | None, limit: int | None) -> Batches:
    """What the callable returns is gone through; one that returns a generator is called again.

    Raises:
        LoadError: The callable cannot be found or called, or returns nothing to go through.
    """
    source = _Source(spec)

    def read() -> Iterator[Batch]:
        return _checked(source.batches(), spec, shape, limit)

    count = length_hint(source.found)  # 0 where a DataLoader has a length and does not know it
    if limit is None and count and isinstance(source.found, Sized):
        return SizedBatches(read, count)
    return Batches(read)


class _Source:
    """The iterable that `spec` gives, made anew where it can be gone through only once."""

    def __init__(self, spec: str) -> None:
        self._spec = spec
        self._make = find_object(spec)
        self.found = self._call()
        self._fresh = True

    def batches(self) -> Iterable[object]:
        if isinstance(self.found, Iterator) and not self._fresh:
            self.found = self._call()
        self._fresh = False
        return self.found

    def _call(self) -> Iterable[object]:
        found = self._made()
        if not isinstance(found, Iterable) or isinstance(found, Tensor | str | bytes | dict):
            kind = f"an object of type {type(found).__name__}"
            raise LoadError(f"'{self._spec}' gives {kind}: it must give an iterable of batches")
        return found

    def _made(self) -> Any:
        if not callable(self._make):
            return self._make
        try:
            return self._make()
        except Exception as error:
            said = f"{type(error).__name__}: {error}"
            raise LoadError(f"'{self._spec}' failed when called: {said}") from error


def _checked(
    batches: Iterable[object], spec: str, shape: Sequence[int] | None, limit: int | None
) -> Iterator[Batch]:
    seen = 0
    for index, item in enumerate(batches):
        batch = _batch(item, f"batch {index} of '{spec}'", shape)
        size = samples_of(batch)
        left = size if limit is None else limit - seen
        yield first_of(batch, left) if left < size else batch
        seen += size
        if limit is not None and seen >= limit:
            return
    if not seen:
        raise LoadError(f"'{spec}' gives no samples: it must give at least one batch")


def _batch(item: object, where: str, shape: Sequence[int] | None) -> Batch:
    batch: Any = tuple(item) if isinstance(item, list) else item
    tensors = tensors_of(batch)
    if not tensors or not all(isinstance(tensor, Tensor) for tensor in tensors):
        kinds = ", ".join(type(tensor).__name__ for tensor in tensors) or "nothing"
        raise LoadError(
            f"{where} is {type(item).__name__} of {kinds}: give what the model's forward takes, "
            "a tensor, a tuple of tensors, or a dict of tensors by name"
        )
    if isinstance(batch, Tensor) and shape is not None and batch.shape[1:] != tuple(shape):
        raise LoadError(
            f"{where} has shape {tuple(batch.shape)}, and the model takes (N, "
            f"{', '.join(map(str, shape))})"
        )
    return batch
