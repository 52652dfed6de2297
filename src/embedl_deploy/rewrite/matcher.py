"""Does a variant of a tree fit at a node?

The search goes from the tree's last operation to its inputs. Its depth is that of the tree,
never that of the graph.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import permutations
from typing import Any

import torch
from torch import Tensor, fx, nn

from embedl_deploy.graph.constants import Constants
from embedl_deploy.graph.ops import TABLE
from embedl_deploy.graph.proxies import is_size
from embedl_deploy.graph.rows import FunctionRow
from embedl_deploy.graph.shapes import value
from embedl_deploy.patterns.tree import Again, Call, Fixed, Hole, Op, Own, Value
from embedl_deploy.rewrite.variants import Link, Run, Step, Variant

_CALLS = frozenset({"call_module", "call_function", "call_method"})


@dataclass(frozen=True)
class Slot:
    """An argument of a node. Its value may have moved by the time it is read."""

    node: fx.Node
    index: int

    def read(self) -> Any:
        """The value of the slot now."""
        return self.node.args[self.index]


@dataclass(frozen=True)
class Binding:
    """Where the operations of a tree were found.

    Attributes:
        nodes: Node of each operation by name; a tuple of them for a wildcard.
        inputs: By name, the heads (whose arguments are passed on) and the values of the holes.
        tensors: By name, the nodes of parameters of the model and of what follows from its tensors.
        again: Operations whose value is used once more, as often as it is.
    """

    nodes: Mapping[str, fx.Node | tuple[fx.Node, ...]] = field(default_factory=dict)
    inputs: Mapping[str, fx.Node | Slot] = field(default_factory=dict)
    tensors: Mapping[str, fx.Node] = field(default_factory=dict)
    again: tuple[tuple[str, fx.Node], ...] = ()

    def plus(self, other: "Binding") -> "Binding | None":
        """Both together; `None` where a name would have two values, or two names one node."""
        for name in self.inputs.keys() & other.inputs.keys():
            if _read(self.inputs[name]) is not _read(other.inputs[name]):
                return None
        if any(self.nodes.get(name, node) is not node for name, node in other.again):
            return None
        if not set(self.all_nodes()).isdisjoint(other.all_nodes()):
            return None
        return Binding(
            {**self.nodes, **other.nodes},
            {**self.inputs, **other.inputs},
            {**self.tensors, **other.tensors},
            (*self.again, *other.again),
        )

    def all_nodes(self) -> tuple[fx.Node, ...]:
        """Every node of the match, inputs before what uses them, the root last."""
        flat: list[fx.Node] = []
        for found in self.nodes.values():
            flat.extend(found if isinstance(found, tuple) else (found,))
        return tuple(flat)


def _read(source: fx.Node | Slot) -> object:
    return source.read() if isinstance(source, Slot) else source


class Matcher:
    """Matches variants in one graph.

    Args:
        objects: The modules and tensors that the graph's targets name.
        depths: Longest distance of every node from the graph's inputs; where a commutative
            operation fits both ways round, its tree goes along the deeper input.
    """

    def __init__(self, objects: Mapping[str, Any], depths: Mapping[fx.Node, int]) -> None:
        self._objects = objects
        self._constants = Constants(objects, training=True)
        self._depths = depths

    def match(self, variant: Variant, node: fx.Node) -> Iterator[Binding]:
        """The ways in which the variant's operations can lie when its root is `node`."""
        return self._step(variant.root, node)

    def follows(self, spine: Sequence[Op], node: object) -> bool:
        """Whether a node and what comes before it are the operations of a variant's spine."""
        for operation in spine:
            if not self.fits(operation, node):
                return False
            node = node.args[0] if isinstance(node, fx.Node) and node.args else None
        return True

    def tensor(self, node: fx.Node) -> nn.Parameter | None:
        """A parameter itself, or what follows from the model's tensors as a parameter."""
        read = self._objects.get(str(node.target)) if node.op == "get_attr" else None
        return read if isinstance(read, nn.Parameter) else self._constants.parameter(node)

    def _is_fixed(self, node: fx.Node) -> bool:
        found = self.tensor(node)
        return found is not None and not found.requires_grad

    def bound(self, node: fx.Node) -> nn.Module | Call:
        """What a pattern gets to see of a node."""
        if node.op == "call_module":
            module: nn.Module = self._objects[str(node.target)]
            return module
        args, kwargs = fx.map_arg((node.args, node.kwargs), self._argument)
        return Call(node.target, args, kwargs)

    def _argument(self, node: fx.Node) -> Any:
        if node.op == "get_attr" and isinstance(tensor := self._objects[str(node.target)], Tensor):
            return tensor
        return seen(node)

    def fits(self, operation: Op, node: object) -> bool:
        """Whether a node is the operation, whatever is around it."""
        if not isinstance(node, fx.Node) or node.op not in _CALLS:
            return False
        if not any(key in operation.kinds for key in keys(node, self._objects)):
            return False
        return operation.predicate is None or operation.accepts(self.bound(node))

    def _step(self, step: Step, node: object) -> Iterator[Binding]:
        if not self.fits(step.op, node):
            return
        assert isinstance(node, fx.Node)  # noqa: S101 - fits() says so
        own = Binding({step.op.name: node})
        if not step.sources:
            yield Binding({step.op.name: node}, {step.op.name: node})
            return
        for order in self._orders(step, node):
            for before in self._sources(step.sources, node, order):
                yield from _joined(before, own)

    def _sources(
        self, sources: Sequence[Link], node: fx.Node, order: Sequence[int]
    ) -> Iterator[Binding]:
        if not sources:
            yield Binding()
            return
        for first in self._source(sources[0], Slot(node, order[0])):
            for rest in self._sources(sources[1:], node, order[1:]):
                yield from _joined(first, rest)

    def _source(self, source: Link, slot: Slot) -> Iterator[Binding]:
        node = slot.read()
        if not isinstance(node, fx.Node):
            return
        match source:
            case Hole():
                yield Binding(inputs={source.name: slot})
            case Own() if isinstance(self._objects.get(str(node.target)), nn.Parameter):
                yield Binding(tensors={source.name: node})
            case Fixed() if self._is_fixed(node):
                yield Binding(tensors={source.name: node})
            case Again():
                yield Binding(again=((source.name, node),))
            case Step():
                yield from self._step(source, node)
            case Run():
                yield from self._run(source, node)

    def _run(self, run: Run, node: object) -> Iterator[Binding]:
        """The longest run first; it is collected in a loop, however long it is."""
        found: list[fx.Node] = []
        ends = [node]
        while any(self.fits(operation, ends[-1]) for operation in run.wildcard.ops):
            assert isinstance(ends[-1], fx.Node)  # noqa: S101 - fits() says so
            found.append(ends[-1])
            ends.append(ends[-1].args[0] if ends[-1].args else None)
        for count in range(len(found), -1, -1):
            own = Binding({run.wildcard.name: tuple(reversed(found[:count]))})
            for before in self._step(run.source, ends[count]):
                yield from _joined(before, own)

    def _orders(self, step: Step, node: fx.Node) -> Sequence[Sequence[int]]:
        """Which argument each source may be, as a list of choices."""
        count = len(step.sources)
        operands = step.op.operands or range(count)
        if len(node.args) <= max(operands) or _takes_more(node, operands):
            return ()
        if not step.op.commutative or count != 2:
            return (operands,)
        tree = next((i for i, source in enumerate(step.sources) if not isinstance(source, Hole)), 0)
        both = list(permutations(range(2)))
        return sorted(both, key=lambda order: -self._depth(node.args[order[tree]]))

    def _depth(self, node: object) -> int:
        return self._depths.get(node, 0) if isinstance(node, fx.Node) else -1


