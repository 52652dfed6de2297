"""Runs what makes a file, in a process of its own."""

import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.zoo.runner import placeless


def made(arguments: Sequence[str], note: Path, seconds: float) -> str:
    """Run what makes a file, and note how long it took and its last line; gives what went wrong."""
    start = time.perf_counter()
    try:
        done = subprocess.run(  # noqa: S603 - this benchmark's own scripts
            arguments, capture_output=True, text=True, timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired:
        return f"more than {seconds:g} s"
    lines = (done.stdout if not done.returncode else done.stderr).splitlines() or ["no output"]
    if done.returncode:
        return placeless(lines[-1])[:300]
    note.write_text(f"{time.perf_counter() - start:.0f} {lines[-1]}", encoding="utf-8")
    return ""
