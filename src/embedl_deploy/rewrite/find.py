"""Finding matches in a draft."""

import inspect
import operator
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import fx

from embedl_deploy.errors import PatternError
from embedl_deploy.graph.paths import node_path
from embedl_deploy.graph.tracer import is_hooked
from embedl_deploy.patterns import Pattern
from embedl_deploy.patterns.parts import names, operations
from embedl_deploy.patterns.tree import Op, Value
from embedl_deploy.rewrite.draft import Draft
from embedl_deploy.rewrite.matcher import Binding, Matcher, Slot, escapes, keys, seen
from embedl_deploy.rewrite.plan import Match, Refusal
from embedl_deploy.rewrite.variants import Step, Variant, variants


class Finder:
    """Finds matches in a draft; work is linear in the number of nodes.

    Args:
        draft: The graph, which is only read.
    """

    def __init__(self, draft: Draft) -> None:
        self._draft = draft
        self._matcher = Matcher(draft.objects, _depths(draft.graph))
        self._claimed: set[fx.Node] = set()
        self._refused: dict[tuple[str, fx.Node, str], Refusal] = {}
        self._fitted: set[fx.Node] = set()
        self._variants: dict[int, tuple[Pattern, tuple[Variant, ...]]] = {}

    @property
    def refusals(self) -> tuple[Refusal, ...]:
        """Everything that was declined so far."""
        return tuple(self._refused.values())

    def sweep(self, patterns: Sequence[Pattern]) -> tuple[Match, ...]:
        """All matches without overlap: patterns in their order, longest variants first."""
        order = {node: index for index, node in enumerate(self._draft.graph.nodes)}
        index = defaultdict(list)
        for node in order:
            for key in keys(node, self._draft.objects):
                index[key].append(node)
        found = [
            match
            for pattern in patterns
            for variant in variants(pattern.tree)
            for node in _candidates(variant, index, order)
            if (match := self._claim(pattern, variant, node))
        ]
        self.explain(patterns)
        return tuple(sorted(found, key=lambda match: order[match.binding.all_nodes()[0]]))

    def explain(self, patterns: Sequence[Pattern]) -> None:
        """Refuse operations that fit no tree because all uses of their value are outside it."""
        for pattern in patterns:
            escaping = [one for one in operations(pattern.tree) if one.escape]
            for node in self._draft.graph.nodes if escaping else ():
                if node in self._fitted:
                    continue
                for operation in escaping:
                    self._explain(pattern, operation, node)

    def _explain(self, pattern: Pattern, operation: Op, node: fx.Node) -> None:
        if operation.escape and self._matcher.fits(operation, node):
            refusal = Refusal(pattern.name, node_path(node), operation.escape)
            self._refused[pattern.name, node, refusal.reason] = refusal

    def at(self, pattern: Pattern, node: fx.Node) -> Match | None:
        """A match of `pattern` whose last operation is `node`."""
        follows: dict[int, bool] = {}
        for variant in self._variants_of(pattern):
            spine = id(variant.spine)
            if spine not in follows:
                follows[spine] = self._matcher.follows(variant.spine, node)
            if follows[spine] and (match := self._try(pattern, variant, node)):
                return match
        return None

    def _variants_of(self, pattern: Pattern) -> tuple[Variant, ...]:
        """The variants of a pattern, without going through its tree each time."""
        if id(pattern) not in self._variants:
            self._variants[id(pattern)] = (pattern, variants(pattern.tree))
        return self._variants[id(pattern)][1]

    def _claim(self, pattern: Pattern, variant: Variant, node: fx.Node) -> Match | None:
        match = None if node in self._claimed else self._try(pattern, variant, node)
        if match is not None:
            self._claimed.update(match.binding.all_nodes())
        return match

    def _try(self, pattern: Pattern, variant: Variant, node: fx.Node) -> Match | None:
        declined: list[Refusal] = []
        for binding in self._matcher.match(variant, node):
            if not self._claimed.isdisjoint(binding.all_nodes()):
                continue
            self._fitted.update(binding.all_nodes())
            match = Match(pattern, self._path(binding), self._paths(binding), binding)
            reason = self._reason(variant, match)
            if reason is None:
                match.kept_float = self._ask(match, pattern.keep_float) or ""
                return match
            declined.append(Refusal(pattern.name, match.path, reason, match.operations))
        for refusal in declined:
            self._refused[pattern.name, node, refusal.reason] = refusal
        return None

    def _reason(self, variant: Variant, match: Match) -> str | None:
        """Why a match cannot be used, if it cannot."""
        binding = match.binding
        hooked = self._hook_reason(binding)
        refused = self._escape_reason(variant, binding) or hooked
        return refused or self._ask(match, match.pattern.refuse)

    def _hook_reason(self, binding: Binding) -> str | None:
        """A fused kernel runs no Python code; a hook could change what it computes."""
        nodes = [node for node in binding.all_nodes() if node.op == "call_module"]
        hooked = [node for node in nodes if is_hooked(self._draft.module(node))]
        if not hooked:
            return None
        remedy = (
            "remove them from the model before, or call eval() where they prune or norm weights"
        )
        return f"'{node_path(hooked[0])}' has hooks; {remedy}"

    def _ask(self, match: Match, method: Callable[..., str | None]) -> str | None:
        reason: str | None = call(match.pattern, method, self.arguments(match))
        return reason

    def arguments(self, match: Match) -> dict[str, Any]:
        """What a pattern's methods may take: the bound operations, and the site."""
        bound: dict[str, Any] = dict.fromkeys(names(match.pattern.tree))
        for name, found in match.binding.nodes.items():
            if isinstance(found, tuple):
                bound[name] = tuple(map(self._matcher.bound, found))
            else:
                bound[name] = self._matcher.bound(found)
        for name, node in match.binding.tensors.items():
            bound[name] = self._matcher.tensor(node)
        bound["site"] = NodeSite(self._draft, match.binding)
        return bound

    def _escape_reason(self, variant: Variant, binding: Binding) -> str | None:
        escaped = escapes(binding)
        if not escaped:
            return None
        named = {node: name for name, node in binding.nodes.items() if isinstance(node, fx.Node)}
        name = named.get(escaped[0], "")
        own = _escape_text(variant.root, name)
        if own is not None:
            return own
        inside = set(binding.all_nodes())
        others = [str(user) for user in escaped[0].users if user not in inside]
        what = f"the output of its {name or 'operation'} '{node_path(escaped[0])}'"
        where = f"also used by '{others[0]}'" if others else "used twice"
        return f"{what} is {where}"

    def _path(self, binding: Binding) -> str:
        modules = [node for node in binding.all_nodes() if node.op == "call_module"]
        return node_path(modules[0] if modules else binding.all_nodes()[0])

    def _paths(self, binding: Binding) -> tuple[str, ...]:
        return tuple(node_path(node) for node in binding.all_nodes())


