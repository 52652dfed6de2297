"""What follows from sizes and stored tensors alone, such as positions and their encodings.

It is the same for every input of a size. Half precision would round each step on the way, has no
odd number above 2048 to count with, and a sine of an angle of 500 has no digit left. A compiler may
leave a convolution or a matrix product of constants to every inference.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from embedl_deploy.batches import device_of, moved
from embedl_deploy.export.integers import from_integers
from embedl_deploy.graph.fixed import LAYOUT, fixed, is_of_sizes
from embedl_deploy.graph.interpreter import Interpreter
from embedl_deploy.graph.writes import called
from embedl_deploy.quantize import QuantStub

Varies = Literal["nothing", "rows", "any"]
"""Which sizes of its inputs a file leaves open: none, the first of each, or others too."""

_SLACK = 1 << 20
"""Bytes that a stored result may have more than the stored tensors that it follows from."""


def from_sizes(model: fx.GraphModule) -> list[fx.Node]:
    """Functions that compute tensors from sizes or integers, and what they alone read of stored."""
    known = fixed(model, QuantStub)
    made = {node: None for node, kind in known.items() if kind == "made"}
    stored = [node for node, kind in known.items() if kind == "stored"]
    found = made | dict.fromkeys(from_integers(model, made.keys() | {*stored}))
    for node in reversed(stored):
        if node.users and found.keys() >= node.users.keys():
            found[node] = None
    return [*found]


def constants(model: fx.GraphModule, args: Sequence[Any], varies: Varies) -> dict[str, int | None]:
    """The nodes where a computation ends that gives the same for all inputs.

    A result that is a MiB larger than the stored tensors that it follows from stays computed, as
    does one that only repeats values; what is before it may be named then.

    Args:
        model: Folded.
        args: Example inputs.
        varies: Which sizes of the inputs vary.

    Returns:
        By the name of a node the dimension of the batch, where all along it are alike and one is
        enough; else `None`.
    """
    known = {node: kind for node, kind in fixed(model, QuantStub).items() if kind != "size"}
    if varies == "any":
        known = {node: kind for node, kind in known.items() if not is_of_sizes(node)}
    made = [node for node, kind in known.items() if kind != "stored"]
    if not made:
        return {}
    try:
        values = _values(model, args, {}, known)
        others = values if varies == "any" else _of_more_rows(model, args, varies, values)
    except Exception:  # noqa: BLE001 - the exporter says why the model does not run
        return {}
    rows = _sized(model, args, {})
    along = {node: _along(values[node], others[node]) if rows else None for node in made}
    made = [
        node
        for node in made
        if along[node] is not None
        or _same(values[node], others[node])
        or (varies == "nothing" and is_of_sizes(node))
    ]
    if varies == "nothing":
        along = {node: dim if _is_long(values[node], dim) else None for node, dim in along.items()}
    alike = {node: _one(value, along.get(node)) for node, value in values.items()}
    return {node.name: along[node] for node in _ends(model, made, alike)}


def store(
    model: fx.GraphModule,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    names: Mapping[str, int | None],
) -> None:
    """Put the values of the named nodes in their place, in the model's own type.

    Args:
        model: Folded; changed in place.
        args: Inputs by position, of sizes that the file takes.
        kwargs: Inputs by name.
        names: From `constants`.
    """
    nodes = [node for node in model.graph.nodes if node.name in names]
    values = _values(model, args, kwargs, nodes) if nodes else {}
    for node, value in values.items():
        path, dim = f"{node.name}_constant", names[node.name]
        model.register_buffer(path, _one(value, dim).clone())
        with model.graph.inserting_before(node):
            stored = model.graph.get_attr(path)
            stored.meta = {**node.meta, "val": _one(node.meta.get("val"), dim)}
            if dim is not None:
                stored = _repeated(model, stored, value, dim, _sized(model, args, kwargs))
                stored.meta = dict(node.meta)
        node.replace_all_uses_with(stored)
    if not values:
        return
    known = fixed(model, QuantStub)
    for node in reversed(model.graph.nodes):
        if not node.users and node in known:
            model.graph.erase_node(node)
    model.delete_all_unused_submodules()
    model.recompile()


def _repeated(
    model: fx.GraphModule, stored: fx.Node, value: Tensor, dim: int, given: fx.Node | None
) -> fx.Node:
    """A row as often as a batch has rows."""
    rows = model.graph.call_method("size", (given, 0))
    rows.meta["val"] = value.shape[dim]
    sizes = [rows if one == dim else -1 for one in range(value.dim())]
    return model.graph.call_method("expand", (stored, *sizes))


def _ends(
    model: fx.GraphModule, places: Sequence[fx.Node], values: Mapping[fx.Node, Any]
) -> list[fx.Node]:
    """Where computations end, or the last that is not much larger than what it follows from."""
    modules, inner = dict(model.named_modules(remove_duplicate=False)), {*places}
    pending = [node for node in places if any(user not in inner for user in node.users)]
    seen, found = {*pending}, []
    while pending:
        node = pending.pop()
        size = _bytes([values[node]])
        repeats = called(node) in LAYOUT and size > _bytes(map(values.get, node.all_input_nodes))
        sources = _sources(node, values, modules)
        if isinstance(values[node], Tensor) and not repeats and size <= _bytes(sources) + _SLACK:
            found.append(node)
            continue
        new = [one for one in node.all_input_nodes if one in inner and one not in seen]
        pending += new
        seen.update(new)
    return sorted(found, key=lambda node: node.name)


def _sources(
    node: fx.Node, values: Mapping[fx.Node, Any], modules: Mapping[str, nn.Module]
) -> list[Tensor]:
    """The stored tensors that a value follows from."""
    found: dict[int, Tensor] = {}
    pending, seen = [node], {node}
    while pending:
        one = pending.pop()
        stored = [values[one]] if one.op == "get_attr" else []
        if one.op == "call_module":
            stored = [*modules[str(one.target)].state_dict(keep_vars=True).values()]
        found |= {id(tensor): tensor for tensor in stored}
        new = [source for source in one.all_input_nodes if source in values and source not in seen]
        pending += new
        seen.update(new)
    return [*found.values()]


def _bytes(values: Iterable[Any]) -> int:
    return sum(one.nbytes for one in values if isinstance(one, Tensor))


class _Recorder(Interpreter):
    """Computes the values of some nodes, and what they need."""

    def __init__(self, model: fx.GraphModule, nodes: Collection[fx.Node]) -> None:
        super().__init__(model)
        self.values: dict[fx.Node, Any] = {}
        self._nodes = nodes
        self._needed = {*nodes}
        for node in reversed(model.graph.nodes):
            if node in self._needed:
                self._needed.update(node.all_input_nodes)

    def run_node(self, n: fx.Node) -> Any:
        if n.op != "placeholder" and n not in self._needed:
            return None
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


def _of_more_rows(
    model: fx.GraphModule, args: Sequence[Any], varies: Varies, values: Mapping[fx.Node, Any]
) -> Mapping[fx.Node, Any]:
    """The values for twice the batch; the same ones for a model that takes no other batch."""
    double = lambda one: torch.cat((one, one)) if one.dim() else one  # noqa: E731
    try:
        return _values(model, pytree.tree_map_only(Tensor, double, [*args]), {}, values)
    except Exception:
        if varies == "rows":
            raise
        return values


def _in_order(model: fx.GraphModule, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Any]:
    """The inputs by position, as a graph takes them that is run node by node."""
    rest = _inputs(model)[len(args) :]
    given = [kwargs.get(str(node.target), node.args[0] if node.args else None) for node in rest]
    return [*args, *given]


def _inputs(model: fx.GraphModule) -> list[fx.Node]:
    return [node for node in model.graph.nodes if node.op == "placeholder"]


def _sized(model: fx.GraphModule, args: Sequence[Any], kwargs: Mapping[str, Any]) -> fx.Node | None:
    """The first input whose first size is that of the batch; `None` where there is none."""
    pairs = zip(_inputs(model), _in_order(model, tuple(args), kwargs), strict=False)
    return next((node for node, one in pairs if isinstance(one, Tensor) and one.dim()), None)


def _along(one: Any, other: Any) -> int | None:
    """The dimension that has grown with the batch, where a value is the same all along it."""
    if not isinstance(one, Tensor) or not isinstance(other, Tensor) or one.dim() != other.dim():
        return None
    grown = [dim for dim in range(one.dim()) if one.shape[dim] != other.shape[dim]]
    if len(grown) != 1 or other.shape[grown[0]] != 2 * one.shape[grown[0]]:
        return None
    (dim,) = grown
    return dim if torch.equal(_one(one, dim).expand_as(other), other) else None


def _is_long(value: Any, dim: int | None) -> bool:
    return dim is not None and value.shape[dim] > 1


def _one(value: Any, dim: int | None) -> Any:
    """The first of those that are alike along a dimension."""
    return value.narrow(dim, 0, 1) if isinstance(value, Tensor) and dim is not None else value


def _same(one: Any, other: Any) -> bool:
    if not isinstance(one, Tensor):
        return bool(type(one) is type(other))
    return isinstance(other, Tensor) and one.shape == other.shape and torch.equal(one, other)
