"""What a compiler made of a file, for the terminal."""

from collections.abc import Iterator, Sequence

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from embedl_deploy.report.blocks import columns
from embedl_deploy.table import percent
from embedl_deploy.tensorrt import Compilation, Fate, Layer, Product, Remark, Severity
from embedl_deploy.tensorrt.engine.compilation import grouped_products

_STYLES = {Fate.LOST: "red", Fate.UNSEEN: "yellow", Fate.KEPT: "green", Fate.MERGED: "green"}


def compilation_tables(
    compilation: Compilation, *, every: bool = False
) -> Iterator[RenderableType]:
    """What the compiler said, what became of the products, and in one line the rest.

    Args:
        compilation: From `compile_onnx`.
        every: Whether to list each product and layer by itself.
    """
    for remark in compilation.remarks:
        yield _said(remark)
    groups = list(grouped_products(compilation.products).values())
    if every:
        groups = [[one] for group in groups for one in group]
    if groups:
        yield _products(groups)
        yield Text()
    if every and compilation.layers:
        yield _layers(compilation.kernels)
        yield Text()
    yield Text(compilation.summary, "" if compilation.built else "red")
    if line := estimate_line(compilation):
        yield Text(line, "dim")
    if compilation.engine is not None:
        yield Text(f"wrote {compilation.engine}", "dim")


def estimate_line(compilation: Compilation) -> str:
    """The estimated time and what it rests on; empty where there is none."""
    time = compilation.estimate() if compilation.gpu else None
    if time is None:
        return ""
    return (
        f"estimate: {time.microseconds:.0f} µs, of which {time.launches:.0f} µs are launches; "
        f"{time.assumptions}"
    )


def gpu_table(compilations: Sequence[Compilation]) -> Table:
    """Several compilations of one file beside each other."""
    table = columns("GPU", "Kernels", "MB moved", "Lost", "Attention", "Arithmetic", "Estimate")
    for one in compilations:
        table.add_row(one.gpu or "at hand", *compilation_figures(one))
    return table


def compilation_figures(compilation: Compilation) -> tuple[str, str, str, str, str, str]:
    """Kernels, MB moved, products lost, attention kernels, arithmetic and estimate."""
    one = compilation
    if not one.built:
        return ("not built", "", "", "", "", "")
    time = one.estimate() if one.gpu else None
    shares = [f"{percent(share)} {dtype}" for dtype, share in one.shares.items()]
    shares += [f"{len(one.uncounted)} not counted"] if one.uncounted else []
    whole = sum(1 for attention in one.attentions if attention.reads)
    return (
        str(len(one.kernels)),
        "" if one.bytes is None else f"{one.bytes / 1e6:.1f}",
        str(len(one.lost)),
        f"{whole} of {len(one.attentions)}" if one.attentions else "",
        ", ".join(shares),
        "" if time is None else f"{time.microseconds:.0f} µs",
    )


def _said(remark: Remark) -> Text:
    style = "red" if remark.severity is Severity.ERROR else "yellow"
    count = f" ({remark.count} times)" if remark.count > 1 else ""
    place = f" at {remark.node}" if remark.node else ""
    return Text.assemble((remark.severity.value, style), f"{place}: {remark.message}{count}")


def _products(groups: Sequence[Sequence[Product]]) -> Table:
    table = columns("Count", "Product", "Simulated", "Computed", "First at", "Why")
    for group in groups:
        one = group[0]
        fate = Text(one.fate.value, _STYLES.get(one.fate, ""))
        place = Text(one.node, "dim")
        table.add_row(str(len(group)), fate, one.simulated, one.computed, place, one.reason)
    return table


def _layers(layers: Sequence[Layer]) -> Table:
    table = columns("Layer", "Reads", "Gives", "MMAC", "kB", "Operators")
    for one in layers:
        macs = f"{one.macs / 1e6:.1f} {one.computes}" if one.macs else ""
        macs = "not known" if one.macs is None else macs
        moved = "" if one.bytes is None else f"{one.bytes / 1e3:.1f}"
        nodes = Text(", ".join(one.nodes), "dim")
        table.add_row(one.kind, "/".join(one.reads), "/".join(one.gives), macs, moved, nodes)
    return table
