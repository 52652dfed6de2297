"""The command line, with no more of it imported than a call needs."""

import importlib
import os
import sys
from collections.abc import Collection, Mapping, Sequence
from importlib.metadata import version
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from embedl_deploy.cli import texts
from embedl_deploy.cli.options import ModelArgument
from embedl_deploy.cli.said import interrupted, print_error

_COMPLETING = "_EMBEDL_DEPLOY_COMPLETE"
"""Set by the shell when it asks for completions."""

_Misused: Any = typer.BadParameter.__base__
"""What the command line raises of itself; typer has no name for it."""

COMMANDS: Mapping[str, tuple[str, str]] = {
    "inspect": ("inspect", texts.INSPECT),
    "deploy": ("deploy", texts.DEPLOY),
    "run": ("run", texts.RUN),
    "analyze": ("analyze", texts.ANALYZE),
    "tune": ("find_placement", texts.TUNE),
    "check": ("check", texts.CHECK),
    "explain": ("explain", texts.EXPLAIN),
    "verify": ("verify", texts.VERIFY),
    "compare": ("compare", texts.COMPARE),
    "build": ("build", texts.BUILD),
}
"""By name, the function in the module of that name, and its help."""


class _Commands(TyperGroup):
    """The commands: a short usage without one; with `--json` misuse is said as JSON too."""

    def get_params(self, ctx: Any) -> Any:
        return _described(super().get_params(ctx))

    def main(self, args: Sequence[str] | None = None, *others: Any, **options: Any) -> Any:
        words = sys.argv[1:] if args is None else list(args)
        if not words and _COMPLETING not in os.environ:
            typer.echo(usage())
            sys.exit(2)
        if "--json" not in words:
            return super().main(args, *others, **options)
        try:
            status = super().main(args, *others, **{**options, "standalone_mode": False})
        except _Misused as error:
            print_error("UsageError", error.format_message(), as_json=True)
            status = 2
        sys.exit(status or 0)


class _Command(TyperCommand):
    """A command that refuses an option with one value given twice: the last alone would count."""

    def get_params(self, ctx: Any) -> Any:
        return _described(super().get_params(ctx))

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        given = self.make_parser(ctx).parse_args(args=list(args))[2]
        valued = [one for one in given if not (one.multiple or getattr(one, "is_flag", True))]
        twice = next((one for one in valued if valued.count(one) > 1), None)
        if twice is not None and not ctx.resilient_parsing:
            raise typer.BadParameter(f"give {max(twice.opts, key=len)} once", ctx=ctx)
        return super().parse_args(ctx, args)


def _described(params: Sequence[Any]) -> Sequence[Any]:
    """The parameters; the help shows no type for a flag, which takes no value."""
    for one in params:
        if getattr(one, "is_flag", False):
            one.metavar = ""
    return params


def program(loaded: Collection[str] = COMMANDS.keys()) -> typer.Typer:
    """The command line.

    Args:
        loaded: Commands that can be called; of the others there is the help alone.
    """
    app = typer.Typer(
        name="embedl-deploy",
        cls=_Commands,
        help=texts.flowing(texts.ABOUT),
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    for name, (function, text) in COMMANDS.items():
        command = _unloaded
        if name in loaded:
            module = importlib.import_module(f"embedl_deploy.cli.commands.{name}")
            command = getattr(module, function)
        app.command(name, cls=_Command, help=texts.flowing(text), no_args_is_help=True)(command)
    app.callback()(_common)
    return app


def usage() -> str:
    """What to type, in a few lines."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {texts.first(text)}" for name, (_, text) in COMMANDS.items()]
    return "\n".join(("Usage: embedl-deploy COMMAND …, or COMMAND --help", "", *lines))


def called(arguments: Collection[str]) -> Collection[str]:
    """The command that arguments call; none where they ask for help alone."""
    return [one for one in arguments if not one.startswith("-")][:1]


def completed() -> Collection[str]:
    """The command whose options the shell completes; none where another word is completed.

    A model is completed without the command, which would import torch.
    """
    line = os.environ.get("_TYPER_COMPLETE_ARGS") or os.environ.get("COMP_WORDS", "")
    words = line.split()[1:]
    found = called(words)
    light = {"check", "explain"}.issuperset(found)
    return found if light or words[-1].startswith("-") else ()


def run() -> None:
    """Do what `sys.argv` says; Ctrl-C ends it with one line and 130."""
    try:
        app = program(called(sys.argv[1:]) if _COMPLETING not in os.environ else completed())
    except KeyboardInterrupt:
        sys.exit(interrupted())
    app()


def _unloaded(_model: ModelArgument = "") -> None:
    """Stand in the list of commands, and complete models."""


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
