"""Runs commands in this process, as the script would, and holds what holds for all of them."""

import json
from pathlib import Path
from typing import Any

from typer.testing import CliRunner, Result

from embedl_deploy.cli.app import app


def run(*arguments: str, code: int = 0) -> Result:
    """The outcome of a command that ends with `code` and without a traceback."""
    result = CliRunner().invoke(app, arguments)
    unexpected = result.exception if not isinstance(result.exception, SystemExit) else None
    assert unexpected is None, repr(unexpected)
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result


def run_json(*arguments: str, code: int = 0) -> dict[str, Any]:
    """What a command prints with `--json`, which is one object and nothing else."""
    said = run(*arguments, "--json", code=code).stdout
    found = json.loads(said, parse_constant=_refuse)
    assert isinstance(found, dict)
    return found


def _refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is no JSON")


def files(folder: Path) -> dict[Path, bytes | None]:
    """Everything in a folder, with the content of files; caches of Python left out."""
    paths = (path for path in folder.rglob("*") if "__pycache__" not in path.parts)
    return {path: path.read_bytes() if path.is_file() else None for path in paths}
