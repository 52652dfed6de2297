"""The command line, with no more of it imported than a call needs."""

import importlib
import sys
from collections.abc import Collection, Mapping
from importlib.metadata import version
from typing import Annotated

import typer

from embedl_deploy.cli import texts

COMMANDS: Mapping[str, tuple[str, str]] = {
    "inspect": ("inspect", texts.INSPECT),
    "deploy": ("deploy", texts.DEPLOY),
    "analyze": ("analyze", texts.ANALYZE),
    "tune": ("find_placement", texts.TUNE),
    "check": ("check", texts.CHECK),
    "explain": ("explain", texts.EXPLAIN),
    "verify": ("verify", texts.VERIFY),
    "build": ("build", texts.BUILD),
}
"""By name, the function in the module of that name, and its help."""


def program(loaded: Collection[str] = COMMANDS.keys()) -> typer.Typer:
    """The command line.

    Args:
        loaded: Commands that can be called; of the others there is the help alone.
    """
    app = typer.Typer(
        name="embedl-deploy",
        help=texts.flowing(texts.ABOUT),
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    for name, (function, text) in COMMANDS.items():
        command = _unloaded
        if name in loaded:
            module = importlib.import_module(f"embedl_deploy.cli.commands.{name}")
            command = getattr(module, function)
        app.command(name, help=texts.flowing(text), no_args_is_help=True)(command)
    app.callback()(_common)
    return app


def called(arguments: Collection[str]) -> Collection[str]:
    """The command that arguments call; none where they ask for help alone."""
    return [one for one in arguments if not one.startswith("-")][:1]


def run() -> None:
    """Do what `sys.argv` says; Ctrl-C ends it with one line and 130."""
    try:
        app = program(called(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(interrupted())
    app()


def interrupted() -> int:
    """Say in one line that the user ended it; the exit status."""
    typer.secho("interrupted; nothing was written", fg="red", err=True)
    return 130


def _unloaded() -> None:
    """Stand in the list of commands."""


def _show_version(wanted: bool) -> None:  # noqa: FBT001 - typer calls it by position
    if wanted:
        typer.echo(f"embedl-deploy {version('embedl_deploy')}")
        raise typer.Exit


def _common(
    *,
    _version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show the version and stop."
        ),
    ] = False,
) -> None:
    """Take the options that belong to no command."""
