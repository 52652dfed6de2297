"""Modules kept whole while `torch.export` looks through the rest.

`torch.export` turns a model into ATen operations, a `Conv2d` like everything else. While it
runs, the modules that symbolic tracing keeps as one node are called through an opaque operator,
which computes only shapes. Afterwards each of its calls is that of a module again, with
the arguments the model gave it. So both ways of capture see the same modules.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from embedl_deploy.graph.tracer import plain_base

_HOLE = object()
"""Stands in a recorded argument or result for a tensor."""

_KEEPS_SHAPE = frozenset(
    {
        nn.BatchNorm1d,
        nn.BatchNorm2d,
        nn.BatchNorm3d,
        nn.Dropout,
        nn.ELU,
        nn.GELU,
        nn.Hardsigmoid,
        nn.Hardswish,
        nn.LeakyReLU,
        nn.ReLU,
        nn.ReLU6,
        nn.SiLU,
        nn.Sigmoid,
        nn.Tanh,
    }
)
"""Modules that give a floating-point tensor as they take it: in shape, type and layout."""


@dataclass
class LeafCall:
    """One call of a module: its arguments with holes for tensors, and the form of its result."""

    path: str
    forward: Callable[..., Any]
    leaves: list[Any]
    spec: pytree.TreeSpec
    result: list[Any] = field(default_factory=list)
    result_spec: pytree.TreeSpec | None = None

    def arguments(self, tensors: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments with `tensors`, or nodes, in the holes."""
        args, kwargs = _filled(self.leaves, tensors, self.spec)
        return args, kwargs

    def run(self, tensors: list[Tensor]) -> list[Tensor]:
        """Call the module on fake tensors; the tensors of its result, none of them an input."""
        args, kwargs = self.arguments(tensors)
        leaves, self.result_spec = pytree.tree_flatten(self.forward(*args, **kwargs))
        self.result = [_HOLE if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        found = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        return [one.clone() if _is_view_of_any(one, tensors) else one for one in found]

    def result_paths(self) -> list[tuple[Any, ...]]:
        """How to get from the result to each of its tensors: indices and keys."""
        assert self.result_spec is not None  # noqa: S101 - run() was called
        tree = pytree.tree_unflatten(self.result, self.result_spec)
        named = pytree.tree_flatten_with_path(tree)[0]
        steps = [keys for keys, leaf in named if leaf is _HOLE]
        return [
            tuple(getattr(key, "idx", getattr(key, "key", None)) for key in keys) for keys in steps
        ]

    def rebuilt(self, tensors: Any) -> Any:
        """The result with `tensors`, or nodes, in the holes."""
        assert self.result_spec is not None  # noqa: S101 - run() was called
        return _filled(self.result, tensors, self.result_spec)


def _is_view_of_any(tensor: Tensor, others: list[Tensor]) -> bool:
    memory = tensor.untyped_storage()._cdata  # noqa: SLF001 - a fake tensor has no other address
    return any(other.untyped_storage()._cdata == memory for other in others)  # noqa: SLF001


def _filled(leaves: list[Any], tensors: Any, spec: pytree.TreeSpec) -> Any:
    rest = iter(tensors)
    return pytree.tree_unflatten([next(rest) if leaf is _HOLE else leaf for leaf in leaves], spec)


class Leaves:
    """Records the calls of modules that are kept whole."""

    def __init__(self) -> None:
        self.calls: list[LeafCall] = []

    @contextmanager
    def kept(self, modules: dict[str, nn.Module]) -> Iterator[None]:
        """While this holds, calls of `modules` go through the operator."""
        global _recording  # noqa: PLW0603 - a registered operator has no other way to its state
        before, _recording = _recording, self.calls
        own: dict[str, Any] = {path: vars(one).get("forward") for path, one in modules.items()}
        try:
            for path, module in modules.items():
                keeps_shape = own[path] is None and plain_base(module) in _KEEPS_SHAPE
                module.forward = self._recorder(path, module.forward, keeps_shape=keeps_shape)
            yield
        finally:
            _recording = before
            for path, module in modules.items():
                vars(module).pop("forward", None)
                if own[path] is not None:
                    module.forward = own[path]

    def _recorder(
        self, path: str, forward: Callable[..., Any], *, keeps_shape: bool
    ) -> Callable[..., Any]:
        def record(*args: Any, **kwargs: Any) -> Any:
            leaves, spec = pytree.tree_flatten((args, kwargs))
            tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
            if not tensors or any(isinstance(leaf, torch.SymInt) for leaf in leaves):
                return forward(*args, **kwargs)
            holed = [_HOLE if isinstance(leaf, Tensor) else leaf for leaf in leaves]
            call = LeafCall(path, forward, holed, spec)
            self.calls.append(call)
            number = len(self.calls) - 1
            if keeps_shape and tensors[0].is_floating_point():
                return _OPERATORS.same_shape.default(tensors[0], number)
            return call.rebuilt(_OPERATORS.leaf.default(tensors, number))

        return record

    def call(self, node: fx.Node) -> LeafCall | None:
        """The call that a node of the exported graph stands for, if it is one."""
        if node.target not in {_OPERATORS.leaf.default, _OPERATORS.same_shape.default}:
            return None
        return self.calls[int(node.args[1])]  # type: ignore[arg-type]


_recording: list[LeafCall] = []
_library = torch.library.Library("embedl_deploy", "DEF")
_library.define("leaf(Tensor[] inputs, int call) -> Tensor[]")
_library.define("same_shape(Tensor input, int call) -> Tensor")
_library.define("dropout(Tensor input, int kind, float p, bool train) -> Tensor")
_OPERATORS = torch.ops.embedl_deploy

_ATEN = torch.ops.aten
_DROPOUTS = (
    _ATEN.dropout.default,
    _ATEN.feature_dropout.default,
    _ATEN.alpha_dropout.default,
    _ATEN.feature_alpha_dropout.default,
)


def dropout(kind: Any, input: Tensor, p: float, *, train: bool) -> Tensor:  # noqa: A002 - torch's name
    """A dropout, one of torch's operations, that nothing decomposes and no mode takes away."""
    made: Tensor = _OPERATORS.dropout.default(input, _DROPOUTS.index(kind), float(p), train)
    return made


def dropout_of(node: fx.Node) -> tuple[Any, tuple[Any, ...]] | None:
    """The operation and the arguments of a dropout that was hidden."""
    if node.target is not _OPERATORS.dropout.default:
        return None
    source, kind, p, train = node.args
    return _DROPOUTS[int(kind)], (source, p, train)  # type: ignore[arg-type]


@torch.library.register_fake("embedl_deploy::leaf", lib=_library)  # type: ignore[untyped-decorator]
def _fake(inputs: list[Tensor], call: int) -> list[Tensor]:
    return _recording[call].run(inputs)


@torch.library.register_fake("embedl_deploy::same_shape", lib=_library)  # type: ignore[untyped-decorator]
def _same_shape(input: Tensor, _: int) -> Tensor:  # noqa: A002 - the operator's schema
    """A module is not run for it: fake tensors of batch norms take most of a capture's time."""
    return torch.empty_like(input)


@torch.library.register_fake("embedl_deploy::dropout", lib=_library)  # type: ignore[untyped-decorator]
def _dropped(input: Tensor, *_: Any) -> Tensor:  # noqa: A002 - the operator's schema
    return torch.empty_like(input)
