"""Capture by `torch.export`: for models whose Python code depends on shapes or values."""

import inspect
import operator
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from embedl_deploy.errors import CaptureError
from embedl_deploy.graph.leaves import LeafCall, Leaves
from embedl_deploy.graph.respell import VALUES_ALONE, respell, spelling_of
from embedl_deploy.graph.tracer import Tracer, source_line

_OPENED = (nn.Identity, nn.Flatten)
"""Leaves of symbolic tracing that compute nothing a module is needed for."""

_ATEN = torch.ops.aten
_SAME_VALUE = frozenset(
    {
        _ATEN.alias.default,
        _ATEN.contiguous.default,
        _ATEN.detach.default,
        _ATEN.detach_.default,
        _ATEN.lift_fresh_copy.default,
    }
)
"""Operations that give the values of their input back."""

_DROPPED = frozenset({_ATEN._assert_tensor_metadata.default})  # noqa: SLF001 - the operation's name
"""Operations that only check what the example inputs showed."""


@dataclass(frozen=True)
class Inputs:
    """Example inputs, and which of their dimensions may vary.

    Attributes:
        args: Positional inputs.
        kwargs: Inputs by name.
        dynamic_shapes: As `torch.export.export` takes it; `None` lets the first dimension of
            every tensor vary where the model's code allows it.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    dynamic_shapes: Any = None


def export(model: nn.Module, inputs: Inputs) -> fx.Graph:
    """The graph of `model`, as `torch.export` sees it, with modules kept whole.

    Constants that the model's code makes become buffers of `model`.

    Raises:
        CaptureError: `torch.export` can not take the model.
    """
    leaves = Leaves()
    with leaves.kept(_leaf_modules(model)):
        program = _functional(_program(model, inputs))
    unlifted = program.module(check_guards=False)
    graph = _Reader(leaves, program).read(unlifted.graph)
    _adopt_constants(model, unlifted, graph)
    return graph


def _program(model: nn.Module, inputs: Inputs) -> torch.export.ExportedProgram:
    if inputs.dynamic_shapes is None and (program := _any_batch(model, inputs)) is not None:
        return program
    try:
        return _export(model, inputs)
    except Exception as error:  # torch raises what it likes
        raise _export_error(model, error) from error


def _functional(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """The program without in-place operations that the operations table does not have.

    Writes to parts of a tensor, above all: what else has that memory is known to torch alone.
    """
    writes = [node for node in program.graph.nodes if _writes(node)]
    return program.run_decompositions({}) if writes else program


def _writes(node: fx.Node) -> bool:
    if not isinstance(node.target, torch._ops.OpOverload):  # noqa: SLF001 - has no public name
        return False
    known = node.target in _SAME_VALUE or spelling_of(node.target) is not None
    return node.target._schema.is_mutable and not known  # noqa: SLF001 - the only way to ask


def _export(model: nn.Module, inputs: Inputs) -> torch.export.ExportedProgram:
    args, kwargs, dynamic_shapes = inputs.args, inputs.kwargs, inputs.dynamic_shapes
    with warnings.catch_warnings():
        # A recurrent layer sets up its list of weights again (torch 2.13); torch takes that back.
        warnings.filterwarnings("ignore", "The tensor attributes .* were assigned during export")
        return torch.export.export(model, args, kwargs, dynamic_shapes=dynamic_shapes, strict=False)


def _any_batch(model: nn.Module, inputs: Inputs) -> torch.export.ExportedProgram | None:
    """The program for batches of any size, or `None` where the model's code fixes the size."""
    tree = (inputs.args, inputs.kwargs)
    tensors = [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]
    sizes = {leaf.shape[0] if leaf.dim() else None for leaf in tensors}
    if len(sizes) != 1 or None in sizes:
        return None
    args, kwargs = pytree.tree_map_only(Tensor, _two_or_more, tree)
    shapes = pytree.tree_map(lambda leaf: _first_varies if isinstance(leaf, Tensor) else None, tree)
    dynamic = (*shapes[0],) if not kwargs else _named(model, shapes)
    try:
        program = _export(model, Inputs(args, kwargs, dynamic))
    except Exception:  # noqa: BLE001 - torch raises what it likes; the export with the sizes given says why
        return None
    found = [
        node for node in program.graph.nodes if node.name in program.graph_signature.user_inputs
    ]
    values = [node.meta["val"] for node in found if isinstance(node.meta.get("val"), Tensor)]
    return program if all(isinstance(one.shape[0], torch.SymInt) for one in values) else None


def _two_or_more(tensor: Tensor) -> Tensor:
    """torch.export takes a size of one for a constant."""
    return tensor if tensor.shape[0] > 1 else tensor.repeat(2, *[1] * (tensor.dim() - 1))


_first_varies = {0: torch.export.Dim.AUTO}


def _named(model: nn.Module, shapes: Any) -> dict[str, Any]:
    names = tuple(inspect.signature(model.forward).parameters)
    return dict(zip(names, shapes[0], strict=False)) | shapes[1]


