"""Tracing one call of a hidden function whose inputs have known sizes."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from embedl_deploy.batches import device_of
from embedl_deploy.graph.interpreter import plain
from embedl_deploy.graph.proxies import ValueProxy
from embedl_deploy.graph.shapes import empty, run
from embedl_deploy.graph.tracer import Tracer

Values = tuple[Any, Any]
"""What a node gives for the examples and for the larger batch, its tensors without memory."""


class SizedTracer(Tracer):
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

    tracer: SizedTracer

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


def _has_tensors(tree: Any) -> bool:
    return any(isinstance(one, Tensor) for one in pytree.tree_leaves(tree))
