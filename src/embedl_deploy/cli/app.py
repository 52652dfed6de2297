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
from embedl_deploy.cli.commands.verify import verify
from embedl_deploy.cli.texts import ABOUT, ANALYZE, BUILD, CHECK, DEPLOY, EXPLAIN, INSPECT, VERIFY

app = typer.Typer(
    name="embedl-deploy",
    help=ABOUT,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("inspect", help=INSPECT, no_args_is_help=True)(inspect)
app.command("deploy", help=DEPLOY, no_args_is_help=True)(deploy)
app.command("analyze", help=ANALYZE, no_args_is_help=True)(analyze)
app.command("check", help=CHECK, no_args_is_help=True)(check)
app.command("explain", help=EXPLAIN, no_args_is_help=True)(explain)
app.command("verify", help=VERIFY, no_args_is_help=True)(verify)
app.command("build", help=BUILD, no_args_is_help=True)(build)


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
