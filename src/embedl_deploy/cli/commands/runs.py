"""Run files: the options of `deploy` by their names, as YAML or JSON, checked by pydantic."""

import difflib
from collections.abc import Iterator
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

from embedl_deploy.cli.commands.job import Job
from embedl_deploy.cli.commands.order import plain
from embedl_deploy.cli.values import Numbers, Shape, parse_page
from embedl_deploy.errors import LoadError, MissingExtraError
from embedl_deploy.export.files import written_beside

_HINTS = get_type_hints(Job, include_extras=True)
_LISTS = {Shape: list[int], Numbers: list[float]}
"""What is in a file for types of the command line."""


def read_run(path: Path) -> Job:
    """The job that a run file asks for.

    Raises:
        LoadError: It cannot be read, or has options or values that `deploy` does not have.
        BadParameter: Options contradict each other.
        MissingExtraError: The packages of the `run` extra are not installed.
    """
    form, loaded = _form(), _loaded(path)
    try:
        found = form.model_validate(loaded)
    except _package("pydantic").ValidationError as error:
        faults = "; ".join(_fault(one) for one in error.errors())
        raise LoadError(f"'{path}' is no run of deploy: {faults}") from None
    given = {name: getattr(found, name) for name in found.model_fields_set}
    return Job(**{name: _read(name, value) for name, value in given.items()})


def write_run(job: Job, path: Path) -> None:
    """Write the options of a job, with those that it has by default, as a run file.

    Raises:
        ExportError: It cannot be written there.
        MissingExtraError: The packages of the `run` extra are not installed.
    """
    yaml = _package("yaml")
    values = {option: plain(getattr(job, one.name)) for option, one in _options()}
    there = {name: value for name, value in values.items() if value is not None}
    with written_beside(path) as draft:
        draft.write_text(yaml.safe_dump(there, sort_keys=False, allow_unicode=True), "utf-8")


def schema() -> dict[str, Any]:
    """The form of a run file as JSON schema.

    Raises:
        MissingExtraError: The packages of the `run` extra are not installed.
    """
    dialect = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return dialect | _form().model_json_schema(by_alias=True)


def _loaded(path: Path) -> Any:
    yaml = _package("yaml")
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise LoadError(f"'{path}' cannot be read: {error.strerror}") from None
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise LoadError(f"'{path}' is neither YAML nor JSON: {reason}") from None


def _form() -> Any:
    """The fields of `Job` as a model of pydantic."""
    pydantic = _package("pydantic")
    made = {one.name: (_kind(one.name), _field(option, one)) for option, one in _options()}
    config = pydantic.ConfigDict(extra="forbid")
    return pydantic.create_model("deploy", __config__=config, __doc__=_ABOUT, **made)


_ABOUT = "What `embedl-deploy run` deploys: the options of `embedl-deploy deploy`, by name."


def _options() -> Iterator[tuple[str, "Field[Any]"]]:
    """Fields by the name that they have on the command line, without dashes before it."""
    for one in fields(Job):
        said = _said(one.name)
        names = [str(name) for name in (said.default, *(said.param_decls or ()))]
        long = [name.lstrip("-") for name in names if name.startswith("--")]
        yield next(iter(long), one.name.replace("_", "-")), one


def _said(name: str) -> Any:
    """What typer is told of a field."""
    return _HINTS[name].__metadata__[0]


def _kind(name: str) -> Any:
    kind = get_args(_HINTS[name])[0]
    parts = [_LISTS.get(one, one) for one in get_args(kind) if one is not type(None)]
    if type(None) not in get_args(kind):
        return _LISTS.get(kind, kind)
    return parts[0] | None


def _field(option: str, one: "Field[Any]") -> Any:
    said = _said(one.name)
    default = ... if one.default is MISSING else plain(one.default)
    return _package("pydantic").Field(
        default, alias=option, description=said.help, ge=said.min, le=said.max
    )


def _read(name: str, value: Any) -> Any:
    kinds = {*get_args(get_args(_HINTS[name])[0]), get_args(_HINTS[name])[0]}
    if value is not None and _said(name).parser is parse_page:
        return parse_page(str(value))
    own = next((one for one in _LISTS if one in kinds), None)
    return value if value is None or own is None else own(value)


def _fault(error: Any) -> str:
    """What is wrong at one place, in words."""
    where = ".".join(map(str, error["loc"])) or "it"
    if error["type"] == "extra_forbidden":
        close = difflib.get_close_matches(where, [option for option, _ in _options()], n=1)
        return f"there is no option '{where}'" + (f", did you mean {close[0]}?" if close else "")
    if error["type"] == "missing":
        return f"{where} is missing"
    return f"{where}: {error['msg']}, not {error['input']!r}"


def _package(name: str) -> Any:
    import importlib

    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        raise MissingExtraError(name, "run", "a run file") from None
