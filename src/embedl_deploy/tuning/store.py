"""Measurements on disk, so that a search that is stopped goes on where it was."""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from glob import escape
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree


class Store:
    """Measurements by key: a line of JSON each, appended as they are made.

    Args:
        path: The file; it is made where it is not there. None keeps nothing on disk.
        about: What was measured. Lines about something else are left alone.
    """

    def __init__(self, path: Path | None, about: str) -> None:
        self.path, self.about = path, about
        self.known: dict[str, dict[str, Any]] = {}
        text = path.read_text(encoding="utf-8") if path is not None and path.exists() else ""
        self.start = "\n" if text and not text.endswith("\n") else ""
        for line in text.splitlines():
            try:
                found = json.loads(line)
            except ValueError:  # the last line of a run that was killed
                continue
            if isinstance(found, dict) and found.get("about") == about:
                self.known[found["key"]] = found["value"]

    def of(self, key: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The measurement of a key, made where it is not known."""
        if key not in self.known:
            self.known[key] = make()
            if self.path is not None:
                line = json.dumps({"about": self.about, "key": key, "value": self.known[key]})
                with self.path.open("a", encoding="utf-8") as file:
                    file.write(f"{self.start}{line}\n")
                self.start = ""
        return self.known[key]

    @contextmanager
    def draft(self, key: str) -> Iterator[Path]:
        """A place for an ONNX file that is removed after use, and kept where the run is stopped.

        It lies beside the measurements, under a name of the key and of what is measured.
        """
        if self.path is None:
            with TemporaryDirectory() as folder:
                yield Path(folder) / "draft.onnx"
            return
        name = hashlib.sha256(f"{self.about} {key}".encode()).hexdigest()[:16]
        path = self.path.with_name(f"{self.path.stem}.{name}.onnx")
        try:
            yield path
        except Exception:
            _remove(path)
            raise
        _remove(path)


def _remove(path: Path) -> None:
    for one in path.parent.glob(f"{escape(path.name)}*"):  # large weights have a file of their own
        one.unlink()
    for one in path.parent.glob(f".{escape(path.name)}-*"):  # of an export that was killed
        shutil.rmtree(one)


def fingerprint(model: nn.Module, batches: Iterable[Any], *more: object) -> str:
    """A digest of a model's class, tensors and code, of data, and of what else counts as text."""
    said = [getattr(one, "__qualname__", repr(one)) for one in more]
    code = (type(model).__name__, getattr(model, "code", ""), *said)
    digest = hashlib.sha256(repr(code).encode())
    named = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    tensors = [one for one in pytree.tree_leaves(batches) if isinstance(one, Tensor)]
    for name, one in [*named.items(), *((str(index), one) for index, one in enumerate(tensors))]:
        flat = one.detach().cpu().contiguous().view(-1)
        digest.update(f"{name}{tuple(one.shape)}{one.dtype}".encode())
        digest.update(flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b"")
    return digest.hexdigest()[:16]
