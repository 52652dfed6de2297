"""Options that are declared once: fields of a dataclass become options of a command."""

import inspect
from collections.abc import Callable, Iterator
from dataclasses import MISSING, Field, fields, is_dataclass
from inspect import Parameter
from typing import Any, get_type_hints

import typer


def spread(command: Callable[..., None]) -> Callable[..., None]:
    """The command with the fields of its dataclasses as parameters of its own, for typer to read.

    Args:
        command: Its parameters that are dataclasses are made of what typer gives for their fields.
    """
    hints = get_type_hints(command, include_extras=True)
    kinds: dict[str, Any] = {name: kind for name, kind in hints.items() if is_dataclass(kind)}
    parameters = list(_parameters(command, hints))

    def called(**given: Any) -> None:
        made = {
            name: kind(**{one.name: given.pop(one.name) for one in fields(kind)})
            for name, kind in kinds.items()
        }
        command(**made, **given)

    vars(called)["__signature__"] = inspect.Signature(parameters)
    called.__annotations__ = {one.name: one.annotation for one in parameters}
    called.__name__, called.__doc__ = command.__name__, command.__doc__
    return called


def given_options(context: typer.Context) -> set[str]:
    """Names of the parameters of a running command that its user gave."""
    sources = {name: context.get_parameter_source(name) for name in context.params}
    return {name for name, one in sources.items() if one is not None and one.name == "COMMANDLINE"}


def _parameters(command: Callable[..., None], hints: dict[str, Any]) -> Iterator[Parameter]:
    for name, one in inspect.signature(command).parameters.items():
        kind = hints[name]
        if not is_dataclass(kind):
            yield one.replace(kind=Parameter.KEYWORD_ONLY, annotation=kind)
            continue
        own = get_type_hints(kind, include_extras=True)
        for field in fields(kind):
            default = _default(field)
            yield Parameter(
                field.name, Parameter.KEYWORD_ONLY, default=default, annotation=own[field.name]
            )


def _default(field: "Field[Any]") -> Any:
    return Parameter.empty if field.default is MISSING else field.default
