"""What texts for the terminal consist of; needs no torch."""

from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Sequence
from typing import TypeVar

from rich.console import Console, ConsoleOptions, JustifyMethod, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from embedl_deploy.table import Printed, parts_of
from embedl_deploy.table import Table as TextTable

T = TypeVar("T")

_ROOM = 70
"""Characters in a line from which on a name of 36 leaves room for the other columns."""


def grouped(items: Iterable[T], key: Callable[[T], Hashable]) -> Sequence[Sequence[T]]:
    """Items with the same key together, the largest group first."""
    groups: dict[Hashable, list[T]] = defaultdict(list)
    for item in items:
        groups[key(item)].append(item)
    return sorted(groups.values(), key=lambda group: -len(group))


def groups(items: Sequence[T], key: Callable[[T], Hashable], *, every: bool) -> list[tuple[int, T]]:
    """How many there are of each kind, and the first of them."""
    if every:
        return [(1, item) for item in items]
    return [(len(group), group[0]) for group in grouped(items, key)]


class _Columns(Table):
    """A table that keeps the names of `whole` columns in one piece where there is room."""

    whole: Collection[str] = ()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for column in self.columns:
            if column.header in self.whole:
                column.no_wrap = options.max_width >= _ROOM
        return super().__rich_console__(console, options)


def columns(*names: str, right: Collection[str] = (), whole: Collection[str] = ()) -> Table:
    """An empty table; what is too long for its column goes on in the next line, and nothing is cut.

    Args:
        names: Of the columns.
        right: Those with numbers.
        whole: Those whose names are not broken where the terminal is wide enough.
    """
    table = _Columns(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    table.whole = whole
    for name in names:
        numbers = name in right
        justify: JustifyMethod = "right" if numbers else "left"
        table.add_column(name, justify=justify, no_wrap=numbers, overflow="fold")
    return table


def printed(result: Printed) -> Iterator[RenderableType]:
    """The tables and texts of a result, as wide as the terminal."""
    for index, part in enumerate(parts_of(result)):
        if index:
            yield Text()
        if not isinstance(part, TextTable):
            yield Text(part)
            continue
        shown = columns(*part.header)
        for row in part.rows:
            shown.add_row(*map(Text, row))
        yield shown


def figures_table(figures: Sequence[tuple[str, str]]) -> Table:
    """Names on the left, what there is to say of each on the right."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, figure in figures:
        table.add_row(name, Text(figure))
    return table


def hanging(start: RenderableType, body: RenderableType) -> Table:
    """A body beside its start; the lines that it takes begin where the first does."""
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row(start, body)
    return table
