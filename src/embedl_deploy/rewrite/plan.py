"""What was found, what was declined, and what came out."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import fx

from embedl_deploy.modules import FusedModule, QDQPoint
from embedl_deploy.patterns import Pattern, Stage
from embedl_deploy.rewrite.coverage import NO_PATTERN, Coverage
from embedl_deploy.rewrite.matcher import Binding
from embedl_deploy.rewrite.table import table


@dataclass
class Match:
    """A pattern found at a place in the graph.

    Attributes:
        pattern: The pattern.
        path: Module path of the first operation that has one, in the source model.
        operations: Paths of all its operations, in order.
        apply: Set to `False` before the plan is applied to leave the operations as they are.
    """

    pattern: Pattern
    path: str
    operations: tuple[str, ...]
    binding: Binding = field(repr=False)
    apply: bool = True

    @property
    def qdq_points(self) -> tuple[QDQPoint, ...]:
        """Where the pattern declares quantization."""
        return tuple(self.pattern.qdq_points)

    @property
    def key(self) -> tuple[str, ...]:
        """What the match is, in words; matches of one shared module have the same."""
        return (self.pattern.name, *self.operations)


@dataclass(frozen=True)
class Refusal:
    """A place where a tree fits and the pattern declines.

    Attributes:
        pattern: Name of the pattern.
        path: Module path of the first operation that has one.
        reason: Why.
    """

    pattern: str
    path: str
    reason: str


@dataclass(frozen=True)
class Unfused:
    """An operation with parameters that no match took.

    Attributes:
        path: Its module path.
        kind: Name of its class.
        reason: Why no pattern took it.
    """

    path: str
    kind: str
    reason: str


@dataclass(frozen=True)
class Result:
    """A transformed model and how it came about.

    Attributes:
        model: The graph, with fused modules in place of the operations they combine.
        matches: What was applied: conversions in the order of application, then fusions.
        refusals: What was declined, with reasons.
        coverage: How much of the arithmetic is in fused modules; `None` without example inputs.
    """

    model: fx.GraphModule
    matches: tuple[Match, ...]
    refusals: tuple[Refusal, ...]
    coverage: Coverage | None = None

    @property
    def fused(self) -> Counter[str]:
        """How many fused modules of each kind the model has."""
        modules = self.model.modules()
        return Counter(
            type(module).__name__ for module in modules if isinstance(module, FusedModule)
        )

    @property
    def unfused(self) -> tuple[Unfused, ...]:
        """Operations with parameters that are in no fused module, with the reason."""
        return unfused(self.model, self.refusals)

    def __str__(self) -> str:
        tables = summary(self.matches, self.refusals, self.unfused)
        return tables if self.coverage is None else f"{tables}\n\n{self.coverage}"


def unfused(model: fx.GraphModule, refusals: Sequence[Refusal]) -> tuple[Unfused, ...]:
    """Operations of a graph that have parameters and are in no fused module."""
    modules = dict(model.named_modules())
    why = reasons(refusals)
    found: dict[str, Unfused] = {}
    for node in model.graph.nodes:
        path = str(node.target)
        if node.op != "call_module" or isinstance(modules.get(path), FusedModule | None):
            continue
        if next(modules[path].parameters(), None) is None:
            continue
        kind = type(modules[path]).__name__
        found[path] = Unfused(path, kind, why.get(path, NO_PATTERN))
    return tuple(found.values())


def reasons(refusals: Sequence[Refusal]) -> dict[str, str]:
    """Which pattern declined and why, by path."""
    return {one.path: f"{one.pattern}: {one.reason}" for one in refusals}


def summary(
    matches: Sequence[Match], refusals: Sequence[Refusal], left: Sequence[Unfused] = ()
) -> str:
    """Matches, refusals and leftovers as tables."""
    parts = [_matches_table(matches, stage) for stage in Stage]
    if refusals:
        counted = Counter(_kind(refusal) for refusal in refusals)
        first = {_kind(refusal): refusal for refusal in reversed(refusals)}
        kinds = [(first[kind], count) for kind, count in counted.items()]
        rows = [(one.pattern, one.path, str(count), one.reason) for one, count in kinds]
        parts.append(table(("Refused pattern", "First at", "Count", "Reason at the first"), rows))
    if left:
        counts = Counter((one.kind, one.reason) for one in left)
        places = {(one.kind, one.reason): one.path for one in reversed(left)}
        rows = [(kind, places[kind, why], str(n), why) for (kind, why), n in counts.items()]
        parts.append(table(("Left as it is", "First at", "Count", "Reason"), rows))
    return "\n\n".join(part for part in parts if part)


def _kind(refusal: Refusal) -> tuple[str, str]:
    """Refusals whose reasons differ in numbers alone are of one kind."""
    return refusal.pattern, re.sub(r"\d+", "0", refusal.reason)


def _matches_table(matches: Sequence[Match], stage: Stage) -> str:
    mine = [match for match in matches if match.pattern.stage is stage]
    if not mine:
        return ""
    counts = Counter((match.pattern.name, match.apply) for match in mine)
    first = {(match.pattern.name, match.apply): match for match in reversed(mine)}
    rows = [
        (name, first[name, on].path, str(count), _points(first[name, on]), "" if on else "off")
        for (name, on), count in counts.items()
    ]
    title = "Conversion" if stage is Stage.CONVERSION else "Fusion"
    return table((title, "First at", "Count", "Q/DQ points", ""), rows)


def _points(match: Match) -> str:
    return ", ".join(point.name for point in match.qdq_points)
