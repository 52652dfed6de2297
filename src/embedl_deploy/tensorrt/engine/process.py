"""Runs a compiler in a process of its own, which it may take down, and reads what it said."""

import json
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from embedl_deploy.tensorrt.engine import worker


@dataclass
class Events:
    """What happened in a run.

    Attributes:
        version: Of the compiler; empty where it did not load.
        parsing: The operator that was read last; empty after all were.
        refused: What the parser said, and the names of the operators.
        said: How bad it is, and a message.
        layers: The text that has them.
        done: Whether there is an engine.
        failure: How the process ended, where it did not end by itself.
    """

    version: str = ""
    parsing: str = ""
    refused: list[tuple[str, str]] = field(default_factory=list)
    said: list[tuple[str, str]] = field(default_factory=list)
    layers: str = ""
    done: bool = False
    failure: str = ""

    def take(self, kind: str, *values: Any) -> None:
        """Note an event of the worker."""
        if kind in {"refused", "said"}:
            getattr(self, kind).append(tuple(values))
        else:
            setattr(self, kind, values[0])


def run(job: Mapping[str, Any], timeout: float) -> Events:
    """Do a job of the worker.

    Args:
        job: As `worker.work` takes it, and `module`.
        timeout: Seconds.
    """
    with TemporaryDirectory() as name:
        return _run(job, Path(name), timeout)


def _run(job: Mapping[str, Any], folder: Path, timeout: float) -> Events:
    (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
    command = [sys.executable, "-P", str(Path(worker.__file__)), str(folder)]
    said = folder / "said"
    try:
        with said.open("wb") as file:
            code = subprocess.run(  # noqa: S603 - this interpreter, and a file of this library
                command, stdout=file, stderr=file, timeout=timeout, check=False
            ).returncode
    except subprocess.TimeoutExpired:
        failure = f"it took longer than {timeout:g} seconds"
    else:
        failure = _ended(code, said.read_text("utf-8", "replace")) if code else ""
    events = Events(failure=failure)
    for line in _lines(folder / "events.jsonl"):
        events.take(*line)
    return events


def _lines(path: Path) -> list[list[Any]]:
    """The last line of a process that was killed may not be whole."""
    lines = path.read_text(encoding="utf-8").split("\n") if path.exists() else [""]
    return [json.loads(line) for line in lines[:-1]]


def _ended(code: int, said: str) -> str:
    last = next((line for line in reversed(said.splitlines()) if line.strip()), "")
    if "MemoryError" in last or "bad_alloc" in said:
        return f"it ran out of memory ({last})"
    if code == -signal.SIGKILL:
        return "it was killed, perhaps because memory ran out"
    if code < 0:
        return f"it crashed with {signal.Signals(-code).name}" + (f" ({last})" if last else "")
    return f"it failed: {last or f'exit status {code}'}"
