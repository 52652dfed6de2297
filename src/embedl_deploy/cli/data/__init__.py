"""Calibration data is read batch by batch, as often as it is asked for, and never held whole."""

import os
from collections.abc import Sequence
from pathlib import Path

from embedl_deploy.cli.data.arrays import from_npz
from embedl_deploy.cli.data.batches import Batch, Batches, SizedBatches, first_batches, samples_of
from embedl_deploy.cli.data.given import check_callable, from_callable
from embedl_deploy.cli.data.images import IMAGENET, Normalization, from_folder, normalization_of
from embedl_deploy.cli.data.split import Held, Reading, Split, split_data
from embedl_deploy.errors import LoadError

__all__ = [
    "IMAGENET",
    "Batch",
    "Batches",
    "Held",
    "Normalization",
    "Reading",
    "SizedBatches",
    "Split",
    "first_batches",
    "load_data",
    "normalization_of",
    "samples_of",
    "split_data",
]


def load_data(
    source: str | os.PathLike[str],
    *,
    shape: Sequence[int] | None = None,
    batch_size: int = 32,
    limit: int | None = None,
    normalization: Normalization | None = IMAGENET,
) -> Batches:
    """The data that `source` names can be gone through in batches, any number of times.

    Args:
        source: A folder of images, searched recursively in sorted order; an `.npz` file, where one
            array is the input and several are inputs by name; or `module:callable`, imported from
            the current directory too, which returns an iterable of batches (or is one).
        shape: The shape of one input without the batch, `(channels, height, width)` for images.
        batch_size: Samples in a batch; `module:callable` decides on its own.
        limit: At most so many samples; from a folder evenly spaced over its order, so that a
            folder sorted by class gives all classes.
        normalization: For images; None leaves pixels in 0..1.

    Returns:
        Batches, as `SizedBatches` where their number is known.

    Raises:
        LoadError: The source is not there, is empty, or does not fit. What only shows on reading,
            like a damaged image, is raised while going through the batches.
        MissingExtraError: Pillow or NumPy is needed and not installed.
    """
    _check_positive(batch_size=batch_size, limit=limit)
    path = Path(source)
    if path.is_dir():
        return from_folder(path, shape, batch_size, limit, normalization)
    if path.suffix == ".npz":
        return from_npz(path, shape, batch_size, limit)
    check_callable(str(source))
    return from_callable(str(source), shape, limit)


def _check_positive(**values: int | None) -> None:
    for name, value in values.items():
        if value is not None and value < 1:
            raise LoadError(f"{name} must be at least 1, and is {value}")
