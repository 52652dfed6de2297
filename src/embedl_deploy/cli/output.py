"""What a command says: tables or one JSON object on stdout, errors and progress on stderr."""

import logging
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any, Self

import typer
from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from embedl_deploy.cli.said import interrupted, print_error, print_json
from embedl_deploy.errors import DeployError

_OTHERS = (
    "torch",
    "torchvision",
    "timm",
    "transformers",
    "onnx",
    "onnx_ir",
    "onnxscript",
    "copyreg",
)
"""Packages whose warnings are about their own code."""

_BETWEEN = 30.0
"""Seconds between the lines of one step."""

StepProgress = Callable[[int, int | None], None]
"""Called with how much is done, and of how much where that is known."""


class Answer:
    """What a command answers, as tables or as JSON. A plain text is printed in its own lines."""

    def __init__(self) -> None:
        self.tables: list[RenderableType] = []
        self.values: dict[str, Any] = {}

    def write_page(self, path: Path | None, **parts: Any) -> None:
        """Write a page, where one is asked for, with the parts that `report` takes."""
        if path is None:
            return
        from embedl_deploy.report import report

        report(path, **parts)
        self.values["report"] = str(path)
        self.tables.append(f"wrote {path}")


@contextmanager
def answering(*, as_json: bool, debug: bool) -> Iterator[Answer]:
    """Gives the answer to fill in, and prints it; an error is printed in its place.

    What the user's own modules print meanwhile goes to stderr.

    Raises:
        Exit: With 1, after an error of the library was printed; with 130 after Ctrl-C.
    """
    answer = Answer()
    try:
        with _quiet(debug=debug), redirect_stdout(sys.stderr):
            yield answer
    except DeployError as error:
        if debug:
            traceback.print_exc()
        print_error(type(error).__name__, str(error), as_json=as_json)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        raise typer.Exit(interrupted()) from None
    except Exception as error:
        if as_json and not isinstance(error, typer.Exit | typer.Abort | typer.BadParameter):
            print_error(type(error).__name__, str(error), as_json=True)
        raise
    if as_json:
        print_json(answer.values)
        return
    console = Console()
    with console.capture() as captured:
        for one in answer.tables:
            console.print(one, soft_wrap=isinstance(one, str), markup=False, highlight=False)
    # cells are padded to the width of their column
    typer.echo("\n".join(line.rstrip() for line in captured.get().splitlines()))


@contextmanager
def _quiet(*, debug: bool) -> Iterator[None]:
    """Without `debug`, warnings of other libraries about their code are not shown.

    Those of a user's modules are, and the library's own, each in a line.
    """
    if debug:
        logging.basicConfig(format="%(name)s: %(message)s")
        with _level("embedl_deploy", logging.DEBUG):
            yield
        return
    with warnings.catch_warnings(), _level("torch", logging.ERROR):
        for name in _OTHERS:
            warnings.filterwarnings("ignore", module=rf"{name}(\.|$)")
        warnings.showwarning = _print_warning  # type: ignore[assignment]
        yield


@contextmanager
def _level(name: str, level: int) -> Iterator[None]:
    """What a logger says, for as long as a command runs."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(level)
    try:
        yield
    finally:
        logger.setLevel(before)


def _print_warning(message: Warning | str, *_: object) -> None:
    typer.secho(f"warning: {str(message).strip()}", fg="yellow", err=True)


class Steps:
    """Shows on stderr what is being done and for how long.

    On a terminal that is a bar, which goes when all is done. Elsewhere it is a line when a step
    begins, and one in half a minute of a step that knows how far it is; each begins with the
    seconds since the first.
    """

    def __init__(self) -> None:
        console = Console(stderr=True)
        self._lines = not console.is_terminal
        self._start = self._said = time.monotonic()
        self._progress = Progress(
            TextColumn("{task.description:<12}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=self._lines,
        )

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    @contextmanager
    def step(self, text: str) -> Iterator[StepProgress]:
        """A bar of its own for a step, which pulses until something calls the progress."""
        task = self._progress.add_task(text, total=None)
        self._say(text)

        def update(done: int, total: int | None) -> None:
            self._progress.update(task, completed=done, total=total)
            if time.monotonic() - self._said >= _BETWEEN:
                self._say(f"{text} {done}" + ("" if total is None else f" of {total}"))

        yield update
        self._progress.update(task, total=1, completed=1)

    def _say(self, text: str) -> None:
        self._said = time.monotonic()
        if self._lines:
            typer.echo(f"{self._said - self._start:7.1f} s  {text.rstrip()}", err=True)
