"""What a row of the operations table is, and how a call is bound to its arguments."""

import ast
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from types import SimpleNamespace
from typing import Any

from torch import nn

Spelling = Callable[..., Any] | str
"""A callable (`F.relu`), the name of a tensor method (`"relu"`) or attribute (`".mT"`)."""


@cache
def signature(text: str) -> inspect.Signature:
    """The signature that `text` spells, such as `"input, dim=-1"`; `*names` takes the rest."""
    return inspect.Signature([_parameter(word) for word in text.split(", ")])


def _parameter(word: str) -> inspect.Parameter:
    name, _, default = word.partition("=")
    if name.startswith("*"):
        return inspect.Parameter(name[1:], inspect.Parameter.VAR_POSITIONAL)
    value = ast.literal_eval(default) if default else inspect.Parameter.empty
    return inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=value)


@dataclass(frozen=True)
class Row:
    """One operation of the canonical graph.

    Attributes:
        name: The operation's name, and the stem of a module's path where the source has none.
        arguments: The spelling's arguments in order, as `signature` reads them.
        spellings: Its out-of-place spellings.
        inplace: Spellings that write to their first argument.
        ranked: Whether its form depends on the number of dimensions of the first argument,
            which then is bound as `rank`; `None` where it is not known.
    """

    name: str
    arguments: str
    spellings: tuple[Spelling, ...]
    inplace: tuple[Spelling, ...] = field(default=(), kw_only=True)
    ranked: bool = field(default=False, kw_only=True)

    def bind(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> SimpleNamespace | None:
        """The call's arguments by name, or `None` when the call does not fit."""
        try:
            bound = signature(self.arguments).bind(*args, **kwargs)
        except TypeError:
            return None
        bound.apply_defaults()
        return SimpleNamespace(**bound.arguments)


@dataclass(frozen=True)
class ModuleRow(Row):
    """An operation that the canonical graph holds as a module.

    Attributes:
        make: Builds the module from the bound arguments, get-attribute nodes replaced by
            their tensors, and `owner`, the module whose `forward` makes the call; `None` when
            this use has no module form.
        inputs: How many leading arguments the module is called with, or the names of those it is.
    """

    make: Callable[[SimpleNamespace], nn.Module | None] = field(kw_only=True)
    inputs: int | tuple[str, ...] = field(default=1, kw_only=True)

    def given(self, bound: SimpleNamespace) -> tuple[str, ...]:
        """The names of the arguments that the module is called with, in order."""
        if isinstance(self.inputs, tuple):
            return self.inputs
        return tuple(vars(bound))[: self.inputs]


@dataclass(frozen=True)
class FunctionRow(Row):
    """An operation that the canonical graph holds as a call of one function or method.

    Attributes:
        target: The function that the graph calls, or the name of the tensor's method where
            there is no function.
        positional: The target's arguments from the bound ones; `None` when this use is
            another operation. By default all of them in order.
    """

    target: Spelling = field(kw_only=True)
    positional: Callable[[SimpleNamespace], tuple[Any, ...] | None] = field(
        default=lambda bound: tuple(vars(bound).values()), kw_only=True
    )


class Table:
    """Rows, found by spelling."""

    def __init__(self, rows: tuple[Row, ...]) -> None:
        self.rows = rows
        self._rows = {spelling: row for row in rows for spelling in (*row.spellings, *row.inplace)}
        self._inplace = frozenset(spelling for row in rows for spelling in row.inplace)

    def find(self, spelling: Spelling) -> Row | None:
        """The row that owns a spelling."""
        return self._rows.get(spelling)

    def writes(self, spelling: Spelling) -> bool:
        """Whether a spelling writes to its first argument."""
        return spelling in self._inplace
