"""Who takes which operator: every node of a graph in exactly one group."""

from collections.abc import Container, Iterator
from functools import cached_property

from embedl_deploy.onnx_model.graph import Node, Value
from embedl_deploy.onnx_model.view import BINARY, View
from embedl_deploy.tensorrt.prediction.rule import Claim, Found, Group, is_pair
from embedl_deploy.tensorrt.rules.attention import attentions
from embedl_deploy.tensorrt.rules.chains import PLAIN, SMOOTH

POINTWISE = (
    PLAIN | SMOOTH | BINARY
    | {"BatchNormalization", "Pow", "Sqrt", "Exp", "Log", "Abs", "Neg", "Reciprocal", "Min", "Max"}
    | {"Sum", "Where", "Not", "And", "Or", "Xor", "Equal", "Greater", "GreaterOrEqual", "Less"}
    | {"LessOrEqual", "Floor", "Ceil", "Round", "Sign", "Sin", "Cos", "Tan", "Sinh", "Cosh"}
    | {"Softsign", "ThresholdedRelu", "Mod", "IsNaN", "IsInf"}
)  # fmt: skip
_STEPS = 12


class Plan:
    """A graph that is being divided.

    Args:
        view: The graph, indexed.

    Attributes:
        view: As given.
        groups: Those that were made, in the order of the rules, without those that another took in.
    """

    def __init__(self, view: View) -> None:
        self.view = view
        self.groups: dict[Group, None] = {}
        self._taken: dict[int, Group] = {}
        self._places = {id(node): place for place, node in enumerate(view.graph)}

    @cached_property
    def of_one_query(self) -> frozenset[int]:
        """Ids of the products that TensorRT for RTX computes with an attention of one query."""
        found = (node for one in attentions(self.view) for node in one.half_projections)
        return frozenset(map(id, found))

    def take(self, rule: Claim, found: Found) -> None:
        """Give operators to a group of their own, or to one that takes them in.

        Those of a group are all its operators, and that group is no more.
        """
        group = found.into
        if group is None:
            basis = found.basis or rule.basis
            group = Group(rule, [], found.dtype, found.quantized, found.open, [], basis)
            self.groups[group] = None
            group.head = next((one for one in found.nodes if not is_pair(one)), found.nodes[0])
        elif found.basis is not None:
            group.basis = found.basis
        if rule not in group.rules:
            group.rules.append(rule)
        if found.reason:
            group.reasons.append(found.reason)
        if (taken_in := self.group(found.nodes[0])) is not None:
            del self.groups[taken_in]
            group.rules.extend(one for one in taken_in.rules if one not in group.rules)
        group.nodes.extend(found.nodes)
        self._taken.update((id(node), group) for node in found.nodes)

    def group(self, node: Node) -> Group | None:
        """The group of an operator; None while it has none."""
        return self._taken.get(id(node))

    def place(self, node: Node) -> int:
        """Where an operator is in the order of the file."""
        return self._places[id(node)]

    def group_runs(self, node: Node) -> bool:
        """Whether a kernel computes an operator."""
        group = self.group(node)
        return group is not None and group.rule.runs

    def free(self, *ops: str) -> Iterator[Node]:
        """Operators of some types that are in no group."""
        return (node for node in self.view.of(*ops) if id(node) not in self._taken)

    @property
    def left(self) -> Iterator[Node]:
        """All operators that are in no group."""
        return (node for node in self.view.graph if id(node) not in self._taken)

    def is_fixed(self, value: Value | None) -> bool:
        """Whether a value is a constant, follows from constants, or is left out."""
        return self.view.is_fixed(value)

    def is_pointwise(self, node: Node) -> bool:
        """Whether an operator computes element by element."""
        return node.op in POINTWISE and not node.domain

    def operands(self, node: Node) -> list[Value]:
        """Inputs that are no constants."""
        return [one for one in node.inputs if one is not None and not self.is_fixed(one)]

    # --- runs of operators ---

    def step(self, value: Value) -> list[Node]:
        """Pointwise operators that a value goes through until it is one value again.

        An operator by itself, or a gate with its product. Empty where anything else reads the
        value, or something else goes in.
        """
        found: list[Node] = []
        made, inside = [value], set()
        pending = list(value.users)
        for _ in range(_STEPS):
            node = next((one for one in pending if self._follows(one, made)), None)
            if node is None:
                return []
            found.append(node)
            inside.add(id(node))
            if all(_only_read_by(one, inside) for one in made):
                return found
            made.append(node.output)
            pending = [one for one in (*pending, *node.output.users) if id(one) not in inside]
        return []

    def _follows(self, node: Node, made: list[Value]) -> bool:
        """Whether a pointwise operator reads these values and constants alone."""
        known = {id(one) for one in made}
        fits = self.is_pointwise(node) and self.group(node) is None
        return fits and all(id(one) in known for one in self.operands(node))

    def runs(self, ops: Container[str]) -> list[list[Node]]:
        """Operators of some types, each with those before it that it alone reads."""
        found: dict[int, list[Node]] = {}
        for node in reversed(self.view.graph.nodes):
            if node.op not in ops or node.domain or self.group(node) is not None:
                continue
            following = {id(found.get(id(one))) for one in node.output.users}
            own = found.get(id(node.output.users[0])) if node.output.users else None
            joined = own is not None and len(following) == 1 and not node.output.is_output
            run = own if joined and own is not None else []
            run.append(node)
            found[id(node)] = run
        unique = {id(run): run for run in found.values()}
        return [run[::-1] for run in unique.values()]


def _only_read_by(value: Value, nodes: Container[int]) -> bool:
    return not value.is_output and all(id(one) in nodes for one in value.users)
