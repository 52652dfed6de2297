"""From the graph that `torch.export` gives to one in the spelling of the operations table."""

import operator
from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.experimental.symbolic_shapes import is_concrete_int
from torch.utils import _pytree as pytree

from embedl_deploy.errors import CaptureError
from embedl_deploy.graph.inputs import read_inputs
from embedl_deploy.graph.leaves import LeafCall, Leaves, dropout_of
from embedl_deploy.graph.respell import VALUES_ALONE, respell
from embedl_deploy.graph.sizes import Form, add_check

_ATEN = torch.ops.aten
SAME_VALUE = frozenset(
    {
        _ATEN.alias.default,
        _ATEN.contiguous.default,
        _ATEN.detach_.default,
        _ATEN.lift_fresh_copy.default,
    }
)
"""Operations that give the values of their input back."""

_BLOCKS: dict[Any, tuple[int, Callable[[tuple[Any, ...]], bool]]] = {
    torch.ops.higher_order.wrap_with_set_grad_enabled: (1, lambda _: True),
    torch.ops.higher_order.wrap_with_autocast: (4, lambda options: options[2] is False),
}
"""`with` blocks: where the options end, and whether, with these, the block computes as without."""

_DROPPED = frozenset({_ATEN._assert_tensor_metadata.default})  # noqa: SLF001 - the operation's name
"""Operations that only check what the example inputs showed."""

_DROPOUT_OPERATIONS = frozenset(
    {
        _ATEN.dropout.default,
        _ATEN.feature_dropout.default,
        _ATEN.alpha_dropout.default,
        _ATEN.feature_alpha_dropout.default,
    }
)


