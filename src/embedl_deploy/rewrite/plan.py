"""What was found, what was declined, and what came out."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import fx

from embedl_deploy.modules import FusedModule, QDQPoint
from embedl_deploy.patterns import Pattern, Stage
from embedl_deploy.rewrite.coverage import Coverage, Unfused
from embedl_deploy.rewrite.matcher import Binding
from embedl_deploy.table import Printed, amount, percent, table
from embedl_deploy.target import Target


@dataclass
class Match:
    """A pattern found at a place in the graph.

    Attributes:
        pattern: The pattern.
        path: Module path of the first operation that has one, in the source model.
        operations: Paths of all its operations, in order.
        apply: Set to `False` before the plan is applied to leave the operations as they are.
        kept_float: Why nothing is quantized there although the pattern declares points; empty where
            it is.
    """

    pattern: Pattern
    path: str
    operations: tuple[str, ...]
    binding: Binding = field(repr=False)
    apply: bool = True
    kept_float: str = ""

    @property
    def qdq_points(self) -> tuple[QDQPoint, ...]:
        """Where the pattern declares quantization; nowhere for a match kept in floating point."""
        return () if self.kept_float else tuple(self.pattern.qdq_points)

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
        operations: Paths of all its operations, where the whole tree fits.
    """

    pattern: str
    path: str
    reason: str
    operations: tuple[str, ...] = ()


@dataclass(frozen=True, repr=False)
class Result(Printed):
    """A transformed model and how it came about.

    Attributes:
        model: The graph, with fused modules in place of the operations they combine.
        matches: What was applied: conversions in the order of application, then fusions.
        refusals: What was declined, with reasons.
        target: What it was transformed for.
        coverage: How much of the arithmetic is in fused modules; `None` without example inputs.
        unfused: Operations with parameters that are in no fused module, with the reason.
    """

    model: fx.GraphModule
    matches: tuple[Match, ...]
    refusals: tuple[Refusal, ...]
    target: Target
    coverage: Coverage | None = None
    unfused: tuple[Unfused, ...] = ()

    @property
    def fused(self) -> Counter[str]:
        """How many fused modules of each kind the model has."""
        modules = self.model.modules()
        return Counter(
            type(module).__name__ for module in modules if isinstance(module, FusedModule)
        )

    @property
    def left(self) -> tuple[Unfused, ...]:
        """What the coverage lacks, then what else has parameters and is in no fused module."""
        products = () if self.coverage is None else self.coverage.rest
        return (*products, *(one for one in self.unfused if one not in products))

    def _parts(self) -> Sequence[str]:
        covered = "" if self.coverage is None else str(self.coverage)
        return (*summary(self.matches, self.refusals, self.left), covered)

    def _brief(self) -> str:
        count = self.fused.total()
        share = (
            "" if self.coverage is None else f", {percent(self.coverage.share)} of the arithmetic"
        )
        return f"{count} fused module{'' if count == 1 else 's'}{share}"


def summary(
    matches: Sequence[Match], refusals: Sequence[Refusal], left: Sequence[Unfused] = ()
) -> Sequence[str]:
    """Matches, refusals and leftovers as tables; an empty one has no rows."""
    parts = [_matches_table(matches, stage) for stage in Stage]
    if refusals:
        counted = Counter(_kind(refusal) for refusal in refusals)
        first = {_kind(refusal): refusal for refusal in reversed(refusals)}
        kinds = [(first[kind], count) for kind, count in counted.items()]
        rows = [(one.pattern, one.path, str(count), one.reason) for one, count in kinds]
        parts.append(table(("Refused pattern", "First at", "Count", "Reason at the first"), rows))
    if left:
        parts.append(_left_table(left))
    return parts


def _left_table(left: Sequence[Unfused]) -> str:
    groups: dict[tuple[str, str], list[Unfused]] = {}
    for one in left:
        groups.setdefault((one.kind, without_names(one.reason)), []).append(one)
    rows = [
        (
            group[0].kind,
            group[0].path,
            str(len(group)),
            _macs(group),
            group[0].reason,
        )
        for group in groups.values()
    ]
    header = ("Left as it is", "First at", "Count", "MACs", "Reason at the first")
    return table(header, rows)


def _macs(group: Sequence[Unfused]) -> str:
    known = [one.macs for one in group if one.macs is not None]
    return amount(sum(known)) if len(known) == len(group) else ""


def without_names(text: str) -> str:
    """A text that is the same for reasons that differ in numbers and names of places alone."""
    return re.sub(r"\d+", "0", re.sub(r"'[^']*'", "''", text))


def _kind(refusal: Refusal) -> tuple[str, str]:
    """Refusals whose reasons differ in numbers alone are of one kind."""
    return refusal.pattern, re.sub(r"\d+", "0", refusal.reason)


def _matches_table(matches: Sequence[Match], stage: Stage) -> str:
    mine = [match for match in matches if match.pattern.stage is stage]
    if not mine:
        return ""
    counts = Counter(_match_kind(match) for match in mine)
    first = {_match_kind(match): match for match in reversed(mine)}
    rows = [
        (one.pattern.name, one.path, str(counts[kind]), _points(one), _state(one))
        for kind in counts
        if (one := first[kind])
    ]
    title = "Conversion" if stage is Stage.CONVERSION else "Fusion"
    return table((title, "First at", "Count", "Q/DQ points", ""), rows)


def _match_kind(match: Match) -> tuple[str, bool, str]:
    return match.pattern.name, match.apply, without_names(match.kept_float)


def _state(match: Match) -> str:
    return match.kept_float if match.apply else "off"


def _points(match: Match) -> str:
    return ", ".join(point.name for point in match.qdq_points)
