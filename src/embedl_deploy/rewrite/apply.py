"""Applying matches to a draft."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from torch import fx, nn

from embedl_deploy.errors import PatternError
from embedl_deploy.graph.canonical import canonicalize
from embedl_deploy.graph.paths import join, node_path, parent
from embedl_deploy.graph.shapes import propagate_new, targets
from embedl_deploy.graph.tracer import trace_call
from embedl_deploy.modules import FusedModule
from embedl_deploy.modules.frozen import FrozenBatchNorm
from embedl_deploy.patterns import Pattern, parts
from embedl_deploy.rewrite.draft import Draft
from embedl_deploy.rewrite.find import call
from embedl_deploy.rewrite.matcher import Binding
from embedl_deploy.rewrite.plan import Match


def fuse(draft: Draft, match: Match, bound: Mapping[str, Any], calls: Counter[str]) -> None:
    """Replace the operations of a match by one call of the module that its pattern builds.

    Raises:
        PatternError: The pattern builds something that is no fused module, or one that has
            not the Q/DQ points it declares.
    """
    module = call(match.pattern, match.pattern.build, bound)
    _check_fused(match.pattern, module)
    module.qdq_points, module.kept_float = match.qdq_points, match.kept_float
    head, root = match.binding.all_nodes()[0], match.binding.all_nodes()[-1]
    _set_mode(module, _mode(draft, match.binding.all_nodes()), draft, match.binding)
    path = match.path
    if head.op != "call_module" or calls[path] > 1:
        path = draft.paths.fresh(path)
    args, kwargs = _arguments(match)
    with draft.graph.inserting_before(root):
        fused = draft.graph.call_module(path, args, kwargs)
    fused.meta = {"scope": parent(path)}
    if "val" in root.meta:
        fused.meta["val"] = root.meta["val"]
    draft.objects[path] = module
    _replace(draft.graph, match.binding, fused)


def convert(
    draft: Draft, match: Match, bound: Mapping[str, Any], calls: Counter[str]
) -> tuple[fx.Node, ...]:
    """Replace the operations of a match by those that the built module's `forward` makes.

    Returns:
        The new nodes, in order.
    """
    module: nn.Module = call(match.pattern, match.pattern.build, bound)
    if not isinstance(module, nn.Module):
        raise PatternError(f"{match.pattern.name}.build() returned {module!r}, which is no module")
    _set_mode(module, _mode(draft, match.binding.all_nodes()[::-1]), draft, match.binding)
    args, kwargs = _arguments(match)
    inputs = tuple(dict.fromkeys(_nodes((args, kwargs))))
    inner = canonicalize(module, trace_call(module, inputs, args, kwargs))
    root = match.binding.all_nodes()[-1]
    for path in match.operations:
        if calls[path] == 1:
            draft.paths.release(path)
    with draft.graph.inserting_before(root):
        new, output = _inline(draft, inner, inputs, _new_paths(match))
    propagate_new(draft.objects, new)
    _replace(draft.graph, match.binding, output)
    return new


def _check_fused(pattern: Pattern, module: object) -> None:
    if not isinstance(module, FusedModule):
        raise PatternError(
            f"{pattern.name}.build() returned a {type(module).__name__}; a fusion builds a "
            "subclass of embedl_deploy.patterns.FusedModule, which stays one node of the graph"
        )
    for point in pattern.qdq_points:
        if not module.has_point(point):
            raise PatternError(
                f"{pattern.name} declares QDQPoint.{point.name}, but forward() of "
                f"{type(module).__name__} has no argument '{point.value}'"
            )


def _set_mode(module: nn.Module, mode: bool, draft: Draft, binding: Binding) -> None:  # noqa: FBT001
    """Train or eval mode for what a pattern made; the model's own modules keep theirs."""
    matched = [draft.module(node) for node in binding.all_nodes() if node.op == "call_module"]
    own = {id(part) for one in matched for part in one.modules()}
    for part in module.modules():
        if id(part) not in own and not isinstance(part, FrozenBatchNorm):
            part.training = mode


