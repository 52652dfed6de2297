"""What became of a model, for the terminal."""

from collections.abc import Callable, Hashable, Iterator, Sequence

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from embedl_deploy.quantize import AnalysisRow
from embedl_deploy.report.blocks import columns, grouped, groups, hanging
from embedl_deploy.report.summary import (
    Declined,
    Rewritten,
    Summary,
)
from embedl_deploy.rewrite import Unfused, without_names
from embedl_deploy.table import percent


def summary_tables(summary: Summary, *, every: bool = False) -> Iterator[RenderableType]:
    """What became of a model, section by section; groups, or with `every` each place.

    Args:
        summary: From `summarize`.
        every: Whether to list each match and refusal by itself.
    """
    if summary.conversions:
        note = "rewritten first, into operations that fuse"
        yield from _section("Converted", note, _conversions(summary.conversions, every=every))
    note = "each one kernel, by the pattern of its name where no other is named"
    yield from _section("Fused", note, _fusions(summary.fusions, every=every))
    if summary.left:
        note = "layers with weights, and products, in no fused module; they stay in floating point"
        yield from _section("Not fused", note, _unfused(summary, every=every))
    if summary.declined:
        note = "all operations of a pattern are there, and it does not apply"
        yield from _section("Declined", note, _declined(summary.declined, every=every))
    if summary.others:
        marked = any(other.weighted for other in summary.others)
        note = "operations that stay as they are" + ("; * reads weights" if marked else "")
        kinds = [f"{one.count}×{one.kind}{'*' * one.weighted}" for one in summary.others]
        yield from _section("Others", note, Text("  ".join(kinds)))


def analysis_table(rows: Sequence[AnalysisRow]) -> Table:
    """What quantization does at places of a model, in the order given."""
    alone = any(row.output_sqnr_db is not None for row in rows)
    numbers = ("SQNR", *["At output"] * alone, "Clipped", "Outliers")
    table = columns(*numbers, "Place", right=numbers)
    for row in rows:
        output = "" if row.output_sqnr_db is None else f"{row.output_sqnr_db:.1f} dB"
        clipped = "" if row.clipped_share is None else f"{row.clipped_share:.2%}"
        place = Text.assemble(row.path, (f"  {', '.join(row.points) or row.kind}", "dim"))
        figures = (f"{row.sqnr_db:.1f} dB", *[output] * alone, clipped, f"{row.outlier_ratio:.1f}")
        table.add_row(*figures, place)
    return table


def _section(title: str, note: str, body: RenderableType) -> Iterator[RenderableType]:
    yield Text.assemble("\n", (title, "bold"), (f" – {note}", "dim"))
    yield Padding(body, (0, 0, 0, 2))


def _conversions(conversions: Sequence[Rewritten], *, every: bool) -> RenderableType:
    table = columns("Count", "Pattern", "At" if every else "First at", right=("Count",))
    for count, first in groups(conversions, lambda one: one.pattern, every=every):
        table.add_row(str(count), Text(first.pattern), Text(first.path))
    return table


def _fusions(fusions: Sequence[Rewritten], *, every: bool) -> RenderableType:
    if not fusions:
        return Text("nothing", "dim")
    names = ("Count", "Fused module", "Q/DQ points", "At" if every else "First at")
    table = columns(*names, right=("Count",), whole=("Fused module",))
    key = lambda one: (one.kind, one.pattern, one.qdq_points, without_names(one.kept_float))  # noqa: E731
    for count, first in groups(fusions, key, every=every):
        points = "\n".join(first.qdq_points) or first.kept_float or "none"
        table.add_row(str(count), _kind(first), Text(points), Text(first.path))
    return table


def _kind(fusion: Rewritten) -> Text:
    """The fused module, and its pattern where that has another name."""
    if fusion.kind.removeprefix("Fused") == fusion.pattern.removesuffix("Pattern"):
        return Text(fusion.kind)
    return Text.assemble(fusion.kind, (f"\n  by {fusion.pattern}", "dim"))


def _unfused(summary: Summary, *, every: bool) -> RenderableType:
    key: Callable[[Unfused], Hashable] = lambda one: (one.kind, without_names(one.reason))  # noqa: E731
    groups = [[one] for one in summary.left] if every else grouped(summary.left, key)
    total = summary.coverage.total if summary.coverage else 0
    return Group(*(_left(group, total) for group in groups))


def _left(group: Sequence[Unfused], total: int) -> RenderableType:
    """Operations of one kind, and their share of the arithmetic."""
    one, macs = group[0], sum(one.macs or 0 for one in group)
    share = f"{percent(macs / total)} of the multiply-accumulates; " if macs and total else ""
    return _place(len(group), one.kind, one.path, f"{share}{one.reason}")


def _declined(declined: Sequence[Declined], *, every: bool) -> RenderableType:
    key = lambda one: (one.pattern, without_names(one.reason), one.instead)  # noqa: E731
    return Group(
        *(
            _place(n, one.pattern, one.path, f"{one.reason}; {_taken(one)}")
            for n, one in groups(declined, key, every=every)
        )
    )


def _taken(one: Declined) -> str:
    return f"taken by {one.instead}" if one.instead else "taken by none"


def _place(count: int, what: str, path: str, why: str) -> RenderableType:
    """What and where in one line, why in the next: reasons are sentences and need the width."""
    where = f" at {path}" if count == 1 else f", first at {path}"
    head = Text.assemble(what, (where, "dim"))
    return hanging(f"{count:>5}", Group(head, Padding(Text(why), (0, 0, 0, 2))))
