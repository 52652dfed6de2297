"""The classes of samples."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from embedl_deploy.errors import LoadError, MissingExtraError

FOLDERS = "folders"
"""Says that the folders of images are their classes."""


def class_folders(folder: Path, paths: Sequence[Path]) -> tuple[list[str], Tensor] | None:
    """The classes by name and the label of each image, where each class is a folder of its own.

    They are numbered in the order of their names, as in the ImageNet layout.
    """
    parts = [path.relative_to(folder).parts for path in paths]
    if any(len(one) != 2 for one in parts):
        return None
    names = sorted({one[0] for one in parts})
    if len(names) < 2:
        return None
    number = {name: index for index, name in enumerate(names)}
    return names, torch.tensor([number[one[0]] for one in parts])


def read_labels(path: Path, count: int, *, array: str = "") -> Tensor:
    """A label for each sample, in their order: of a .npy file, an array of an .npz, or lines.

    Raises:
        LoadError: It cannot be read, or does not have a number for each sample.
    """
    if not path.is_file():
        raise LoadError(f"there is no file of labels '{path}'; write folders for those of images")
    try:
        import numpy as np
    except ModuleNotFoundError:
        raise MissingExtraError("numpy", "cli", "reading labels") from None
    try:
        if array:
            found = np.load(path, allow_pickle=False)[array]
        elif path.suffix == ".npy":
            found = np.load(path, allow_pickle=False)
        else:
            found = np.array([int(one) for one in path.read_text().split()], np.int64)
    except (ValueError, OSError, KeyError) as error:
        raise LoadError(f"the labels in '{path}' cannot be read: {error}") from None
    if found.dtype.kind not in "iu" or found.shape != (count,):
        raise LoadError(
            f"the labels in '{path}' are {found.dtype} of shape {found.shape}: a whole number for "
            f"each of the {count} samples is needed"
        )
    return torch.from_numpy(found.astype(np.int64))
