"""The kernels that are expected of a file, for the terminal."""

from collections import Counter
from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from embedl_deploy.report.blocks import columns, hanging
from embedl_deploy.report.blocks import grouped as by_key
from embedl_deploy.tensorrt import Explanation, Kernel
from embedl_deploy.tensorrt.prediction.report import grouped, share_of


def kernel_tables(explanation: Explanation, *, every: bool = False) -> Iterator[RenderableType]:
    """What runs, what there is to say of it, and what takes no kernel.

    Args:
        explanation: From `explain_onnx`.
        every: Whether to list each kernel by itself.
    """
    total = sum(explanation.macs.values())
    known = "Arithmetic known" if explanation.uncounted else "Arithmetic"
    yield _table(explanation.kernels, total, known)
    yield Text()
    if every:
        yield Text("Kernels", "bold")
        yield from (_entry(one, total) for one in explanation.kernels)
        yield Text()
    elif reasons := [one for one in explanation.kernels if one.reason]:
        yield Text.assemble(("Why", "bold"), (" – what there is to say of some of them", "dim"))
        for group in by_key(reasons, lambda one: (one.rules[0], one.basis, _sort(one))):
            yield _reason(group)
        yield Text()
    if explanation.asides:
        yield Text.assemble(("No kernel", "bold"), (" – nothing is launched for these", "dim"))
        yield from _asides(explanation, every=every)
        yield Text()
    yield from (Text(note, "yellow") for note in explanation.notes)


def _table(kernels: Sequence[Kernel], total: int, share: str) -> Table:
    names = ("Count", "Kernel", "Type", share, "Basis", "Rule", "First at")
    table = columns(*names, right=("Count", share))
    for (rule, kind, dtype), found in grouped(kernels):
        cells = (kind, dtype, share_of(found, total), found[0].basis.value, rule)
        table.add_row(str(len(found)), *cells, Text(found[0].head, "dim"))
    return table


def _entry(kernel: Kernel, total: int) -> RenderableType:
    words = (kernel.kind, kernel.dtype, share_of([kernel], total), kernel.basis.value)
    head = Text.assemble(", ".join(filter(None, words)), (f"  {' '.join(kernel.rules)}", "dim"))
    inside = [name for name in kernel.nodes if name not in kernel.folded]
    lines = [Text(" → ".join(inside or kernel.nodes), "dim")]
    if kernel.folded:
        lines.append(Text(f"with {', '.join(kernel.folded)}", "dim"))
    if kernel.reason:
        lines.append(Text(kernel.reason))
    return hanging(Text(f"{kernel.rules[0]:>5}", "bold"), Group(head, *lines))


def _reason(kernels: Sequence[Kernel]) -> RenderableType:
    first = kernels[0]
    where = "at" if len(kernels) == 1 else "first at"
    text = Text.assemble(f"{first.kind}: {first.reason}", (f", {where} {first.head}", "dim"))
    return hanging(Text.assemble(f"{len(kernels):>5}  ", (first.rules[0], "bold")), text)


def _sort(kernel: Kernel) -> str:
    """A reason without the names in it."""
    return "'".join(kernel.reason.split("'")[::2])


def _asides(explanation: Explanation, *, every: bool) -> Iterator[RenderableType]:
    if every:
        for one in explanation.asides:
            yield hanging(
                Text(f"{one.rule:>5}", "bold"), Text(f"{one.kind}: {', '.join(one.nodes)}")
            )
        return
    counts: Counter[tuple[str, str]] = Counter()
    for one in explanation.asides:
        counts[one.rule, one.kind] += len(one.nodes)
    for (rule, kind), count in counts.items():
        yield Text.assemble(f"{count:>5}  ", (rule, "bold"), f"  {kind}")
