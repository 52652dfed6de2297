"""Functions that `torch.fx.wrap` hides from tracing, looked into.

Each is traced once more. Where one computes products, as attention in windows, whose code follows
from sizes, those that no batch changes are numbers: as with `torch.export`, the graph holds for
those of the example. Else all sizes stay values, and a function that asks for one stays a call.
"""

import operator
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree
from torch.utils.flop_counter import FlopCounterMode

from embedl_deploy.errors import CaptureError
from embedl_deploy.graph.chance import no_chance
from embedl_deploy.graph.dead import is_opaque
from embedl_deploy.graph.interpreter import plain
from embedl_deploy.graph.shapes import empty, propagate, run
from embedl_deploy.graph.sized import SizedTracer, Values
from embedl_deploy.graph.sizes import Form, add_check

_TIMES = 64
"""How many times larger the second batch is: what both give alike depends on no batch."""


def hidden(graph: fx.Graph, whole: Collection[Any] = ()) -> list[fx.Node]:
    """Calls of functions that tracing did not look into and that take values.

    Args:
        graph: A graph.
        whole: Functions, or their qualified names, that are to stay one call.
    """
    calls = [node for node in graph.nodes if is_opaque(node) and node.all_input_nodes]
    return [node for node in calls if not _is_one(node, whole)]


def look_into(
    root: nn.Module, traced: fx.Graph, inputs: Any, whole: Collection[Any] = ()
) -> fx.Graph:
    """The graph with what hidden functions do in it; one that cannot be traced stays a call.

    Args:
        root: What was traced; it gets the constants that the functions make.
        traced: The traced graph, which stays as it is.
        inputs: Example inputs, and those by name.
        whole: Functions, or their qualified names, that are to stay one call.
    """
    if not hidden(traced, whole):
        return traced
    graph = fx.Graph()
    graph.output(graph.graph_copy(traced, {}))
    known = _known(root, graph, inputs)
    calls = [one for one in hidden(graph, whole) if one in known and one.users]
    numbers, opened = any(_multiplies(node, known) for node in calls), False
    for node in calls:
        values, before = [known[one] for one in node.all_input_nodes], {*vars(root)}
        try:
            with _unwrapped(), no_chance():
                inner = SizedTracer(node, values, numbers=numbers).traced(root, known[node])
        except Exception:  # noqa: BLE001 - a function may ask anything of its values
            for constant in vars(root).keys() - before:
                delattr(root, constant)
            continue
        _splice(graph, node, inner, known)
        opened = True
    if opened and numbers:
        _check_inputs(graph, known)
    return graph


def _check_inputs(graph: fx.Graph, known: dict[fx.Node, Values]) -> None:
    """Let the graph hold for inputs with what no batch changes of those of the example."""
    inputs = graph.find_nodes(op="placeholder")
    with graph.inserting_after(inputs[-1]):
        for node in inputs:
            leaves = zip(*map(pytree.tree_leaves, known[node]), strict=True)
            add_check(graph, node.name, node, [_form(*pair) for pair in leaves])


def _form(one: Any, other: Any) -> Form:
    """What a leaf is in each batch."""
    if isinstance(one, Tensor):
        sizes = zip(one.shape, other.shape, strict=True)
        return tuple(size if size == grown else None for size, grown in sizes)
    return one if one == other else None


def _multiplies(node: fx.Node, known: dict[fx.Node, Values]) -> bool:
    """Whether a call computes products, as torch counts them."""
    args, kwargs = fx.map_arg((node.args, node.kwargs), lambda one: known[one][0])
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        run(node, plain(args), plain(kwargs))
    return counter.get_total_flops() > 0


@contextmanager
def _unwrapped() -> Iterator[None]:
    """While this holds, functions that a traced one calls are traced as well."""
    wrapped = fx._symbolic_trace._wrapped_fns_to_patch  # noqa: SLF001 - torch has no public way
    before = dict(wrapped)
    wrapped.clear()
    try:
        yield
    finally:
        wrapped.update(before)


def _known(root: nn.Module, graph: fx.Graph, inputs: Any) -> dict[fx.Node, Values]:
    """What each node gives; nothing where the model does not take another batch."""
    module = fx.GraphModule(root, graph)  # it may hold a copy of the graph
    found = []
    for one in (inputs, _larger(inputs)):
        try:
            propagate(module, *empty(one))
        except CaptureError:
            return {}
        found.append([node.meta.pop("val", None) for node in module.graph.nodes])
    return dict(zip(graph.nodes, zip(*found, strict=True), strict=True))


def _is_one(node: fx.Node, whole: Collection[Any]) -> bool:
    target: Any = node.target
    return target in whole or f"{target.__module__}.{target.__qualname__}" in whole


def _larger(inputs: Any) -> Any:
    """Inputs of a larger batch: those that have as many rows as the first tensor."""
    tensors = [one for one in pytree.tree_leaves(inputs) if isinstance(one, Tensor)]
    rows = tensors[0].shape[:1] if tensors else torch.Size()

    def grown(tensor: Tensor) -> Tensor:
        if not rows or tensor.shape[:1] != rows:
            return tensor
        return tensor.new_empty((rows[0] * _TIMES, *tensor.shape[1:]))

    return pytree.tree_map_only(Tensor, grown, inputs)


def _splice(graph: fx.Graph, node: fx.Node, inner: fx.Graph, known: dict[fx.Node, Values]) -> None:
    """Put the nodes of a call's graph in its place; what they give is known then as well."""
    inputs = (one for one in inner.nodes if one.op == "placeholder")
    values = dict(zip(inputs, node.all_input_nodes, strict=True))
    with graph.inserting_before(node):
        for one in inner.nodes:
            if one.op not in {"placeholder", "output"}:
                values[one] = graph.node_copy(one, values.__getitem__)
                values[one].meta = dict(node.meta)
    (output,) = inner.find_nodes(op="output")
    result = fx.map_arg(output.args[0], values.__getitem__)
    replaced = {node: result}
    if not isinstance(result, fx.Node):
        items = [one for one in node.users if one.target is operator.getitem]
        replaced = {one: result[one.args[1]] for one in items} | replaced
    for old, new in replaced.items():
        old.replace_all_uses_with(new)
        graph.erase_node(old)
        if isinstance(new, fx.Node):
            known[new] = known[old]
