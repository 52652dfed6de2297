"""Quantize six models with this library and with four other tools, measure, and write the page.

One process a file; what has run is kept and not run again: `make bench-quality`, or, with what is
installed in `.venv-peers`, `python -m benchmarks.quality`.
"""

import argparse
import fnmatch
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.quality import ours, peers, trained
from benchmarks.quality.making import made
from benchmarks.quality.measure import figures
from benchmarks.quality.models import MODELS, prepare
from benchmarks.quality.page import page
from benchmarks.quality.record import Results, Row

ROOT = Path(__file__).parents[2]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what has not run, write the page; gives 1 where a bar is missed."""
    options = _parser().parse_args(arguments)
    results = Results(options.results)
    for model, setting in () if options.page_only else _wanted(options.only):
        if options.again or (model, setting) not in results.rows:
            print(f"… {model} {setting}", file=sys.stderr, flush=True)
            results.add(measured(model, setting, options))
    for model in () if options.page_only else trained.MODELS:
        if fnmatch.fnmatchcase(f"digits/{model}", options.only):
            missing = [*trained.WAYS] if options.again else results.missing(model, trained.WAYS)
            results.add_trained(trained.measured(model, missing))
    options.page.write_text(page(results), encoding="utf-8")
    return 0 if results.met else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality", description=__doc__)
    add = parser.add_argument
    add("--only", default="*", metavar="PATTERN", help="'MODEL/SETTING', such as 'vit*/nncf-*'")
    add("--again", action="store_true", help="run also what has run")
    add("--seconds", type=float, default=900.0, help="that one file may take (default: 900)")
    add("--peers", default=ROOT / ".venv-peers/bin/python", help="the other tools' interpreter")
    add("--work", type=Path, default=ROOT / ".zoo/quality", help="folder for models and files")
    add("--results", type=Path, default=ROOT / "docs/quality.json", help="an entry for each file")
    add("--page", type=Path, default=ROOT / "docs/quality.md", help="where the tables go")
    add("--page-only", action="store_true", help="write the page of what has run")
    return parser


def _wanted(pattern: str) -> Iterator[tuple[str, str]]:
    for model in MODELS:
        for setting in (*ours.SETTINGS, *peers.SETTINGS):
            if peers.is_for(setting, model) and fnmatch.fnmatchcase(f"{model}/{setting}", pattern):
                yield model, setting


def measured(model: str, setting: str, options: argparse.Namespace) -> Row:
    """Make a file, unless it is there, and measure it."""
    folder: Path = options.work / model
    if not (folder / "reference.npy").exists():
        prepare(model, folder)
    target, note = folder / f"{setting}.onnx", folder / f"{setting}.txt"
    if options.again or not note.exists():
        interpreter = str(options.peers) if peers.needs_own(setting) else sys.executable
        error = made([interpreter, *command(model, setting, folder)], note, options.seconds)
        if error:
            return Row(model, setting, error=error)
    seconds, version = note.read_text(encoding="utf-8").strip().split(maxsplit=1)
    return Row(model, setting, version, seconds=float(seconds), **figures(target, folder))


def command(model: str, setting: str, folder: Path) -> list[str]:
    """What an interpreter gets to make a file."""
    if setting in ours.SETTINGS:
        return ["-m", ours.__name__, setting, model, str(folder)]
    return [str(peers.__file__), setting, str(folder)]


if __name__ == "__main__":
    sys.exit(main())
