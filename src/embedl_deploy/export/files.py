"""Writing files so that a failure leaves nothing half-written and the old file whole."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from embedl_deploy.errors import ExportError


def _target(path: Path) -> Path:
    if path.is_dir():
        raise ExportError(f"'{path}' is a folder; give the name of a file")
    if path.is_symlink():
        path = path.resolve()
    if path.exists() and not path.is_file():
        raise ExportError(f"'{path}' is no regular file, and is left as it is; give another name")
    return path


@contextmanager
def written_beside(path: Path) -> Iterator[Path]:
    """A path in a fresh folder beside `path`; what is written there is moved when all went well.

    A symbolic link stays one, and the file that it names is written.

    Raises:
        ExportError: The folder does not exist, or cannot be written to; or the path is there and
            no regular file.
    """
    path = _target(path)
    try:
        folder = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    except OSError as error:
        raise ExportError(
            f"cannot write to the folder '{path.parent}': {error.strerror}"
        ) from error
    try:
        yield folder / path.name
        for file in sorted(folder.iterdir()):
            os.replace(file, path.parent / file.name)  # noqa: PTH105 - replaces on every system
    except OSError as error:
        raise ExportError(f"cannot write '{path}': {error.strerror or error}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
