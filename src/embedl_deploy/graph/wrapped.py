"""Functions that `torch.fx.wrap` hides from tracing, looked into.

Each is traced once more. Where one computes products, as attention in windows, whose code follows
from sizes, those that no batch changes are numbers: as with `torch.export`, the graph holds for
those of the example. Else all sizes stay values, and a function that asks for one stays a call.
"""

import operator
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree
from torch.utils.flop_counter import FlopCounterMode

from embedl_deploy.batches import device_of
from embedl_deploy.errors import CaptureError
from embedl_deploy.graph.chance import no_chance
from embedl_deploy.graph.dead import is_opaque
from embedl_deploy.graph.interpreter import plain
from embedl_deploy.graph.proxies import ValueProxy
from embedl_deploy.graph.shapes import empty, propagate, run
from embedl_deploy.graph.sizes import Form, add_check
from embedl_deploy.graph.tracer import Tracer

_TIMES = 64
"""How many times larger the second batch is: what both give alike depends on no batch."""

Values = tuple[Any, Any]
"""What a node gives for the examples and for the larger batch, its tensors without memory."""


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
                inner = _SizedTracer(node, values, numbers=numbers).traced(root, known[node])
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


def _has_tensors(tree: Any) -> bool:
    return any(isinstance(one, Tensor) for one in pytree.tree_leaves(tree))


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


class _SizedTracer(Tracer):
    """Traces one call of a function.

    Args:
        call: The call.
        values: What each of its inputs gives.
        numbers: Whether sizes that no batch changes are numbers: the graph holds for these alone.
    """

    def __init__(self, call: fx.Node, values: list[Values], *, numbers: bool) -> None:
        kinds = {f"input_{at}": type(value) for at, (value, _) in enumerate(values)}
        super().__init__(kinds=kinds)
        self._call = call
        self._functions = (call.target,)  # type: ignore[assignment]
        self._inputs = values
        self._values: dict[fx.Node, Values] = {}
        self._numbers = numbers

    def traced(self, root: nn.Module, result: Values) -> fx.Graph:
        """The graph of the call, whose result has the sizes that are known of it.

        Raises:
            Exception: The function asks for more than sizes.
        """
        graph = self.trace(root)
        (output,) = graph.find_nodes(op="output")
        if not _has_tensors(result) and len(graph.nodes) > len(self._inputs) + 1:
            raise TypeError(f"'{self._call}' may be there for what it writes")
        for which, expected in enumerate(result):
            given = fx.map_arg(output.args[0], partial(self._given_at, which))
            if _forms(given) != _forms(expected):
                raise TypeError(f"'{self._call}' gives {given} where it is traced, not {expected}")
        return graph

    def create_args_for_root(
        self,
        root_fn: Callable[..., Any],
        is_module: bool,  # noqa: FBT001
        concrete_args: Any = None,
    ) -> tuple[Callable[..., Any], list[Any]]:
        """Placeholders for the inputs of the call; those that no batch changes are known."""
        given = {node: self._input(at) for at, node in enumerate(self._call.all_input_nodes)}
        args, kwargs = fx.node.map_arg((self._call.args, self._call.kwargs), given.__getitem__)
        function: Any = self._call.target
        return lambda _: function(*plain(args), **plain(kwargs)), [self.root]

    def _input(self, at: int) -> Any:
        proxy = self.create_proxy("placeholder", f"input_{at}", (), {})
        self._values[proxy.node] = one, other = self._inputs[at]
        return proxy if _has_tensors(one) or one != other or not self._numbers else one

    def proxy(self, node: fx.Node) -> fx.Proxy:
        """The stand-in for a value while the function runs."""
        return _SizedProxy(node, self)

    def rank(self, proxy: "_SizedProxy") -> int:
        """How many dimensions a tensor has."""
        one, other = (len(value.shape) for value in self._given(proxy.node))
        if one != other:
            raise TypeError(f"the rank of '{proxy.node}' depends on the batch")
        return one

    def size(self, proxy: "_SizedProxy", dim: int) -> Any:
        """A size of a tensor."""
        one, other = (value.shape[dim] for value in self._given(proxy.node))
        if one != other or not self._numbers:
            return self.create_proxy("call_method", "size", (proxy, dim % self.rank(proxy)), {})
        return one

    def like(self, proxy: "_SizedProxy") -> Tensor:
        """An empty tensor of the type of a value, where the model is."""
        return torch.empty((), dtype=self._given(proxy.node)[0].dtype, device=device_of(self.root))

    def _given_at(self, which: int, node: fx.Node) -> Any:
        return self._given(node)[which]

    def _given(self, node: fx.Node) -> Values:
        """What a node gives; computed when it is asked for."""
        pending = [node]
        while pending:
            needed = pending[-1]
            open_inputs = [one for one in needed.all_input_nodes if one not in self._values]
            if open_inputs and needed not in self._values:
                pending += open_inputs
                continue
            pending.pop()
            if needed not in self._values:
                self._values[needed] = self._computed(needed, 0), self._computed(needed, 1)
        return self._values[node]

    def _computed(self, node: fx.Node, which: int) -> Any:
        if node.op == "get_attr":
            return empty(self._own[str(node.target)])
        given = {one: self._values[one][which] for one in node.all_input_nodes}
        args, kwargs = fx.map_arg((node.args, node.kwargs), given.__getitem__)
        return run(node, args, kwargs)


def _forms(tree: Any) -> list[Any]:
    leaves = pytree.tree_leaves(tree)
    return [(one.shape, one.dtype) if isinstance(one, Tensor) else one for one in leaves]


class _SizedProxy(ValueProxy):
    """A value in a function of which the shape pass knows the sizes."""

    tracer: _SizedTracer

    @property
    def shape(self) -> tuple[Any, ...]:
        """See `torch.Tensor.shape`."""
        return tuple(self.size(dim) for dim in range(self.dim()))

    @property
    def dtype(self) -> torch.dtype:
        """See `torch.Tensor.dtype`."""
        return self.tracer.like(self).dtype

    ndim = property(lambda self: self.dim(), doc="See `torch.Tensor.ndim`.")

    def size(self, dim: int | None = None) -> Any:
        """See `torch.Tensor.size`."""
        return self.shape if dim is None else self.tracer.size(self, dim)

    def dim(self) -> int:
        """See `torch.Tensor.dim`."""
        return self.tracer.rank(self)

    def new_zeros(self, *size: Any, **options: Any) -> Any:
        """See `torch.Tensor.new_zeros`; a constant where no batch changes its size."""
        return self._new("new_zeros", size, options)

    def new_ones(self, *size: Any, **options: Any) -> Any:
        """See `torch.Tensor.new_ones`."""
        return self._new("new_ones", size, options)

    def new_full(self, *size: Any, **options: Any) -> Any:
        """See `torch.Tensor.new_full`."""
        return self._new("new_full", size, options)

    def _new(self, method: str, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        if any(isinstance(one, fx.Proxy) for one in pytree.tree_leaves((args, options))):
            return self.tracer.create_proxy("call_method", method, (self, *args), options)
        return getattr(self.tracer.like(self), method)(*args, **options)

    def __len__(self) -> int:
        return int(self.size(0))
