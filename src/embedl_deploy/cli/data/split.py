"""Samples that calibrate, and others that are held out to judge the result."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from embedl_deploy.cli.data.arrays import from_npz, samples_in
from embedl_deploy.cli.data.batches import Batch, Batches, first_of, samples_of
from embedl_deploy.cli.data.given import check_callable, from_callable
from embedl_deploy.cli.data.images import Normalization, from_paths, image_paths
from embedl_deploy.cli.data.labels import FOLDERS, class_folders, read_labels
from embedl_deploy.errors import LoadError

_EVERY = 8
"""One sample in so many is held out, where there are enough."""

_ENOUGH = 16
"""Of fewer samples all calibrate, and the same ones judge."""

Pair = tuple[Batch, Tensor | None]


class Held(Iterable[Pair]):
    """Batches with the classes of their samples, where these are known."""

    def __init__(self, batches: Batches, labels: Tensor | None, inputs: int) -> None:
        self.batches, self.labels, self.inputs = batches, labels, inputs

    def __iter__(self) -> Iterator[Pair]:
        start = 0
        for batch in self.batches:
            own, labels = _apart(batch, self.inputs)
            if self.labels is not None:
                labels = self.labels[start : start + samples_of(own)]
                start += samples_of(own)
            yield own, labels


@dataclass(frozen=True)
class Split:
    """What calibrates and what judges.

    Attributes:
        calibration: Batches.
        held_out: Batches, with labels.
        seen: Whether these calibrated as well, since there are too few to hold some out.
        labels: Where labels come from, in words; empty where there are none, or each batch may
            have its own.
    """

    calibration: Batches
    held_out: Held
    seen: bool
    labels: str


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How samples are read.

    Attributes:
        shape: Of one input, where it is known.
        batch_size: Samples in a batch.
        limit: Samples that calibrate, at most.
        held: Samples that are held out, at most.
        normalization: Of images.
        labels: A file, the name of an array, `folders`, or nothing.
        inputs: How many inputs the model needs.
        classes: How many classes the model tells apart; 0 where it does not.
    """

    shape: Sequence[int] | None
    batch_size: int
    limit: int
    held: int
    normalization: Normalization | None
    labels: str
    inputs: int
    classes: int


def split_data(source: str, how: Reading) -> Split:
    """The samples that `source` names, as `load_data` reads it, in two parts.

    Raises:
        LoadError: It cannot be loaded, or the labels do not fit it.
    """
    path = Path(source)
    if path.is_dir():
        return _of_folder(path, how)
    if path.suffix == ".npz":
        return _of_arrays(path, how)
    check_callable(source)
    if how.labels:
        raise LoadError(
            f"--labels is for folders and .npz files; batches of '{source}' bring their own: give "
            "(inputs, labels) with a label for each sample"
        )
    return _of_callable(source, how)


def rows_of(count: int, limit: int, held: int) -> tuple[list[int], list[int], bool]:
    """Which samples calibrate, which judge, and whether these are the same."""
    if count < _ENOUGH or not held:
        rows = _spread(list(range(count)), limit)
        return rows, rows, True
    apart = min(held, max(count // _EVERY, count - limit))
    judging = _spread(list(range(count)), apart)
    others = sorted(set(range(count)) - set(judging))
    return _spread(others, limit), judging, False


def _spread(rows: list[int], count: int) -> list[int]:
    """So many of them at most, evenly spaced."""
    if count >= len(rows):
        return rows
    return [rows[index * len(rows) // count] for index in range(count)]


def _of_folder(folder: Path, how: Reading) -> Split:
    paths = image_paths(folder, None)
    calibrating, judging, seen = rows_of(len(paths), how.limit, how.held)
    classes = class_folders(folder, paths)
    labels, said = None, ""
    if how.labels == FOLDERS or (not how.labels and classes and len(classes[0]) == how.classes):
        if not classes:
            raise LoadError(f"'{folder}' has no folder for each class, with images in it alone")
        labels, said = classes[1], f"the {len(classes[0])} folders of {folder}, by name"
    elif how.labels:
        labels, said = read_labels(Path(how.labels), len(paths)), how.labels
    parts = [
        from_paths([paths[row] for row in rows], how.shape, how.batch_size, how.normalization)
        for rows in (calibrating, judging)
    ]
    held = Held(parts[1], None if labels is None else labels[judging], how.inputs)
    return Split(parts[0], held, seen, said)


def _of_arrays(path: Path, how: Reading) -> Split:
    count, names = samples_in(path)
    calibrating, judging, seen = rows_of(count, how.limit, how.held)
    labels, said, without = None, "", ""
    if how.labels in names:
        without, said = how.labels, f"'{how.labels}' in {path}"
        labels = read_labels(path, count, array=how.labels)
    elif how.labels:
        labels, said = read_labels(Path(how.labels), count), how.labels
    parts = [
        from_npz(path, how.shape, how.batch_size, None, rows=rows, without=without)
        for rows in (calibrating, judging)
    ]
    held = Held(parts[1], None if labels is None else labels[judging], how.inputs)
    return Split(parts[0], held, seen, said)


def _of_callable(spec: str, how: Reading) -> Split:
    """One batch in eight is held out, where there are as many."""
    everything = from_callable(spec, how.shape, None)
    seen = next(islice(iter(everything), _EVERY - 1, None), None) is None or not how.held
    if seen:
        judging = _limited(everything, how.held or how.limit)
        held = Held(judging, None, how.inputs)
        return Split(from_callable(spec, how.shape, how.limit), held, True, "")
    others = Batches(lambda: _every(everything, held=False))
    judging = _limited(Batches(lambda: _every(everything, held=True)), how.held)
    held = Held(judging, None, how.inputs)
    return Split(_limited(others, how.limit), held, False, "")


def _every(batches: Batches, *, held: bool) -> Iterator[Batch]:
    for index, batch in enumerate(batches):
        if (index % _EVERY == _EVERY - 1) is held:
            yield batch


def _limited(batches: Batches, samples: int) -> Batches:
    """Until there are so many samples; the last batch is cut."""

    def read() -> Iterator[Batch]:
        left = samples
        for batch in batches:
            yield first_of(batch, left)
            left -= samples_of(batch)
            if left <= 0:
                return

    return Batches(read)


def _apart(batch: Batch, inputs: int) -> tuple[Batch, Tensor | None]:
    """What the model takes, and the labels that a batch brings."""
    if isinstance(batch, dict) and "labels" in batch and _is_labels(batch["labels"], batch):
        return {name: one for name, one in batch.items() if name != "labels"}, batch["labels"]
    if isinstance(batch, tuple) and len(batch) > inputs and _is_labels(batch[-1], batch):
        return batch[:-1], batch[-1]
    return batch, None


def _is_labels(one: Tensor, batch: Any) -> bool:
    return one.dim() == 1 and one.dtype == torch.int64 and len(one) == samples_of(batch)
