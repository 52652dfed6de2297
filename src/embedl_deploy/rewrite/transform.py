"""The two stages in one place: conversions, then fusions."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from torch import fx

from embedl_deploy.errors import PatternError, PlanError
from embedl_deploy.patterns import Pattern, Stage
from embedl_deploy.rewrite.apply import fuse
from embedl_deploy.rewrite.convert import run_conversions
from embedl_deploy.rewrite.coverage import coverage
from embedl_deploy.rewrite.draft import Draft
from embedl_deploy.rewrite.find import Finder
from embedl_deploy.rewrite.leftovers import leftovers
from embedl_deploy.rewrite.plan import Match, Refusal, Result, summary
from embedl_deploy.table import Printed
from embedl_deploy.target import Patterns, Target, remember


@dataclass(repr=False)
class TransformationPlan(Printed):
    """What the patterns would do to a model. Set `apply = False` on a match to leave it out.

    Attributes:
        matches: Conversions in the order of application, then fusions in graph order.
        refusals: What was declined, with reasons.
        target: What it is for.
    """

    matches: tuple[Match, ...]
    refusals: tuple[Refusal, ...]
    target: Target
    _captured: fx.GraphModule = field(repr=False)
    _patterns: tuple[Pattern, ...] = field(repr=False)
    _converted: Draft | None = field(repr=False)

    def _parts(self) -> Sequence[str]:
        return summary(self.matches, self.refusals)

    def _brief(self) -> str:
        count = len(self.matches)
        return f"{count} match{'' if count == 1 else 'es'}, {len(self.refusals)} refused"


def find_plan(
    captured: fx.GraphModule, target: Target, patterns: tuple[Pattern, ...]
) -> TransformationPlan:
    """Find what `patterns` would do to a captured graph.

    Raises:
        PatternError: One of them cannot work.
    """
    return _find(captured, target, patterns, frozenset())


def apply_transformation_plan(plan: TransformationPlan) -> Result:
    """Apply those matches of a plan whose `apply` is set.

    Where a conversion is switched off, the fusions are found anew: they may differ from those
    that the plan lists.

    Raises:
        PlanError: The plan was applied before; its modules belong to that result.
        PatternError: A pattern builds something that cannot stand in a graph.
    """
    if plan._converted is None:  # noqa: SLF001 - the plan is of this module
        raise PlanError("this plan was applied before; get a new one for a second result")
    off = frozenset(key for key, match in _keyed(plan.matches) if not match.apply)
    if any(not match.apply and match.pattern.stage is Stage.CONVERSION for match in plan.matches):
        plan_now = _find(plan._captured, plan.target, plan._patterns, off)  # noqa: SLF001
    else:
        plan_now = plan
    draft = plan_now._converted  # noqa: SLF001
    plan._converted = None  # noqa: SLF001
    assert draft is not None  # noqa: S101 - checked above; a new plan has one
    return _fuse_all(draft, plan_now, off)


def instances(patterns: Patterns) -> tuple[Pattern, ...]:
    """Patterns that are given as classes or instances, as instances.

    Raises:
        PatternError: The list holds something else.
    """
    if isinstance(patterns, str) or not isinstance(patterns, Sequence):
        raise PatternError(f"patterns is a {type(patterns).__name__}; pass a list or a tuple")
    for one in patterns:
        kind = one if isinstance(one, type) else type(one)
        if not issubclass(kind, Pattern) or not hasattr(kind, "tree"):
            raise PatternError(f"{one!r} in the list of patterns is no Pattern with a tree")
    return tuple(one() if isinstance(one, type) else one for one in patterns)


def _find(
    captured: fx.GraphModule,
    target: Target,
    patterns: tuple[Pattern, ...],
    off: frozenset[tuple[str, ...]],
) -> TransformationPlan:
    conversions = [pattern for pattern in patterns if pattern.stage is Stage.CONVERSION]
    fusions = [pattern for pattern in patterns if pattern.stage is Stage.FUSION]
    draft = Draft.of(captured)
    converted, declined = run_conversions(draft, conversions, off)
    finder = Finder(draft)
    found = finder.sweep(fusions)
    refusals = (*declined, *finder.refusals)
    return TransformationPlan((*converted, *found), refusals, target, captured, patterns, draft)


def _keyed(matches: Sequence[Match]) -> Iterator[tuple[tuple[str, ...], Match]]:
    """Matches with what tells each from all others: one of a shared module also its number."""
    seen: Counter[tuple[str, ...]] = Counter()
    for match in matches:
        number = seen[match.key]
        seen[match.key] += 1
        yield (*match.key, str(number)) if number else match.key, match


def _fuse_all(draft: Draft, plan: TransformationPlan, off: frozenset[tuple[str, ...]]) -> Result:
    applied = tuple(match for key, match in _keyed(plan.matches) if key not in off)
    finder, calls = Finder(draft), draft.calls()
    bound = [
        (match, finder.arguments(match)) for match in applied if match.pattern.stage is Stage.FUSION
    ]
    left_out = [match for key, match in _keyed(plan.matches) if key in off]
    refusals = (*plan.refusals, *_switched_off(left_out))
    fused = {node for match, _ in bound for node in match.binding.all_nodes()}
    left = leftovers(draft, fused, refusals, plan._patterns)  # noqa: SLF001
    covered = coverage(draft.graph.nodes, fused, draft.objects, left)
    for match, arguments in bound:
        fuse(draft, match, arguments, calls)
    unfused = tuple(one for one in left if one.weighted)
    model = draft.finish()
    remember(model, plan.target)
    return Result(model, applied, refusals, plan.target, covered, unfused)


def _switched_off(matches: Sequence[Match]) -> Iterator[Refusal]:
    for match in matches:
        for path in match.operations:
            yield Refusal(match.pattern.name, path, "switched off in the plan")
