"""What follows from sizes and stored tensors alone, such as positions and their encodings.

It is the same for every input of a size. Half precision would round each step on the way, has no
odd number above 2048 to count with, and a sine of an angle of 500 has no digit left.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from embedl_deploy.batches import device_of, moved
from embedl_deploy.export.integers import from_integers
from embedl_deploy.graph.aliases import VIEWS
from embedl_deploy.graph.interpreter import Interpreter
from embedl_deploy.graph.writes import called

_MAKERS = {"arange", "linspace", "logspace", "zeros", "ones", "full", "eye"}
_MADE_BY_INPUTS = {"new_full", "new_ones", "new_zeros"}
"""Makers of which an input gives the type alone."""
_CHANCE = {
    *("bernoulli", "multinomial", "normal", "rand", "rand_like", "randint", "randint_like"),
    *("randn", "randn_like", "randperm"),
}
_FACTS = {"shape", "device", "dtype", "ndim"}
_LAYOUT = VIEWS | {"cat", "clone", "concat", "flip", "repeat", "roll", "stack", "tile"}

Varies = Literal["nothing", "rows", "any"]
"""Which sizes of its inputs a file leaves open: none, the first of each, or others too."""


def from_sizes(model: fx.GraphModule) -> list[fx.Node]:
    """Functions that compute tensors from sizes or integers, and what they alone read of stored."""
    made, stored = _follow(model)
    found = made | dict.fromkeys(from_integers(model, made.keys() | stored.keys()))
    for node in reversed(stored):
        if node.users and found.keys() >= node.users.keys():
            found[node] = None
    return [*found]


def constants(model: fx.GraphModule, args: Sequence[Any], varies: Varies) -> list[str]:
    """Names of the nodes where a computation ends that gives the same for all inputs.

    Args:
        model: Folded.
        args: Example inputs.
        varies: Which sizes of the inputs vary.
    """
    made, _ = _follow(model)
    try:
        values = _values(model, args, {}, made) if made else {}
        others = _values(model, _more_rows(args), {}, made) if varies == "rows" else values
    except Exception:  # noqa: BLE001 - the exporter says why the model does not run
        return []
    fixed = {node for node in made if _same(values[node], others[node])}
    if varies == "any":
        fixed = {node for node in fixed if not _is_of_sizes(node)}
    ends = [node for node in fixed if any(user not in fixed for user in node.users)]
    return sorted(node.name for node in ends if isinstance(values[node], Tensor))


def store(
    model: fx.GraphModule, args: Sequence[Any], kwargs: Mapping[str, Any], names: Collection[str]
) -> None:
    """Put the values of the named nodes in their place, in the model's own type.

    Args:
        model: Folded; changed in place.
        args: Inputs by position, of sizes that the file takes.
        kwargs: Inputs by name.
        names: From `constants`.
    """
    nodes = [node for node in model.graph.nodes if node.name in set(names)]
    values = _values(model, args, kwargs, nodes) if nodes else {}
    for node, value in values.items():
        path = f"{node.name}_constant"
        model.register_buffer(path, value.clone())
        with model.graph.inserting_before(node):
            stored = model.graph.get_attr(path)
        stored.meta = dict(node.meta)
        node.replace_all_uses_with(stored)
    made, _ = _follow(model)
    for node in reversed(model.graph.nodes):
        if not node.users and (node in made or node in values or node.op == "get_attr"):
            model.graph.erase_node(node)
    model.recompile()


def _follow(model: fx.GraphModule) -> tuple[dict[fx.Node, None], dict[fx.Node, None]]:
    """Calls that compute tensors from sizes and stored tensors alone; and the stored tensors.

    What only moves the values of a stored tensor is still one: half precision rounds it the same.
    """
    sizes: set[fx.Node] = set()
    stored: dict[fx.Node, None] = {}
    made: dict[fx.Node, None] = {}
    for node in model.graph.nodes:
        known = [sizes, stored, made]
        name, inputs = called(node), _read(node)
        if _is_size(node):
            sizes.add(node)
        elif node.op == "get_attr":
            stored[node] = None
        elif node.op not in {"call_function", "call_method"} or name in _CHANCE:
            continue
        elif any(all(one not in some for some in known) for one in inputs):
            pass  # an input of the model is in it
        elif name in _MAKERS | _MADE_BY_INPUTS or any(one in made for one in inputs):
            made[node] = None
        elif any(one in stored for one in inputs):
            (stored if name in _LAYOUT else made)[node] = None
        elif inputs:
            sizes.add(node)
    return made, stored


def _read(node: fx.Node) -> list[fx.Node]:
    """What a node reads the values of, and not the type alone."""
    name = called(node)
    if name in {"to", "type_as"}:
        return node.all_input_nodes[:1]
    if name not in _MADE_BY_INPUTS:
        return node.all_input_nodes
    return [one for one in node.all_input_nodes if one is not node.args[0]]


class _Recorder(Interpreter):
    """Keeps the values of some nodes."""

    def __init__(self, model: fx.GraphModule, nodes: Collection[fx.Node]) -> None:
        super().__init__(model)
        self.values: dict[fx.Node, Any] = {}
        self._nodes = nodes

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n in self._nodes:
            self.values[n] = value
        return value


def _values(
    model: fx.GraphModule,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    nodes: Collection[fx.Node],
) -> dict[fx.Node, Any]:
    recorder = _Recorder(model, nodes)
    given, named = moved((tuple(args), dict(kwargs)), device_of(model))
    with torch.no_grad():
        recorder.run(*_in_order(model, given, named))
    return recorder.values


def _in_order(model: fx.GraphModule, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Any]:
    """The inputs by position, as a graph takes them that is run node by node."""
    rest = [node for node in model.graph.nodes if node.op == "placeholder"][len(args) :]
    given = [kwargs.get(str(node.target), node.args[0] if node.args else None) for node in rest]
    return [*args, *given]


def _more_rows(args: Sequence[Any]) -> Sequence[Any]:
    double = lambda one: torch.cat((one, one)) if one.dim() else one  # noqa: E731
    return [*pytree.tree_map_only(Tensor, double, list(args))]


def _is_of_sizes(node: fx.Node) -> bool:
    """Whether the size of an input is in a value."""
    pending, seen = [node], {node}
    while pending:
        one = pending.pop()
        if _is_size(one):
            return True
        new = [source for source in one.all_input_nodes if source not in seen]
        pending += new
        seen.update(new)
    return False


def _same(one: Any, other: Any) -> bool:
    if not isinstance(one, Tensor):
        return bool(type(one) is type(other))
    return isinstance(other, Tensor) and one.shape == other.shape and torch.equal(one, other)


def _is_size(node: fx.Node) -> bool:
    if node.op == "call_method":
        return node.target in {"size", "dim"}
    return node.op == "call_function" and node.target is getattr and node.args[1] in _FACTS
