"""From a traced graph to the canonical one, through the operations table.

The new graph is written node by node. An in-place operation needs no special form there: what
is read after it is what it returned.
"""

import copy
import operator
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, fx, nn

from embedl_deploy.graph import nodes
from embedl_deploy.graph.aliases import Aliases
from embedl_deploy.graph.constants import Constants
from embedl_deploy.graph.dead import remove_dead
from embedl_deploy.graph.facts import Facts
from embedl_deploy.graph.items import item_steps
from embedl_deploy.graph.known import NUMBERS
from embedl_deploy.graph.ops import TABLE
from embedl_deploy.graph.paths import Paths, graph_module, join
from embedl_deploy.graph.proxies import is_rank
from embedl_deploy.graph.rows import FunctionRow, ModuleRow, Row
from embedl_deploy.graph.shapes import shape
from embedl_deploy.graph.tracer import is_hooked, plain_base
from embedl_deploy.graph.writes import called, without_write


def canonicalize(root: nn.Module, graph: fx.Graph) -> fx.GraphModule:
    """The canonical graph module of a traced `graph` over `root`, whose modules it takes over.

    Raises:
        CaptureError: An in-place write cannot be expressed without changing the result.
    """
    return _Writer(root, graph).write()


_FILL = torch.ops.aten.fill


