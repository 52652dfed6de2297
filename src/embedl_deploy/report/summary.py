"""A transform result in groups and figures, as plain data."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import fx

from embedl_deploy.graph.sizes import check_input
from embedl_deploy.modules import FusedModule
from embedl_deploy.patterns import Stage
from embedl_deploy.quantize import QuantStub, WeightFakeQuantize
from embedl_deploy.rewrite import Coverage, Refusal, Result, Unfused


@dataclass(frozen=True)
class Rewritten:
    """A match that was applied.

    Attributes:
        pattern: Name of the pattern.
        path: Module path of its first operation.
        kind: Class of the fused module; empty for a conversion.
        operations: Paths of all its operations, in order.
        qdq_points: Names of the declared Q/DQ points.
        kept_float: Why nothing is quantized there although its pattern declares points; else empty.
    """

    pattern: str
    path: str
    kind: str
    operations: tuple[str, ...]
    qdq_points: tuple[str, ...]
    kept_float: str = ""


@dataclass(frozen=True)
class Declined:
    """A place where a tree fits and the pattern declined.

    Attributes:
        pattern: Name of the pattern.
        path: Module path of its first operation.
        reason: Why.
        instead: The pattern that took the first operation; empty where none did.
    """

    pattern: str
    path: str
    reason: str
    instead: str


@dataclass(frozen=True)
class Other:
    """Operations of one kind that stay as they are.

    Attributes:
        kind: Name of the module class or function.
        count: How many there are.
        weighted: Whether they read parameters of the model.
    """

    kind: str
    count: int
    weighted: bool


@dataclass(frozen=True)
class Summary:
    """What became of a model.

    Attributes:
        conversions: In the order of application.
        fusions: In graph order.
        declined: With reasons.
        unfused: Layers with weights that are in no fused module.
        left: The same and the products of other operations, the largest first.
        others: All other operations, most frequent first.
        coverage: The share of the arithmetic that is fused; `None` where shapes are not known.
    """

    conversions: tuple[Rewritten, ...]
    fusions: tuple[Rewritten, ...]
    declined: tuple[Declined, ...]
    unfused: tuple[Unfused, ...]
    left: tuple[Unfused, ...]
    others: tuple[Other, ...]
    coverage: Coverage | None

    @property
    def fused(self) -> dict[str, int]:
        """How many fused modules of each kind there are, most frequent first."""
        return dict(Counter(one.kind for one in self.fusions).most_common())

    @property
    def weighted(self) -> int:
        """How many operations with weights are in no fused module."""
        return len(self.unfused) + sum(one.count for one in self.others if one.weighted)

    def as_dict(self) -> dict[str, Any]:
        """All of it for JSON."""
        values = {"fused": self.fused, **asdict(self)}
        del values["left"]  # what multiplies stands with the coverage
        if self.coverage is not None:
            values["coverage"]["share"] = self.coverage.share
        return values


def summarize(result: Result) -> Summary:
    """The summary of a transform result."""
    rewritten = _rewritten(result)
    fusions = [one for one in rewritten if one.kind]
    return Summary(
        conversions=tuple(one for one in rewritten if not one.kind),
        fusions=tuple(fusions),
        declined=_declined(result.refusals, rewritten),
        unfused=result.unfused,
        left=result.left,
        others=_others(result.model),
        coverage=result.coverage,
    )


def quantizers(model: fx.GraphModule) -> tuple[int, int]:
    """How many tensors and how many weights of a model from `insert_qdq` are quantized."""
    kinds = Counter(type(module) for module in model.modules())
    return kinds[QuantStub], kinds[WeightFakeQuantize]


def _rewritten(result: Result) -> tuple[Rewritten, ...]:
    kinds = _kinds(result.model)
    return tuple(
        Rewritten(
            match.pattern.name,
            match.path,
            "" if match.pattern.stage is Stage.CONVERSION else kinds[match.path],
            match.operations,
            tuple(point.name for point in match.qdq_points),
            match.kept_float,
        )
        for match in result.matches
    )


def _kinds(model: fx.GraphModule) -> dict[str, str]:
    """Classes of the fused modules by path; where a path was taken, a number follows it."""
    fused = {path: type(one).__name__ for path, one in model.named_modules() if _is_fused(one)}
    numbered = {re.sub(r"_\d+$", "", path): kind for path, kind in fused.items()}
    return numbered | fused


def _is_fused(module: object) -> bool:
    return isinstance(module, FusedModule)


def _declined(refusals: Sequence[Refusal], rewritten: Sequence[Rewritten]) -> tuple[Declined, ...]:
    taken = {path: one.pattern for one in rewritten for path in one.operations}
    return tuple(
        Declined(one.pattern, one.path, one.reason, taken.get(one.path, "")) for one in refusals
    )


def _others(model: fx.GraphModule) -> tuple[Other, ...]:
    modules = dict(model.named_modules())
    parameters = {path for path, _ in model.named_parameters(remove_duplicate=False)}
    found: Counter[tuple[str, bool]] = Counter()
    for node in model.graph.nodes:
        reads = any(str(source.target) in parameters for source in node.all_input_nodes)
        match node.op:
            case "call_module" if not _is_layer(modules[str(node.target)]):
                found[type(modules[str(node.target)]).__name__, reads] += 1
            case "call_function" | "call_method" if node.target is not check_input:
                found[getattr(node.target, "__name__", str(node.target)), reads] += 1
    return tuple(Other(kind, count, reads) for (kind, reads), count in found.most_common())


def _is_layer(module: Any) -> bool:
    """Whether it is in another list: a fused module, or a layer with weights."""
    return _is_fused(module) or next(module.parameters(), None) is not None
