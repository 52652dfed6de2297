"""Tables and figures as text and as HTML, and results that consist of them."""

from collections.abc import Sequence
from html import escape

_UNITS = (("T", 10**12), ("G", 10**9), ("M", 10**6), ("k", 10**3))


class Table(str):
    """Rows under a header, columns aligned; an empty string without rows.

    Attributes:
        header: Of each column.
        rows: Cells.
    """

    __slots__ = ("header", "rows")

    header: Sequence[str]
    rows: Sequence[Sequence[str]]

    @property
    def html(self) -> str:
        """The same as HTML."""
        head = "".join(f"<th>{escape(one)}</th>" for one in self.header)
        cells = ("".join(f"<td>{escape(one)}</td>" for one in row) for row in self.rows)
        body = "".join(f"<tr>{one}</tr>" for one in cells)
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


class Printed:
    """A result that prints as tables and text, and shows the same in a notebook."""

    def _parts(self) -> Sequence[str]:
        """Tables and texts; empty ones are left out."""
        raise NotImplementedError

    def _brief(self) -> str:
        """All in one line: the last line of the text, or how many rows there are."""
        parts = self._parts()
        texts = [one for one in parts if one and not isinstance(one, Table)]
        rows = sum(len(one.rows) for one in parts if isinstance(one, Table))
        return texts[-1].splitlines()[-1] if texts else f"{rows} row{'' if rows == 1 else 's'}"

    def __str__(self) -> str:
        return "\n\n".join(parts_of(self))

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self._brief()}>"

    def _repr_html_(self) -> str:
        return "".join(map(_html, parts_of(self)))


def parts_of(result: Printed) -> Sequence[str]:
    """The tables and texts of a result."""
    return [one for one in result._parts() if one]  # noqa: SLF001 - of this module


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """Rows under a header, columns aligned; an empty string without rows."""
    made = Table(_text(header, rows) if rows else "")
    made.header, made.rows = header, rows
    return made


def _text(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    columns = list(zip(header, *rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    lines = [header, ["─" * width for width in widths], *rows]
    return "\n".join(_line(line, widths) for line in lines)


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    pairs = zip(cells, widths, strict=True)
    return "  ".join(cell.ljust(width) for cell, width in pairs).rstrip()


def _html(part: str) -> str:
    if isinstance(part, Table):
        return part.html
    return "".join(f"<p>{escape(line)}</p>" for line in part.splitlines())


def amount(count: int) -> str:
    """A number to three digits with its unit: `4.09 G`."""
    unit, size = next(((u, s) for u, s in _UNITS if count >= 0.9995 * s), ("", 1))
    return f"{count / size:.3g} {unit}" if unit else str(count)


def percent(share: float) -> str:
    """A share to a tenth of a percent; what is not all never reads as 100."""
    return "99.9%" if 0.9995 <= share < 1 else f"{share:.1%}"


def counted(count: int, word: str) -> str:
    """A number of things in words: 1 layer, 2 layers, 3 batches."""
    several = "es" if word.endswith("ch") else "s"
    return f"{count:,} {word}{'' if count == 1 else several}"