def _leaf_modules(model: nn.Module) -> dict[str, nn.Module]:
    tracer = Tracer()
    named = model.named_modules()
    return {
        path: module
        for path, module in named
        if path and tracer.is_leaf_module(module, path) and not isinstance(module, _OPENED)
    }


def _adopt_constants(model: nn.Module, unlifted: nn.Module, graph: fx.Graph) -> None:
    """Tensors that the code of the model made while it was exported become its own."""
    for node in graph.nodes:
        path = str(node.target)
        if node.op != "get_attr" or _has(model, path):
            continue
        name = path.replace(".", "_")
        model.register_buffer(name, attrgetter(path)(unlifted), persistent=False)
        node.target = name


def _has(model: nn.Module, path: str) -> bool:
    try:
        attrgetter(path)(model)
    except AttributeError:
        return False
    return True


class _Reader:
    """Copies the exported graph: module calls in place of the operator that hid them.

    ATen operations get the spelling of the operations table where it has them.
    """

    def __init__(self, leaves: Leaves, program: torch.export.ExportedProgram) -> None:
        self.leaves = leaves
        self.spec = program.call_spec
        self.graph = fx.Graph()
        self.values: dict[fx.Node, Any] = {}

    def read(self, exported: fx.Graph) -> fx.Graph:
        _check_inputs(self.spec.in_spec)
        for node in exported.nodes:
            self.values[node] = self._read(node)
        return self.graph

    def _read(self, node: fx.Node) -> Any:
        if node.op == "output":
            return self._output(node)
        if (call := self.leaves.call(node)) is not None:
            return self._module(node, call)
        if node.target is operator.getitem and not node.users:
            return None
        if node.target is operator.getitem and isinstance(self._value(node.args[0]), list):
            return self._value(node.args[0])[node.args[1]]
        if node.target in _SAME_VALUE:
            return self._value(node.args[0])
        if node.target in _DROPPED:
            return None
        copied = self.graph.node_copy(node, self.values.__getitem__)
        if node.target in VALUES_ALONE and _used_items(node) <= {0}:
            copied.target = VALUES_ALONE[node.target]
            return [copied]
        if isinstance(node.target, torch._ops.OpOverload):  # noqa: SLF001 - has no public name
            respell(copied)
        return copied

    def _value(self, node: object) -> Any:
        return self.values[node] if isinstance(node, fx.Node) else node

    def _module(self, node: fx.Node, call: LeafCall) -> list[fx.Node]:
        """The tensors of a module call's result, in order."""
        inputs = node.args[0]
        assert isinstance(inputs, list)  # noqa: S101 - the operator's schema
        args, kwargs = call.arguments([self._value(one) for one in inputs])
        called = self.graph.call_module(call.path, args, kwargs)
        called.meta = dict(node.meta)
        values = called.meta.pop("val")
        paths = call.result_paths()
        return [self._item(called, *item) for item in zip(paths, values, strict=True)]

    def _item(self, called: fx.Node, keys: tuple[Any, ...], value: Any) -> fx.Node:
        node = called
        for key in keys:
            node = self.graph.call_function(operator.getitem, (node, key))
            node.meta = dict(called.meta)
        node.meta["val"] = value
        return node

    def _output(self, node: fx.Node) -> fx.Node:
        (outputs,) = node.args
        assert isinstance(outputs, tuple | list)  # noqa: S101 - torch.export gives a flat tuple
        leaves = [self._value(one) for one in outputs]
        return self.graph.output(_plain(pytree.tree_unflatten(leaves, self.spec.out_spec)))


def _used_items(node: fx.Node) -> set[Any]:
    """Which items of a result something uses."""
    return {user.args[1] for user in node.users if user.users}


def _plain(tree: Any) -> Any:
    """A result in containers that a graph may return; classes of other kinds become dicts."""
    if isinstance(tree, Mapping):
        return {key: _plain(one) for key, one in tree.items()}
    if isinstance(tree, tuple | list):
        return (
            type(tree)(map(_plain, tree))
            if type(tree) in {tuple, list}
            else tuple(map(_plain, tree))
        )
    return tree


def _check_inputs(spec: Any) -> None:
    """Hold that every input is a tensor or a constant.

    Raises:
        CaptureError: One is a container.
    """
    for side in spec.children():
        if any(not child.is_leaf() for child in side.children()):
            raise CaptureError(
                "an input of the model is a container; write a wrapper whose forward() takes its "
                "tensors one by one"
            )


def _export_error(model: nn.Module, error: Exception) -> CaptureError:
    reason = str(error).strip().splitlines()
    return CaptureError(
        f"torch.export can not take {type(model).__name__}: "
        f"{reason[0] if reason else type(error).__name__}{source_line(error)}\n"
        "What to try: capture a submodule without this line, other example inputs, or "
        "dynamic_shapes that the model's code allows"
    )
