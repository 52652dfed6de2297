"""What ended in no fused module, and why."""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace

from torch import fx, nn
from torch.nn.utils import parametrize

from embedl_deploy.graph.dead import is_opaque
from embedl_deploy.graph.paths import node_path
from embedl_deploy.modules import FusedModule
from embedl_deploy.patterns import Pattern
from embedl_deploy.patterns.parts import operations
from embedl_deploy.rewrite.arithmetic import multiply_accumulates
from embedl_deploy.rewrite.coverage import Unfused
from embedl_deploy.rewrite.draft import Draft
from embedl_deploy.rewrite.near import around_softmax
from embedl_deploy.rewrite.plan import Refusal


def leftovers(
    draft: Draft,
    fused: AbstractSet[fx.Node],
    refusals: Sequence[Refusal],
    patterns: Sequence[Pattern],
) -> tuple[Unfused, ...]:
    """Operations with parameters or multiply-accumulates that no fusion took, the largest first.

    Args:
        draft: The graph before its fusions are applied.
        fused: Nodes in a fusion.
        refusals: All that was declined.
        patterns: All that was looked for.
    """
    reasons = _Reasons(draft, refusals, patterns)
    found: dict[str, Unfused] = {}
    for node in draft.graph.nodes:
        module = draft.objects.get(str(node.target)) if node.op == "call_module" else None
        if node in fused or node.op == "get_attr" or isinstance(module, FusedModule):
            continue
        macs = multiply_accumulates(node, module)
        weighted = isinstance(module, nn.Module) and next(module.parameters(), None) is not None
        if not weighted and not macs:
            continue
        path, kind = node_path(node), _kind(node, module)
        one = Unfused(path, kind, reasons.of(node, path, kind), macs, weighted=weighted)
        found[path] = _together(found[path], one) if path in found else one
    return tuple(sorted(found.values(), key=lambda one: -(one.macs or 0)))


def _kind(node: fx.Node, module: object) -> str:
    if module is not None:
        return type(module).__name__
    return str(getattr(node.target, "__name__", node.target))


def _together(one: Unfused, other: Unfused) -> Unfused:
    """Two calls of one module."""
    known = one.macs is not None and other.macs is not None
    return replace(one, macs=(one.macs or 0) + (other.macs or 0) if known else None)


class _Reasons:
    """Why no pattern took a node."""

    def __init__(
        self, draft: Draft, refusals: Sequence[Refusal], patterns: Sequence[Pattern]
    ) -> None:
        self._draft = draft
        texts = [(one, f"{one.pattern}: {one.reason}") for one in reversed(refusals)]
        self._declined = {path: text for one, text in texts for path in one.operations}
        self._declined |= {one.path: text for one, text in texts}
        trees = [pattern.tree for pattern in patterns]
        self._known = {kind for tree in trees for one in operations(tree) for kind in one.kinds}

    def of(self, node: fx.Node, path: str, kind: str) -> str:
        if path in self._declined:
            return self._declined[path]
        module = self._draft.objects.get(path) if node.op == "call_module" else None
        match module:
            case nn.Embedding() | nn.EmbeddingBag():
                return "a look-up in a table multiplies nothing"
            case nn.RNNBase() | nn.modules.rnn.RNNCellBase():
                return "a recurrent layer stays whole; no pattern describes a kernel of it"
            case None:
                return self._function(node, kind)
        if parametrize.is_parametrized(module):
            return (
                f"a {kind} computes its weight whenever it runs; call eval() before, and it is "
                "computed at capture, or torch.nn.utils.parametrize.remove_parametrizations()"
            )
        if type(module) not in self._known:
            return f"no pattern in the list has a {kind}"
        sources = node.all_input_nodes
        before = f"after '{node_path(sources[0])}'" if sources else "without an input"
        return f"no pattern in the list has a {kind} {before}"

    def _function(self, node: fx.Node, kind: str) -> str:
        if is_opaque(node):
            return f"tracing does not look into '{kind}' (torch.fx.wrap); method='export' does"
        tensors = [one for one in node.all_input_nodes if one.op == "get_attr"]
        if tensors:
            return f"it multiplies with '{tensors[0].target}', a tensor outside any layer"
        if names := around_softmax(node, self._draft.objects):
            between = ", ".join(f"'{name}'" for name in names)
            return f"two products around a softmax are no attention with {between} between them"
        return f"no pattern in the list has a {kind} of computed tensors"
