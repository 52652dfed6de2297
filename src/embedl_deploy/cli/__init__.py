"""The command line: `embedl-deploy`."""

import sys

from embedl_deploy.errors import MissingExtraError

__all__ = ["main"]


def main() -> None:
    """Run the command line; the script `embedl-deploy`."""
    try:
        from embedl_deploy.cli.program import run
    except ModuleNotFoundError as error:
        if error.name not in {"click", "rich", "typer"}:
            raise
        missing = MissingExtraError(error.name, "cli", "the command line")
        sys.exit(f"error: {missing}")
    run()
