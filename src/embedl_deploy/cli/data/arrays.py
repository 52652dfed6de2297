"""An `.npz` file becomes batches, read row by row: no array is ever held whole."""

import math
import os
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

import torch
from torch import Tensor

from embedl_deploy.cli.data.batches import Batch, SizedBatches, spans
from embedl_deploy.errors import LoadError, MissingExtraError

if TYPE_CHECKING:
    import numpy as np

__all__ = ["from_npz"]

_SUFFIX = ".npy"
_TORCH_NAMES = {"f": "float32", "i": "int64", "b": "bool"}


@dataclass(frozen=True)
class _Array:
    """An array in an `.npz` file, as its header says."""

    name: str
    shape: tuple[int, ...]
    dtype: "np.dtype[np.generic]"
    fortran_order: bool

    def read(self, stream: IO[bytes], rows: Sequence[int], at: int) -> Tensor:
        """Some rows of a stream that stands at one; floats become float32, integers int64."""
        import numpy as np

        size = math.prod(self.shape[1:]) * self.dtype.itemsize
        found = []
        for row in rows:
            stream.seek((row - at) * size, os.SEEK_CUR)
            found.append(stream.read(size))
            at = row + 1
        array = np.frombuffer(b"".join(found), self.dtype).reshape(len(rows), *self.shape[1:])
        return torch.from_numpy(array.astype(_TORCH_NAMES[self.dtype.kind]))


def from_npz(
    path: Path,
    shape: Sequence[int] | None,
    batch_size: int,
    limit: int | None,
    *,
    rows: Sequence[int] | None = None,
    without: str = "",
) -> SizedBatches:
    """One array is the input of the model; several are its inputs by name.

    Args:
        path: Of the file.
        shape: Of one sample, where it is known.
        batch_size: Samples in a batch.
        limit: Samples at most, the first.
        rows: Samples to take, in rising order.
        without: Name of an array that is no input.

    Raises:
        LoadError: The file is damaged, or its arrays cannot be inputs, do not go together, or
            do not have the expected shape.
    """
    arrays = [one for one in _headers(path) if one.name != without]
    for array in arrays:
        _check_usable(array, path)
    _check_together(arrays, shape, path)
    taken = range(arrays[0].shape[0])[:limit] if rows is None else rows
    cuts = [taken[start:end] for start, end in spans(len(taken), batch_size)]
    return SizedBatches(lambda: _read(path, arrays, cuts), len(cuts))


def samples_in(path: Path) -> tuple[int, list[str]]:
    """How many samples an `.npz` file has, and the names of its arrays.

    Raises:
        LoadError: It cannot be read.
    """
    arrays = _headers(path)
    return arrays[0].shape[0] if arrays[0].shape else 0, [one.name for one in arrays]


def _headers(path: Path) -> list[_Array]:
    if not path.is_file():
        raise LoadError(f"there is no data file '{path}'")
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith(_SUFFIX)]
            arrays = [_header(archive, name) for name in names]
    except (zipfile.BadZipFile, zlib.error, ValueError, OSError) as error:
        raise LoadError(f"'{path}' cannot be read: {error}; write it with numpy.savez") from None
    if not arrays:
        raise LoadError(f"'{path}' has no arrays: write it with numpy.savez")
    return arrays


def _header(archive: zipfile.ZipFile, name: str) -> _Array:
    with archive.open(name) as stream:
        shape, fortran_order, dtype = _read_header(stream)
    return _Array(name.removesuffix(_SUFFIX), shape, dtype, fortran_order)


def _read_header(stream: IO[bytes]) -> "tuple[tuple[int, ...], bool, np.dtype[np.generic]]":
    """The header is read, and the stream stands at the first row."""
    try:
        from numpy.lib import format as npy
    except ModuleNotFoundError:
        raise MissingExtraError("numpy", "cli", "reading an .npz file") from None
    version = npy.read_magic(stream)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, fortran_order, dtype = read(stream)
    return shape, fortran_order, dtype


def _check_usable(array: _Array, path: Path) -> None:
    where = f"the array '{array.name}' in '{path}'"
    if array.dtype.hasobject:
        raise LoadError(f"{where} holds Python objects, which are never loaded: save numbers")
    if array.dtype.kind not in _TORCH_NAMES:
        raise LoadError(
            f"{where} is of {array.dtype}: save what the model takes, float32 for images "
            "(normalised as in training) or int64 for ids"
        )
    if not array.shape or 0 in array.shape:
        raise LoadError(f"{where} has shape {array.shape}: the first dimension counts samples")
    if array.fortran_order:
        raise LoadError(f"{where} is in Fortran order: save numpy.ascontiguousarray(array)")


def _check_together(arrays: list[_Array], shape: Sequence[int] | None, path: Path) -> None:
    lengths = {array.name: array.shape[0] for array in arrays}
    if len(set(lengths.values())) > 1:
        raise LoadError(f"the arrays in '{path}' have different numbers of samples: {lengths}")
    if shape is None or len(arrays) > 1:
        return
    found = arrays[0].shape[1:]
    if found != tuple(shape):
        raise LoadError(
            f"the array '{arrays[0].name}' in '{path}' holds samples of shape {found}, "
            f"and the model takes {tuple(shape)}"
        )


def _read(path: Path, arrays: list[_Array], cuts: Sequence[Sequence[int]]) -> Iterator[Batch]:
    try:
        with ExitStack() as stack:
            archive = stack.enter_context(zipfile.ZipFile(path))
            streams = [stack.enter_context(_data(archive, array)) for array in arrays]
            at = 0
            for rows in cuts:
                yield _batch(arrays, streams, rows, at)
                at = rows[-1] + 1
    except (zipfile.BadZipFile, zlib.error, ValueError, OSError) as error:
        raise LoadError(f"'{path}' cannot be read to its end: {error}; is it whole?") from None


def _data(archive: zipfile.ZipFile, array: _Array) -> IO[bytes]:
    stream = archive.open(array.name + _SUFFIX)
    _read_header(stream)
    return stream


def _batch(arrays: list[_Array], streams: list[IO[bytes]], rows: Sequence[int], at: int) -> Batch:
    """The samples of some rows, from streams that stand at a row before them."""
    tensors = {
        array.name: array.read(stream, rows, at)
        for array, stream in zip(arrays, streams, strict=True)
    }
    return tensors if len(tensors) > 1 else tensors[arrays[0].name]
