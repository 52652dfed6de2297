"""Finished layers in a folder, one file a layer, so that an interrupted run goes on."""

import ctypes
import hashlib
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from embedl_deploy.errors import QuantizationError


class Checkpoint:
    """The finished layers of one run.

    Args:
        folder: Where they are; made where it is missing.
        identity: What a run has to share with the one that wrote them; see `identity_of`.

    Raises:
        QuantizationError: The folder is a file.
    """

    def __init__(self, folder: str | os.PathLike[str], identity: str) -> None:
        self.folder, self.identity = Path(folder), identity
        if self.folder.exists() and not self.folder.is_dir():
            raise QuantizationError(f"checkpoint='{folder}' is a file; it takes a folder")
        self.folder.mkdir(parents=True, exist_ok=True)

    def load(self, index: int) -> dict[str, Any] | None:
        """What `save` was given for a layer; `None` where it is not finished.

        Raises:
            QuantizationError: The file is of another run, or cannot be read.
        """
        path = self._path(index)
        if not path.exists():
            return None
        try:
            stored = torch.load(path, weights_only=True)
            identity, values = stored["identity"], stored["values"]
        except Exception as error:  # torch raises what it likes for a file that is none
            raise QuantizationError(f"'{path}' cannot be read; delete it: {error}") from error
        if identity != self.identity:
            raise QuantizationError(
                f"'{path}' is of another model, other data or other settings; take another folder, "
                "or delete this one"
            )
        found: dict[str, Any] = values
        return found

    def save(self, index: int, values: dict[str, Any]) -> None:
        """Keep tensors and plain values of a finished layer."""
        handle, temporary = tempfile.mkstemp(dir=self.folder, suffix=".tmp")
        os.close(handle)
        try:
            torch.save({"identity": self.identity, "values": values}, temporary)
            Path(temporary).replace(self._path(index))
        except BaseException:
            Path(temporary).unlink()
            raise

    def _path(self, index: int) -> Path:
        return self.folder / f"layer-{index:04d}.pt"


def identity_of(*parts: Any) -> str:
    """A hash of trees of tensors and plain values."""
    hashed = hashlib.sha256()
    for leaf in _leaves(parts):
        if isinstance(leaf, Tensor):
            tensor = leaf.detach().cpu().contiguous()
            hashed.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
            hashed.update(ctypes.string_at(tensor.data_ptr(), tensor.nbytes))
        else:
            hashed.update(repr(leaf).encode())
    return hashed.hexdigest()


def _leaves(parts: Any) -> Iterable[Any]:
    leaves, form = pytree.tree_flatten(parts)
    return [str(form), *leaves]
