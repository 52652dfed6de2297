"""Errors and JSON, as all commands say them."""

import json
from collections.abc import Mapping
from typing import Any

import typer

SCHEMA = 1
"""Of the JSON: a key that goes, or means something else, gives it another number."""


def interrupted() -> int:
    """Say in one line that the user ended it; the exit status."""
    typer.secho("interrupted; nothing was written", fg="red", err=True)
    return 130


def print_error(kind: str, message: str, *, as_json: bool) -> None:
    """An error on stderr, and as JSON on stdout where that is asked for."""
    typer.secho(f"error: {message}", fg="red", err=True)
    if as_json:
        print_json({"error": {"type": kind, "message": message}})


def print_json(values: Mapping[str, Any]) -> None:
    """What a command answers for machines."""
    said = {"schema_version": SCHEMA, **values}
    print(json.dumps(said, indent=2))  # noqa: T201 - the command's output
