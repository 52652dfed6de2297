"""Conversions, applied until none fits."""

from collections import deque
from collections.abc import Sequence
from collections.abc import Set as AbstractSet

from torch import fx

from embedl_deploy.errors import PatternError
from embedl_deploy.graph.proxies import is_size
from embedl_deploy.patterns import Pattern
from embedl_deploy.rewrite.apply import convert
from embedl_deploy.rewrite.draft import Draft
from embedl_deploy.rewrite.find import Finder
from embedl_deploy.rewrite.matcher import keys
from embedl_deploy.rewrite.plan import Match, Refusal
from embedl_deploy.rewrite.variants import variants

_TRAIL_LIMIT = 64
"""How many conversions in a row may work on what the one before made."""


def run_conversions(
    draft: Draft,
    patterns: Sequence[Pattern],
    switched_off: AbstractSet[tuple[str, ...]] = frozenset(),
) -> tuple[tuple[Match, ...], tuple[Refusal, ...]]:
    """Apply conversions to a fixed point, on a worklist.

    A conversion puts the nodes it made, and those that use them, back on the list.

    Raises:
        PatternError: Conversions undo each other; names them.
    """
    if not patterns:
        return (), ()
    return _Worklist(draft, patterns, switched_off).run()


class _Worklist:
    def __init__(
        self, draft: Draft, patterns: Sequence[Pattern], switched_off: AbstractSet[tuple[str, ...]]
    ) -> None:
        self.draft = draft
        self.patterns = patterns
        self.switched_off = switched_off
        self.finder = Finder(draft)
        self.roots = {key for pattern in patterns for key in root_kinds(pattern)}
        self.pending = deque(node for node in draft.graph.nodes if self._may_match(node))
        self.queued = set(self.pending)
        self.dead: set[fx.Node] = set()
        self.calls = draft.calls()
        self.trails: dict[fx.Node, tuple[str, ...]] = {}
        self.done: list[Match] = []

    def run(self) -> tuple[tuple[Match, ...], tuple[Refusal, ...]]:
        while self.pending:
            node = self.pending.popleft()
            self.queued.discard(node)
            if node not in self.dead:
                self._visit(node)
        self.finder.explain(self.patterns)
        return tuple(self.done), self.finder.refusals

    def _visit(self, node: fx.Node) -> None:
        for pattern in self.patterns:
            match = self.finder.at(pattern, node)
            if match is None or match.key in self.switched_off:
                continue
            self.done.append(match)
            self._apply(match)
            return

    def _apply(self, match: Match) -> None:
        old = match.binding.all_nodes()
        trail = (*self._trail(old), match.pattern.name)
        _check_trail(trail, match)
        sources = [source for node in old for source in node.all_input_nodes]
        new = convert(self.draft, match, self.finder.arguments(match), self.calls)
        self.dead.update(old)
        self._drop_sizes(sources)
        for node in new:
            self.trails[node] = trail
            for touched in (node, *node.users):
                self._push(touched)

    def _drop_sizes(self, pending: list[fx.Node]) -> None:
        """Erase sizes and types that nothing reads any more: they would count as uses."""
        while pending:
            node = pending.pop()
            if node in self.dead or node.users or not is_size(node):
                continue
            pending += node.all_input_nodes
            self.draft.graph.erase_node(node)
            self.dead.add(node)

    def _trail(self, nodes: Sequence[fx.Node]) -> tuple[str, ...]:
        """The conversions that led here; with each of the model's own nodes it begins anew."""
        if any(node not in self.trails for node in nodes):
            return ()
        return max((self.trails[node] for node in nodes), key=len)

    def _push(self, node: fx.Node) -> None:
        """Put a node in front, so that what never ends shows before the graph has grown."""
        if node not in self.queued and self._may_match(node):
            self.pending.appendleft(node)
            self.queued.add(node)

    def _may_match(self, node: fx.Node) -> bool:
        return not self.roots.isdisjoint(keys(node, self.draft.objects))


def _check_trail(trail: tuple[str, ...], match: Match) -> None:
    if len(trail) <= _TRAIL_LIMIT:
        return
    names = sorted(set(trail[-8:]))
    if len(names) == 1:
        why = f"{names[0]} matches what it makes; let it refuse that"
    else:
        why = f"{' and '.join(names)} undo each other; leave one of them out of the list"
    raise PatternError(f"conversions at '{match.path}' never end: {why}")


def root_kinds(pattern: Pattern) -> set[object]:
    """What the last operation of a pattern's tree may be."""
    return {kind for variant in variants(pattern.tree) for kind in variant.root.op.kinds}
