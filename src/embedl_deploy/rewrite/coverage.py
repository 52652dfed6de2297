"""How much of a model's arithmetic ended in fused modules, and where the rest is."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import fx

from embedl_deploy.graph.paths import node_path
from embedl_deploy.rewrite.arithmetic import function_name, multiply_accumulates
from embedl_deploy.rewrite.table import table

NO_PATTERN = "no pattern has it at this place"


@dataclass(frozen=True)
class Uncovered:
    """An operation that multiplies and is in no fused module.

    Attributes:
        path: Its module path, or the name of the call within its module's.
        kind: Class of the module, or name of the function.
        multiply_accumulates: How many it takes.
        reason: Why no pattern took it.
    """

    path: str
    kind: str
    multiply_accumulates: int
    reason: str


@dataclass(frozen=True)
class Coverage:
    """Multiply-accumulates of a model, from the shapes of its example inputs.

    Attributes:
        total: Of convolutions, linear and recurrent layers, attention and matrix products.
        fused: Of those in fused modules.
        rest: What is in none, the largest first.
    """

    total: int
    fused: int
    rest: tuple[Uncovered, ...] = ()

    @property
    def share(self) -> float:
        """The fused share, between 0 and 1; 1 for a model that multiplies nothing."""
        return self.fused / self.total if self.total else 1.0

    def grouped(self) -> tuple[tuple[float, Uncovered], ...]:
        """Shares of the rest by kind and reason, each with its largest operation."""
        first: dict[tuple[str, str], Uncovered] = {}
        sums: dict[tuple[str, str], int] = {}
        for one in self.rest:
            key = (one.kind, one.reason)
            first.setdefault(key, one)
            sums[key] = sums.get(key, 0) + one.multiply_accumulates
        ordered = sorted(sums, key=lambda key: -sums[key])
        return tuple((sums[key] / self.total, first[key]) for key in ordered)

    def __str__(self) -> str:
        head = f"{self.share:.1%} of {self.total / 1e9:.3g} G multiply-accumulates are fused"
        rows = [(f"{share:.2%}", one.kind, one.path, one.reason) for share, one in self.grouped()]
        rest = table(("Not fused", "In", "Largest at", "Reason"), rows)
        return f"{head}\n\n{rest}" if rest else head


def coverage(
    nodes: Iterable[fx.Node],
    fused: Iterable[fx.Node],
    objects: Mapping[str, Any],
    reasons: Mapping[str, str],
) -> Coverage | None:
    """The coverage of a graph before its matches are applied; `None` where shapes are not known.

    Args:
        nodes: All nodes.
        fused: Those in a fusion.
        objects: The modules, parameters and buffers that the nodes' targets name.
        reasons: Why patterns declined, by path.
    """
    inside = set(fused)
    counts = {node: multiply_accumulates(node, objects) for node in nodes}
    known = {node: count for node, count in counts.items() if count}
    if None in counts.values():
        return None
    rest = [
        Uncovered(path, _kind(node, objects), count, reasons.get(path, NO_PATTERN))
        for node, count in known.items()
        if node not in inside and (path := node_path(node))
    ]
    total = sum(known.values())
    left = sum(one.multiply_accumulates for one in rest)
    ordered = sorted(rest, key=lambda one: -one.multiply_accumulates)
    return Coverage(total, total - left, tuple(ordered))


def _kind(node: fx.Node, objects: Mapping[str, Any]) -> str:
    if node.op == "call_module":
        return type(objects[str(node.target)]).__name__
    return function_name(node)