def _joined(one: Binding, other: Binding) -> Iterator[Binding]:
    both = one.plus(other)
    if both is not None:
        yield both


def _takes_more(node: fx.Node, operands: Sequence[int]) -> bool:
    """Whether a node takes tensors besides these arguments."""
    others: list[fx.Node] = []
    rest = [one for index, one in enumerate(node.args) if index not in operands]
    fx.map_arg((rest, node.kwargs), others.append)
    return any(isinstance(value(other), Tensor) or not _is_number(other) for other in others)


def _is_number(node: fx.Node) -> bool:
    return value(node) is not None or is_size(node)


def seen(node: fx.Node) -> Any:
    """What a pattern gets to see of a value: shape and dtype; a dtype is given as it is."""
    known = value(node)
    if isinstance(known, torch.dtype):
        return known
    if isinstance(known, Tensor):
        return Value(tuple(known.shape), known.dtype)
    return Value(() if isinstance(known, int | float) or is_size(node) else None)


def keys(node: fx.Node, objects: Mapping[str, Any]) -> tuple[Any, ...]:
    """What an operation may name a node by: its class or function, their names, or a method's."""
    match node.op:
        case "call_module":
            kind = type(objects[str(node.target)])
            return (kind, kind.__name__)
        case "call_function":
            if node.kwargs and isinstance(TABLE.find(node.target), FunctionRow):
                return ()  # what the table gives another form, or none: `mean(x, dtype=…)`
            target: Any = node.target
            name = f"{getattr(target, '__module__', '')}.{getattr(target, '__qualname__', '')}"
            return (target, name)
        case "call_method":
            return (f"Tensor.{node.target}",)
    return ()


def escapes(binding: Binding) -> tuple[fx.Node, ...]:
    """Nodes of a match, except for its root, whose value is used otherwise than the tree says."""
    allowed = Counter(node for _, node in binding.again)
    inner = binding.all_nodes()[:-1]
    inside = {*binding.all_nodes()}
    return tuple(
        node
        for node in inner
        if len(node.users) > 1 + allowed[node]
        or not inside.issuperset(node.users)
        or _uses(node) != 1 + allowed[node]
    )


def _uses(node: fx.Node) -> int:
    """How often a value is used; `y + y` uses `y` twice."""
    count = 0

    def tally(argument: fx.Node) -> fx.Node:
        nonlocal count
        count += argument is node
        return argument

    for user in node.users:
        fx.map_arg((user.args, user.kwargs), tally)
    return count
