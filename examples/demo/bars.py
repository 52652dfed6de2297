"""Progress bars for what takes its time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


def progress_bars(console: Console) -> Progress:
    """Bars with the number of steps and the time; they stay when they are full."""
    text = TextColumn("  {task.description:<14}")
    return Progress(text, BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console)


@contextmanager
def step(bars: Progress, name: str) -> Iterator[None]:
    """A bar that moves while something runs that cannot say how far it is."""
    task = bars.add_task(name, total=None)
    yield
    bars.update(task, total=1, completed=1)
