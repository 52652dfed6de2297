"""Run every model of the zoo, and write the table: `make zoo`."""

import argparse
import fnmatch
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from benchmarks.zoo.entry import Entry
from benchmarks.zoo.page import page
from benchmarks.zoo.record import Record, Results
from benchmarks.zoo.runner import Limits, Server, listed, run_all

ROOT = Path(__file__).parents[2]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what has not run yet, write the page; gives 1 where a model falls short."""
    options = _parser().parse_args(arguments)
    server = Server()
    entries = listed(server, options.results.parent)
    results = Results(options.results)
    chosen = [] if options.page_only else _chosen(entries, results.read(), options)
    _run(server, chosen, results, options)
    known = results.read()
    names = [entry.name for entry in entries]
    options.page.write_text(page(entries, known), encoding="utf-8")
    print(f"wrote {options.page}")
    return 0 if all(name in known and known[name].good for name in names) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.zoo", description=__doc__)
    add = parser.add_argument
    add("--only", metavar="PATTERN", default="*", help="names or groups, such as 'timm:*'")
    add("--again", action="store_true", help="run also what has run")
    add("--short", action="store_true", help="run again what failed or fell short")
    add("--jobs", type=int, default=2, help="models at a time (default: 2)")
    add("--method", choices=("auto", "trace", "export"), default="auto", help="how to capture")
    add("--memory", type=float, default=20.0, help="GiB that a model may take (default: 20)")
    add("--seconds", type=float, default=900.0, help="that a model may take (default: 900)")
    add("--results", type=Path, default=ROOT / ".zoo" / "results.jsonl", help="one line a model")
    add("--page", type=Path, default=ROOT / "docs" / "zoo.md", help="where the table goes")
    add("--page-only", action="store_true", help="write the table of what has run")
    return parser


def _chosen(
    entries: Sequence[Entry], known: dict[str, Record], options: argparse.Namespace
) -> list[Entry]:
    def wanted(entry: Entry) -> bool:
        words = (entry.name, entry.model, entry.group)
        if not any(fnmatch.fnmatchcase(word, options.only) for word in words):
            return False
        record = known.get(entry.name)
        return record is None or options.again or (options.short and not record.good)

    return [entry for entry in entries if wanted(entry)]


def _run(
    server: Server, chosen: Sequence[Entry], results: Results, options: argparse.Namespace
) -> None:
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    limits = Limits(options.memory, options.seconds)
    with Progress(*columns) as progress:
        task = progress.add_task("zoo", total=len(chosen))
        for name, record in run_all(server, chosen, options.method, options.jobs, limits):
            if record is None:
                progress.update(task, description=name)
                continue
            results.add(record)
            progress.console.print(_line(record), markup=False, emoji=False, highlight=False)
            progress.advance(task)


def _line(record: Record) -> str:
    """What came out, in one line."""
    if record.error:
        return f"✗ {record.name}: {record.error.splitlines()[0]}"
    words = (
        "" if record.equivalent else f"off by {record.difference:.1e}",
        "" if record.conserving else f"{len(record.lost)} lost, {len(record.twice)} twice",
        "" if record.covered else f"{record.coverage or 0:.1%} covered",
        "" if record.file is None or record.file.good else f"file: {record.file.fault}",
    )
    found = ", ".join(word for word in words if word)
    return f"{'✗' if found else '✓'} {record.name} {record.way} {record.seconds:.1f} s {found}"


if __name__ == "__main__":
    sys.exit(main())
