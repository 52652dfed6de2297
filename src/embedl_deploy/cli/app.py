"""The commands in one place."""

from importlib.metadata import version
from typing import Annotated

import typer

from embedl_deploy.cli.commands.analyze import analyze
from embedl_deploy.cli.commands.build import build
from embedl_deploy.cli.commands.check import check
from embedl_deploy.cli.commands.deploy import deploy
from embedl_deploy.cli.commands.explain import explain
from embedl_deploy.cli.commands.inspect import inspect
from embedl_deploy.cli.commands.tune import find_placement
from embedl_deploy.cli.commands.verify import verify
from embedl_deploy.cli.texts import (
    ABOUT,
    ANALYZE,
    BUILD,
    CHECK,
    DEPLOY,
    EXPLAIN,
    INSPECT,
    TUNE,
    VERIFY,
    flowing,
)

app = typer.Typer(
    name="embedl-deploy",
    help=flowing(ABOUT),
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("inspect", help=flowing(INSPECT), no_args_is_help=True)(inspect)
app.command("deploy", help=flowing(DEPLOY), no_args_is_help=True)(deploy)
app.command("analyze", help=flowing(ANALYZE), no_args_is_help=True)(analyze)
app.command("tune", help=flowing(TUNE), no_args_is_help=True)(find_placement)
app.command("check", help=flowing(CHECK), no_args_is_help=True)(check)
app.command("explain", help=flowing(EXPLAIN), no_args_is_help=True)(explain)
app.command("verify", help=flowing(VERIFY), no_args_is_help=True)(verify)
app.command("build", help=flowing(BUILD), no_args_is_help=True)(build)


def _show_version(wanted: bool) -> None:  # noqa: FBT001 - typer calls it by position
    if wanted:
        typer.echo(f"embedl-deploy {version('embedl_deploy')}")
        raise typer.Exit


@app.callback()
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