class Reader:
    """Copies the exported graph: module calls in place of the operator that hid them.

    ATen operations get the spelling of the operations table where it has them.
    """

    def __init__(self, leaves: Leaves, program: torch.export.ExportedProgram) -> None:
        self.leaves = leaves
        self.program = program
        self.spec = program.call_spec
        self.graph = fx.Graph()
        self.values: dict[fx.Node, Any] = {}
        self.blocks: dict[fx.Graph, fx.GraphModule] = {}
        self.named: dict[str, Any] = {}

    def read(self) -> fx.Graph:
        self._read_inputs()
        for node in self.program.graph.nodes:
            if node.op != "placeholder":
                self.values[node] = self._read(node)
        return self.graph

    def _read_inputs(self) -> None:
        """Inputs of the program: those of the model, and tensors that belong to the model."""
        placeholders = [node for node in self.program.graph.nodes if node.op == "placeholder"]
        targets = [one.target for one in self.program.graph_signature.input_specs]
        paths = dict(zip(placeholders, targets, strict=True))
        inputs = [node for node in placeholders if paths[node] is None]
        self.values |= zip(inputs, read_inputs(self.graph, inputs, self.spec.in_spec), strict=True)
        for node, path in paths.items():
            if path is not None:
                self.values[node] = self.graph.get_attr(path)
                self.values[node].meta = dict(node.meta)
            else:
                add_check(self.graph, node.name, self.values[node], [_form(node.meta["val"])])
            self.named[path or node.name] = self.values[node]

    def _read(self, node: fx.Node) -> Any:
        if node.op == "output":
            return self._output(node)
        if node.op == "get_attr":
            return self._block(node) or self._copied(node)
        if (call := self.leaves.call(node)) is not None:
            return self._module(node, call)
        return self._inlined(node) if node.target in _BLOCKS else self._operation(node)

    def _operation(self, node: fx.Node) -> Any:
        is_item = node.target is operator.getitem
        if node.target in _DROPPED or (is_item and not node.users):
            return None
        if node.target in SAME_VALUE or _is_apart(node) or self._is_same(node):
            return self._value(node.args[0])
        if is_item and isinstance(results := self._value(node.args[0]), list):
            return results[int(node.args[1])]  # type: ignore[arg-type]
        return self._copied(node)

    def _is_same(self, node: fx.Node) -> bool:
        """Whether a node is a copy in a program that `run_decompositions` left without writes."""
        is_copy = node.target is _ATEN.clone.default and self.program.dialect == "ATEN"
        return is_copy and all(user.op != "output" for user in node.users)

    def _copied(self, node: fx.Node) -> Any:
        copied = self.graph.node_copy(node, self.values.__getitem__)
        if (hidden := dropout_of(copied)) is not None:
            copied.target, copied.args = hidden
            respell(copied)
            return copied
        if node.target in VALUES_ALONE and _used_items(node) <= {0}:
            copied.target = VALUES_ALONE[node.target]
            return [copied]
        if isinstance(node.target, torch._ops.OpOverload):  # noqa: SLF001 - has no public name
            respell(copied)
        return copied

    def _block(self, node: fx.Node) -> fx.GraphModule | None:
        """The code of a `with` block, which torch.export keeps as a graph of its own."""
        owner = self.blocks.get(node.graph, self.program.graph_module)
        found = attrgetter(str(node.target))(owner)
        return found if isinstance(found, fx.GraphModule) else None

    def _inlined(self, node: fx.Node) -> list[Any]:
        """The results of a `with` block, whose operations are written into the graph.

        Results of `torch.no_grad()` are detached: no gradient flows into the block.
        """
        at, is_inert = _BLOCKS[node.target]
        options, (block, *inputs) = node.args[:at], map(self._value, node.args[at:])
        if not is_inert(options):
            raise CaptureError(
                "a part of the model runs under autocast; call it without autocast, and choose the "
                "precision when you export"
            )
        assert isinstance(block, fx.GraphModule)  # noqa: S101 - the operator's schema
        self.blocks[block.graph] = block
        places = [one for one in block.graph.nodes if one.op == "placeholder"]
        self.values |= zip(places, inputs, strict=True)
        *inner, output = [one for one in block.graph.nodes if one.op != "placeholder"]
        for one in inner:
            self.values[one] = self._read(one)
        (results,) = output.args
        found = [self._value(one) for one in results]
        return [self._detached(one) for one in found] if options == (False,) else found

    def _detached(self, value: Any) -> Any:
        if not isinstance(value, fx.Node):
            return value
        detached = self.graph.call_function(torch.detach, (value,))
        detached.meta = dict(value.meta)
        return detached

    def _value(self, node: object) -> Any:
        return self.values[node] if isinstance(node, fx.Node) else node

    def _module(self, node: fx.Node, call: LeafCall) -> Any:
        """The tensor that a module gives, or those of its result in order."""
        args, kwargs = call.arguments([self._value(one) for one in _tensors(node)])
        called = self.graph.call_module(call.path, args, kwargs)
        called.meta = dict(node.meta)
        if isinstance(node.args[0], fx.Node):
            return called
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
        """The model's results; what it writes to its inputs and buffers is a result after them."""
        (outputs,) = node.args
        assert isinstance(outputs, tuple | list)  # noqa: S101 - torch.export gives a flat tuple
        specs = self.program.graph_signature.output_specs
        written: dict[Any, fx.Node] = {}
        for one, spec in zip(outputs, specs, strict=True):
            if spec.target is not None:
                write = (self.named[spec.target], self._value(one))
                written[one] = self.graph.call_function(_ATEN.copy_.default, write)
        results = [one for one, spec in zip(outputs, specs, strict=True) if spec.target is None]
        leaves = [written.get(one, self._value(one)) for one in results]
        return self.graph.output(_plain(pytree.tree_unflatten(leaves, self.spec.out_spec)))


def _form(example: Any) -> Form:
    """What a program holds for, of an input."""
    if isinstance(example, Tensor):
        return tuple(int(size) if is_concrete_int(size) else None for size in example.shape)
    return None if isinstance(example, torch.SymInt | torch.SymFloat | torch.SymBool) else example


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


def _is_apart(node: fx.Node) -> bool:
    """Whether a node is the copy that keeps what a dropout takes apart from what it gives."""
    users = [user.target for user in node.users]
    is_copy = node.target is _ATEN.clone.default
    return is_copy and bool(users) and _DROPOUT_OPERATIONS.issuperset(users)


def _tensors(node: fx.Node) -> list[Any]:
    """What a kept module is called with; one tensor may be there twice."""
    (inputs, _) = node.args
    return list(inputs) if isinstance(inputs, list) else [inputs]
