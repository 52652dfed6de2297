"""An engine against its prediction, for the terminal."""

from collections.abc import Iterator, Sequence

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from embedl_deploy.report.blocks import columns, grouped
from embedl_deploy.tensorrt import Comparison, Held, Outcome

_STYLES = {Outcome.AS_PREDICTED: "green", Outcome.SPLIT: "yellow", Outcome.RETYPED: "yellow"}
_SHOWN = 5
"""Names of other layers without --all."""


def comparison_tables(comparison: Comparison, *, every: bool = False) -> Iterator[RenderableType]:
    """What became of the kernels, and which layers were not predicted.

    Args:
        comparison: From `compare_layers`.
        every: Whether to list each kernel and layer by itself.
    """
    key = lambda one: (one.outcome, one.kernel.rules[0], one.kernel.dtype, one.reads)  # noqa: E731
    held = comparison.held
    yield _table([[one] for one in held] if every else grouped(held, key))
    yield Text()
    for title, names in (("Reformats", comparison.reformats), ("Other layers", comparison.others)):
        if names:
            yield Text.assemble((title, "bold"), (f" – {len(names)}, not predicted", "dim"))
            shown = names if every else names[:_SHOWN]
            yield from (Text(f"  {name}", "dim") for name in shown)
            if len(shown) < len(names):
                yield Text("  …; --all lists them", "dim")
            yield Text()


def _table(groups: Sequence[Sequence[Held]]) -> Table:
    names = ("Count", "Outcome", "Kernel", "Predicted", "Reads", "Rule", "First at")
    table = columns(*names, right=("Count",))
    for group in groups:
        one = group[0]
        outcome = Text(one.outcome.value, _STYLES.get(one.outcome, ""))
        types = (one.kernel.dtype, ", ".join(one.reads))
        place = Text(one.kernel.head, "dim")
        table.add_row(str(len(group)), outcome, one.kernel.kind, *types, one.kernel.rules[0], place)
    return table
