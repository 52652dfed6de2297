"""What the benchmarks share: a figure with its bar, tables of them, and fresh processes."""

import argparse
import gc
import json
import math
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch


def parser_of(description: str | None) -> argparse.ArgumentParser:
    """The options that all benchmarks have."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures here too")
    parser.add_argument("--full", action="store_true", help="all sizes and runs, however long")
    return parser


def rounds(most: int, seconds: float) -> Iterator[int]:
    """Count to `most`, but begin none after so many seconds; the first is always done."""
    end = time.monotonic() + seconds
    for index in range(most):
        if index and time.monotonic() > end:
            return
        yield index


def within(seconds: float, *, full: bool) -> float:
    """The time for runs: what is given, or any with `--full`."""
    return math.inf if full else seconds


@dataclass(frozen=True)
class Figure:
    """Something measured, and the bar it has to meet.

    Attributes:
        what: What was measured, and how.
        value: The figure, in `unit`.
        bar: What it may be; None for a figure that is only reported.
        better: On which side of the bar the figure has to be.
        details: What the figure was made from.
    """

    what: str
    value: float
    unit: str
    bar: float | None = None
    better: Literal["lower", "higher"] = "lower"
    details: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the bar is met; None without one."""
        if self.bar is None:
            return None
        return self.value <= self.bar if self.better == "lower" else self.value >= self.bar


def show(title: str, figures: Sequence[Figure]) -> None:
    """Print figures as a table."""
    rows = [("", "measured", "bar", "", "")]
    for figure in figures:
        sign = "≤" if figure.better == "lower" else "≥"
        bar = "" if figure.bar is None else f"{sign} {figure.bar:.3g} {figure.unit}"
        word = {None: "", True: "met", False: "NOT MET"}[figure.met]
        rows.append((figure.what, f"{figure.value:.3f} {figure.unit}", bar, word, figure.details))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    print(f"\n{title}")
    for row in rows:
        cells = zip(row, widths, strict=True)
        print("  ".join(cell.ljust(width) for cell, width in cells).rstrip())
    sys.stdout.flush()


def finish(figures: Sequence[Figure], path: Path | None) -> int:
    """Say how many bars are met and write the figures as JSON; gives the exit code."""
    barred = [figure for figure in figures if figure.met is not None]
    missed = [figure for figure in barred if not figure.met]
    print(f"\n{len(barred) - len(missed)} of {len(barred)} bars met")
    if path is not None:
        machine = {"torch": torch.__version__, "cores": os.cpu_count(), "python": sys.version}
        found = [{**asdict(figure), "met": figure.met} for figure in figures]
        path.write_text(json.dumps({"machine": machine, "figures": found}, indent=2) + "\n")
    return 1 if missed else 0


def say(text: str) -> None:
    """Tell what is being measured, at once."""
    print(f"… {text}", flush=True)


@dataclass(frozen=True)
class Taken:
    """How long a call took.

    Attributes:
        wall: Seconds on the clock.
        processor: Seconds of this process on all cores, which other programs do not lengthen.
    """

    wall: float
    processor: float


def timed(function: Callable[[], Any]) -> Taken:
    """How long one call takes, with garbage collection on.

    What lives before the call is collected and set aside (`gc.freeze`), so that the call pays for
    the collection of its own objects and not for walking those of the benchmark. Its result is
    released after the clock has stopped.
    """
    gc.collect()
    gc.freeze()
    try:
        wall, processor = time.perf_counter(), time.process_time()
        result = function()
        taken = Taken(time.perf_counter() - wall, time.process_time() - processor)
        del result
    finally:
        gc.unfreeze()
    return taken


def spread(values: Sequence[float], scale: float = 1.0) -> str:
    """Median, least and most of several runs, in words."""
    low, high = min(values) * scale, max(values) * scale
    return f"{len(values)} runs, {low:.3g} to {high:.3g}"


def median(values: Sequence[float]) -> float:
    """The median."""
    return statistics.median(values)


def in_fresh_process(function: Callable[..., Any], *args: Any) -> Any:
    """What `function(*args)` gives in a process of its own, started anew and not forked."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, *args).result()


def resident(key: str) -> float:
    """Resident memory of this process in MiB, now (VmRSS) or at its peak (VmHWM).

    Not from `getrusage`, whose peak a new process inherits from the one that started it.
    """
    status = Path("/proc/self/status")
    if not status.exists():
        raise SystemExit("peak memory is read from /proc/self/status, which Linux has")
    line = next(line for line in status.read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) / 1024