class _Writer:
    """Writes the canonical graph; `current` gives, per traced node, the value it has now."""

    def __init__(self, root: nn.Module, traced: fx.Graph) -> None:
        self.root = root
        self.traced = traced
        self.graph = fx.Graph()
        self.modules = dict(root.named_modules(remove_duplicate=False))
        self.objects: dict[str, Any] = {}
        self.current: dict[fx.Node, Any] = {}
        self.items: dict[tuple[Any, ...], fx.Node] = {}
        self.facts = Facts(self.objects)
        self.constants = Constants(self.objects, training=root.training)
        self.aliases = Aliases(root, traced)
        called, read = (
            {str(node.target) for node in traced.nodes if node.op == op}
            for op in ("call_module", "get_attr")
        )
        self.paths = Paths(called, read)

    def write(self) -> fx.GraphModule:
        for node in self.traced.nodes:
            self.current[node] = self._write(node)
        remove_dead(self.graph)
        result = graph_module(self.objects, self.graph, self.root)
        result.graph.lint()
        return result

    def _write(self, node: fx.Node) -> Any:
        match node.op:
            case "call_module":
                return self._write_module(node)
            case "call_function" | "call_method":
                return self._write_operation(node)
            case "get_attr":
                self.objects[str(node.target)] = nodes.attribute(self.root, str(node.target))
        return self._copy(node)

    def _copy(self, node: fx.Node) -> fx.Node:
        copied = self.graph.node_copy(node, self.current.__getitem__)
        copied.meta = {"scope": nodes.scope(node)}
        return copied

    def _write_module(self, node: fx.Node) -> Any:
        module = self.modules[str(node.target)]
        base = plain_base(module)
        if base is nn.Identity and not is_hooked(module):
            return self.current[node.all_input_nodes[0]]
        if base is nn.Flatten and not is_hooked(module):
            flatten = (node.all_input_nodes[0], module.start_dim, module.end_dim)
            return self._emit(node, torch.flatten, flatten)
        copied = self._copy(node)
        copied.args, copied.kwargs = nodes.positional(module, copied.args, copied.kwargs)
        copied.target = self._own_module(str(node.target), module, base)
        if getattr(module, "inplace", False) is True:
            self._written(node, node.all_input_nodes[0], copied)
        return copied

    def _own_module(self, path: str, module: nn.Module, base: type[nn.Module] | None) -> str:
        """Store the plain form of a module; each call of one without state has its own."""
        if path in self.objects:
            if nodes.has_state(module):
                return path
            path = self.paths.fresh(path)
        if getattr(module, "inplace", False) is True or not nodes.has_state(module):
            module = copy.copy(module)
            if hasattr(module, "inplace"):
                module.inplace = False  # type: ignore[assignment]
        if base is not None and base is not type(module):
            module = nodes.as_base(module, base)
        self.objects[path] = module
        return path

    def _write_operation(self, node: fx.Node) -> Any:
        """Write a call; an assertion of a number of dimensions would only hide what it asks."""
        if node.target is operator.getitem:
            return self._write_item(node)
        spelling = f".{node.args[1]}" if node.target is getattr else node.target
        if node.target is torch._assert and is_rank(node.args[0]):  # noqa: SLF001 - has no public name
            return None
        if nodes.is_batch_count(node, self.modules):
            return self.current[node.all_input_nodes[0]]
        row = TABLE.find(spelling)
        args = node.args[:1] if node.target is getattr else node.args
        bound = row.bind(args, node.kwargs) if row else None
        written = self._write_row(node, row, bound) if row and bound else None
        if bound is None or written is None:
            return self._write_other(node)
        if TABLE.writes(spelling) or getattr(bound, "inplace", False) is True:
            self._written(node, next(iter(vars(bound).values())), written)
        return written

    def _item_of(self, node: fx.Node) -> Any:
        """What `item()` gives, where it is known."""
        value = fx.map_arg(node.args[0], self.current.__getitem__)
        number = self._number(value)
        return None if number is value else number

    def _number(self, value: Any) -> Any:
        """The number in place of a constant of one value."""
        known = self.constants.number(value)
        return known.item() if isinstance(known, Tensor) and known.numel() == 1 else value

    def _write_item(self, node: fx.Node) -> Any:
        """Write an index, one item for each dimension: `x[:, 1:, 0]` as `x[:, 1:][:, :, 0]`."""
        source, index = node.args
        if not isinstance(source, fx.Node):
            return self._copy(node)
        if type(index) is int and (sizes := nodes.sizes_of(source)) is not None:
            return self._item(node, "size", (self.current[sizes], index))
        steps = item_steps(index, self._rank(source) if isinstance(index, tuple) else None)
        if steps is None:
            return self._copy(node)
        value = self.current[source]
        for target, *rest in steps:
            if target is operator.getitem and nodes.is_unbound(value) and type(rest[0]) is int:
                value = value.args[0]
            value = self._item(node, target, (value, *rest))
        return value

    def _item(self, node: fx.Node, target: Any, args: tuple[Any, ...]) -> fx.Node:
        """An item that is read twice is one node, so that patterns see how often it is used."""
        key = (target, args[0], str(args[1:]))
        if key not in self.items:
            op = "call_method" if isinstance(target, str) else "call_function"
            index = fx.map_arg(args[1:], self.current.__getitem__)
            self.items[key] = self.graph.create_node(op, target, (args[0], *index))
            self.items[key].meta = {"scope": nodes.scope(node)}
        return self.items[key]

    def _write_other(self, node: fx.Node) -> Any:
        """An operation that the table does not have; it keeps its spelling, but never writes."""
        if called(node) == "item" and (number := self._item_of(node)) is not None:
            return number
        plain = without_write(node)
        copied = self._copy(node)
        if plain is not None:
            target, args, kwargs = plain
            copied.target = target
            copied.args, copied.kwargs = fx.map_arg((args, kwargs), self.current.__getitem__)
            self._written(node, node.args[0] if node.args else node.kwargs["input"], copied)
        if (at := NUMBERS.get(called(node))) is not None:
            copied.args = (*copied.args[:at], *map(self._number, copied.args[at:]))
            copied.kwargs = {key: self._number(one) for key, one in copied.kwargs.items()}
            if copied.target is _FILL.Tensor and not isinstance(copied.args[1], fx.Node):
                copied.target = _FILL.Scalar
        return copied

    def _write_row(self, node: fx.Node, row: Row, bound: SimpleNamespace) -> fx.Node | None:
        match row:
            case FunctionRow():
                args = row.positional(self._ranked(row, bound))
                return None if args is None else self._emit(node, row.target, args)
            case ModuleRow():
                tensors = self._tensors(node, row, self._ranked(row, bound))
                module = row.make(SimpleNamespace(**tensors, owner=self._owner(node)))
                return None if module is None else self._emit_module(node, row, bound, module)
        return None

    def _ranked(self, row: Row, bound: SimpleNamespace) -> SimpleNamespace:
        """The bound arguments, with the rank of the first where the row asks for it."""
        if not row.ranked:
            return bound
        first = next(iter(vars(bound).values()))
        return SimpleNamespace(**vars(bound), rank=self._rank(first))

    def _rank(self, node: object) -> int | None:
        """The number of dimensions of a traced value, as far as it is known."""
        if not isinstance(node, fx.Node):
            return None
        known = shape(node) if node.op != "get_attr" else self.objects[str(node.target)].shape
        if known is None:
            known = self.facts.of(self.current[node])
        return None if known is None else len(known)

    def _emit(self, node: fx.Node, target: Any, args: tuple[Any, ...]) -> fx.Node:
        op = "call_method" if isinstance(target, str) else "call_function"
        mapped = fx.map_arg(args, self.current.__getitem__)
        emitted = self.graph.create_node(op, target, mapped)
        emitted.meta = {"scope": nodes.scope(node)}
        return emitted

    def _emit_module(
        self, node: fx.Node, row: ModuleRow, bound: SimpleNamespace, module: nn.Module
    ) -> fx.Node:
        weight = getattr(bound, "weight", None)
        stem = nodes.weight_stem(weight) or self._stem(node, row, module)
        path = self._raised_path(stem, module, self._owner(node).training)
        inputs = [getattr(bound, name) for name in row.given(bound)]
        while inputs[-1] is None:
            inputs.pop()
        args = fx.map_arg(tuple(inputs), self.current.__getitem__)
        emitted = self.graph.call_module(path, args)
        emitted.meta = {"scope": nodes.scope(node)}
        return emitted

    def _owner(self, node: fx.Node) -> nn.Module:
        """The module whose `forward` made a node."""
        return self.modules.get(nodes.scope(node), self.root)

    def _raised_path(self, stem: str, module: nn.Module, training: bool) -> str:  # noqa: FBT001
        """A path for a raised module; a second use of the same parameters is the same module."""
        known = self.objects.get(stem)
        if isinstance(known, nn.Module) and nodes.same(known, module):
            return stem
        path = self.paths.fresh(stem)
        module.training = training
        self.objects[path] = module
        return path

    def _stem(self, node: fx.Node, row: ModuleRow, module: nn.Module) -> str:
        """Where a module belongs that has no weight, or one that its owner computes."""
        scope = nodes.scope(node)
        return scope if isinstance(self._owner(node), type(module)) else join(scope, row.name)

    def _tensors(self, node: fx.Node, row: ModuleRow, bound: SimpleNamespace) -> dict[str, Any]:
        """Arguments with tensors in place of what reads them.

        A weight that the model computes, as one that is standardised, is computed now where the
        model infers; while it trains, it changes with what it is computed from.
        """
        computed = not self._owner(node).training
        inputs = row.given(bound)
        return {
            name: self._tensor(value, computed=computed and name not in inputs)
            for name, value in vars(bound).items()
        }

    def _tensor(self, value: object, *, computed: bool) -> object:
        if not isinstance(value, fx.Node):
            return value
        if value.op == "get_attr":
            return self.objects[str(value.target)]
        known = self.current[value]
        found = self.constants.parameter(known) if computed and isinstance(known, fx.Node) else None
        return value if found is None else found

    def _written(self, node: fx.Node, target: object, result: fx.Node) -> None:
        """`result` is what `target` holds from now on, under each of its names."""
        if isinstance(target, fx.Node):
            for same in self.aliases.write(node, target):
                self.current[same] = result