def _mode(draft: Draft, nodes: Sequence[fx.Node]) -> bool:
    """The mode of the first of the modules, or of the module that makes the first call."""
    modules = [node for node in nodes if node.op == "call_module"]
    if modules:
        return draft.module(modules[0]).training
    return draft.mode(str(nodes[0].meta.get("scope", "")))


def _arguments(match: Match) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What the built module is called with, in the tree's order.

    These are the values of the holes, the arguments of a head that is a module, and of a head
    that is a function the values it takes: its constants and weights are in the `Call`. A hole
    of an alternative that is not there is `None`.
    """
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    heads = {operation.name for operation in parts.operations(match.pattern.tree)}
    for name in dict.fromkeys(parts.inputs(match.pattern.tree)):
        source = match.binding.inputs.get(name)
        if isinstance(source, fx.Node):
            args.extend(_head_arguments(source))
            kwargs.update(source.kwargs if source.op == "call_module" else {})
        elif name not in heads:
            args.append(source.read() if source else None)
    return tuple(args), kwargs


def _head_arguments(node: fx.Node) -> Sequence[Any]:
    if node.op == "call_module":
        return node.args
    return [one for one in _nodes((node.args, node.kwargs)) if one.op != "get_attr"]


def _nodes(arguments: Any) -> list[fx.Node]:
    found: list[fx.Node] = []

    def collect(node: fx.Node) -> fx.Node:
        found.append(node)
        return node

    fx.map_arg(arguments, collect)
    return found


def _replace(graph: fx.Graph, binding: Binding, output: fx.Node | None) -> None:
    nodes = binding.all_nodes()
    if output is not None:
        nodes[-1].replace_all_uses_with(output)
    for node in reversed(nodes):
        graph.erase_node(node)


def _new_paths(match: Match) -> dict[str, str]:
    """Paths that a conversion's children take over by their name, and its own under ''."""
    taken: dict[str, str] = {"": _base(match)}
    for name, found in match.binding.nodes.items():
        if isinstance(found, fx.Node):
            taken[name] = str(found.target) if found.op == "call_module" else ""
            continue
        for index, node in enumerate(found):
            taken[f"{name}_{index}"] = node_path(node)
    return {name: path for name, path in taken.items() if path or not name}


def _base(match: Match) -> str:
    head = match.binding.all_nodes()[0]
    return match.path if head.op == "call_module" else str(head.meta.get("scope", ""))


def _inline(
    draft: Draft, inner: fx.GraphModule, inputs: tuple[fx.Node, ...], paths: Mapping[str, str]
) -> tuple[tuple[fx.Node, ...], fx.Node | None]:
    """Copy the nodes of `inner`, whose placeholders are `inputs`."""
    values: dict[fx.Node, Any] = {}
    objects = targets(inner)
    placed: dict[str, str] = {}
    new: list[fx.Node] = []
    sources = iter(inputs)
    for node in inner.graph.nodes:
        if node.op == "placeholder":
            values[node] = next(sources)
        elif node.op == "output":
            return tuple(new), values.get(node.args[0])
        else:
            copied = draft.graph.node_copy(node, values.__getitem__)
            if node.op in {"call_module", "get_attr"}:
                copied.target = _place(draft, str(node.target), objects, placed, paths)
            copied.meta = {"scope": paths[""]}
            values[node] = copied
            new.append(copied)
    raise AssertionError("a graph has an output")


def _place(
    draft: Draft,
    name: str,
    objects: Mapping[str, Any],
    placed: dict[str, str],
    paths: Mapping[str, str],
) -> str:
    """The path in the draft of a child of a conversion's module."""
    if name not in placed:
        stem = paths.get(name) or join(paths[""], name)
        placed[name] = draft.paths.fresh(stem or type(objects[name]).__name__.lower())
        draft.objects[placed[name]] = objects[name]
    return placed[name]
