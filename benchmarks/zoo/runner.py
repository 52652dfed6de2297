"""One process per model, forked from a server that has imported everything, within limits."""

import contextlib
import json
import multiprocessing
import os
import re
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.zoo.entry import Entry
from benchmarks.zoo.record import Record

_POLL = 0.1


@dataclass(frozen=True)
class Limits:
    """What one model may take.

    Attributes:
        gibibytes: Resident memory.
        seconds: Time on the clock.
    """

    gibibytes: float = 20.0
    seconds: float = 900.0


class Server:
    """Starts processes in which torch and the packages of models are imported already."""

    def __init__(self) -> None:
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        self.context: ForkServerContext = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(["benchmarks.zoo.preload"])

    def start(self, target: Callable[..., None], *args: Any) -> ForkServerProcess:
        """A process that runs `target`."""
        process = self.context.Process(target=target, args=args, daemon=True)
        process.start()
        return process


@dataclass
class _Job:
    entry: Entry
    process: ForkServerProcess
    file: Path
    start: float
    peak: float = 0.0


def run_all(
    server: Server, entries: Sequence[Entry], method: str, jobs: int, limits: Limits
) -> Iterator[tuple[str, Record | None]]:
    """Names of models as they start, with `None`, and again with their records as they end."""
    waiting = list(reversed(entries))
    running: list[_Job] = []
    with TemporaryDirectory() as folder:
        while waiting or running:
            while waiting and len(running) < jobs:
                running.append(_started(server, waiting.pop(), method, Path(folder)))
                yield running[-1].entry.name, None
            time.sleep(_POLL)
            for job in list(running):
                if (record := _ended(job, limits)) is not None:
                    running.remove(job)
                    yield record.name, record


def _started(server: Server, entry: Entry, method: str, folder: Path) -> _Job:
    file = folder / entry.name.replace(":", "_")
    process = server.start(_work, entry, method, file)
    return _Job(entry, process, file, time.monotonic())


def _ended(job: _Job, limits: Limits) -> Record | None:
    """The record of a job that ended, or that had to be ended."""
    job.peak = max(job.peak, _resident(job.process.pid))
    why = None
    if job.peak > limits.gibibytes * 1024:
        why = f"more than {limits.gibibytes:g} GiB of memory"
    elif time.monotonic() - job.start > limits.seconds:
        why = f"more than {limits.seconds:g} s"
    elif job.process.is_alive():
        return None
    if why:
        job.process.kill()
    job.process.join()
    return _recorded(job, why)


def _recorded(job: _Job, why: str | None) -> Record:
    record = Record(job.entry.name, job.entry.group, job.entry.parameters)
    if job.file.exists():
        record = Record.of(job.file.read_text(encoding="utf-8"))
    elif why is None:
        why = f"the process ended with code {job.process.exitcode}"
    record.error = why or record.error
    record.mebibytes = round(job.peak)
    return record


def _resident(pid: int | None) -> float:
    """MiB of resident memory now; 0 where that cannot be known."""
    with contextlib.suppress(OSError, IndexError):
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
    return 0.0


def _work(entry: Entry, method: str, file: Path) -> None:
    """In the process of the model: measure it, and write what came of it."""
    from benchmarks.zoo.measure import measure

    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    record = Record(entry.name, entry.group, entry.parameters)
    try:
        measure(entry, method, record)  # type: ignore[arg-type] # the command line has checked it
    except Exception as error:  # noqa: BLE001 - a model may raise anything; the record says what
        record.error = placeless(f"{type(error).__name__}: {error}\n{_where(error)}")
    partial = file.with_name(f"{file.name}.part")
    partial.write_text(record.line(), encoding="utf-8")
    partial.rename(file)


def placeless(text: str) -> str:
    """`text` with paths of files as every machine has them: the last two parts."""
    return re.sub(r"(?<![\w.:/])/(?:[\w.+-]+/)*([\w.+-]+/[\w.+-]+)", r"\1", text)


def _where(error: BaseException) -> str:
    """The innermost frame of this project and the innermost of all."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [one for one in frames if "embedl_deploy" in one.filename or "/zoo/" in one.filename]
    places = dict.fromkeys(f"{one.filename}:{one.lineno}" for one in (*ours[-1:], *frames[-1:]))
    return "".join(f"at {place}\n" for place in places)


def listed(server: Server, folder: Path) -> list[Entry]:
    """All entries; their packages are imported in a process of its own."""
    with TemporaryDirectory() as temporary:
        file = Path(temporary) / "entries.json"
        process = server.start(_list, folder, file)
        process.join()
        if not file.exists():
            raise SystemExit("the models could not be listed; see above")
        return [Entry(*one) for one in json.loads(file.read_text(encoding="utf-8"))]


def _list(folder: Path, file: Path) -> None:
    from benchmarks.zoo import catalog

    found = [(one.name, one.group, one.parameters) for one in catalog.entries(folder)]
    file.write_text(json.dumps(found), encoding="utf-8")
