"""`embedl-deploy run`: what a run file asks for."""

from pathlib import Path
from typing import Annotated

import typer

from embedl_deploy.cli.commands.deploy import say
from embedl_deploy.cli.commands.runs import read_run
from embedl_deploy.cli.options import DebugOption, JsonOption
from embedl_deploy.cli.output import answering


def run(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="RUN.yaml", help="Options of deploy, as YAML or JSON.", show_default=False
        ),
    ],
    *,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Deploy as a file says."""
    with answering(as_json=as_json, debug=debug) as answer:
        say(read_run(file), answer)