class NodeSite:
    """Where a match is; see `embedl_deploy.patterns.Site`."""

    def __init__(self, draft: Draft, binding: Binding) -> None:
        self._draft = draft
        self._nodes = binding.nodes
        self._inputs = binding.inputs

    def path(self, name: str) -> str:
        """See `Site.path`."""
        return node_path(self._node(name))

    def input_shape(self, name: str, index: int = 0) -> tuple[int | None, ...] | None:
        """See `Site.input_shape`."""
        source = self._node(name).args[index]
        return self._draft.facts.of(source) if isinstance(source, fx.Node) else None

    def value(self, name: str) -> Value:
        """See `Site.value`."""
        node = self._read(name)
        known = seen(node)
        if isinstance(known, Value) and known.shape is None:
            return Value(self._draft.facts.of(node))
        return known if isinstance(known, Value) else Value(())

    def is_constant(self, name: str) -> bool:
        """See `Site.is_constant`."""
        return self._draft.is_constant(self._read(name))

    def is_unpacked(self, name: str) -> bool:
        """See `Site.is_unpacked`."""
        return all(
            user.target is operator.getitem and type(user.args[1]) is int
            for user in self._node(name).users
        )

    def is_shared(self, name: str) -> bool:
        """See `Site.is_shared`."""
        return self._draft.is_shared(self._draft.module(self._node(name)))

    def _read(self, name: str) -> fx.Node:
        """The value of an operation or a hole."""
        slot = self._inputs.get(name)
        found: fx.Node = slot.read() if isinstance(slot, Slot) else self._node(name)
        return found

    def _node(self, name: str) -> fx.Node:
        found = self._nodes[name]
        if isinstance(found, fx.Node):
            return found
        raise PatternError(f"'{name}' is a run of operations; ask for one that is bound alone")


def call(pattern: Pattern, method: Callable[..., Any], bound: Mapping[str, Any]) -> Any:
    """Call a pattern's method with those of the bound names that it takes.

    Raises:
        PatternError: It takes one that this match has not.
    """
    parameters = inspect.signature(method).parameters
    if any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters.values()):
        return method(**bound)
    try:
        return method(**{name: bound[name] for name in parameters if name in bound})
    except TypeError as error:
        raise PatternError(f"{pattern.name}.{method.__name__}(): {error}") from error


def _candidates(
    variant: Variant, index: Mapping[Any, list[fx.Node]], order: Mapping[fx.Node, int]
) -> list[fx.Node]:
    kinds = variant.root.op.kinds
    if len(kinds) == 1:
        return index.get(kinds[0], [])
    return sorted({node for kind in kinds for node in index.get(kind, ())}, key=order.__getitem__)


def _escape_text(step: Any, name: str) -> str | None:
    if not isinstance(step, Step):
        return None
    if step.op.name == name and step.op.escape:
        return step.op.escape
    texts = (_escape_text(source, name) for source in step.sources)
    return next((text for text in texts if text), None)


def _depths(graph: fx.Graph) -> dict[fx.Node, int]:
    depths: dict[fx.Node, int] = {}
    for node in graph.nodes:
        depths[node] = 1 + max((depths[source] for source in node.all_input_nodes), default=-1)
    return depths
