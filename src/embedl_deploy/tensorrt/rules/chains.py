"""Operators that TensorRT runs as one: convolution branches, activations of several operators."""

from collections.abc import Iterator
from dataclasses import dataclass

from embedl_deploy.onnx_model.graph import Node, Value
from embedl_deploy.onnx_model.view import (
    BINARY,
    CONVOLUTIONS,
    DEQUANTIZE,
    QUANTIZE,
    WEIGHTED,
    View,
    bare,
    is_constant,
    made_by,
)
from embedl_deploy.tensorrt.shapes import adds_in_place

PLAIN = frozenset({"Relu", "Clip"})
SMOOTH = frozenset(
    {"Gelu", "HardSwish", "HardSigmoid", "Sigmoid", "Tanh", "LeakyRelu", "Elu", "Selu", "Celu"}
    | {"Swish", "Mish", "Softplus", "PRelu", "Erf"}
)
_GATES = ("Sigmoid", "HardSigmoid", "Tanh", "Erf")
_STEPS = 10


def data_operand(node: Node) -> Value | None:
    """The operand of a binary operator that is no constant, where the other is one."""
    if node.op not in BINARY or len(node.inputs) != 2:
        return None
    left, right = node.inputs
    if is_constant(right):
        return None if is_constant(left) else left
    return right if is_constant(left) else None


def fused_input(node: Node) -> Value | None:
    """What a node computes on, if it fuses with the convolution before it."""
    if node.op in PLAIN | SMOOTH | {"BatchNormalization"}:
        return node.first
    return data_operand(node)


def conv_branch(value: Value | None) -> Node | None:
    """The convolution that a value comes from, by operators that fuse and that nothing else reads.

    `Sigmoid` times its own input counts as one of them.
    """
    allowed = 1
    while value is not None and len(value.uses) == allowed and not value.is_output:
        maker = value.producer
        if maker is None or maker.op in CONVOLUTIONS:
            return maker
        allowed = 1
        gated = _gated(maker)
        if gated is not None:
            value, allowed = gated, 2
        else:
            value = fused_input(maker)
    return None


def adds_residual(view: View, node: Node) -> bool:
    """Whether what a node joins may be a branch and a residual: computed, and of one shape.

    `embedl_deploy.tensorrt.fusions.residual` says the same of a graph of modules.
    """
    joined = [one for one in node.inputs if not view.is_fixed(one)]
    return len(node.inputs) == len(joined) == 2 and adds_in_place(
        *(None if one is None else one.shape for one in joined)
    )


def _gated(node: Node) -> Value | None:
    if node.op != "Mul" or len(node.inputs) != 2:
        return None
    for gate, other in (node.inputs, node.inputs[::-1]):
        found = made_by(gate, "Sigmoid", "HardSigmoid")
        if found is not None and found.first is other:
            return other
    return None


def weighted_before(value: Value | None) -> Node | None:
    """The weighted operator whose bare result a value is: batch norm and bias may follow it."""
    for _ in range(_STEPS):
        maker = value.producer if value is not None else None
        if maker is None or maker.op in WEIGHTED:
            return maker
        value = maker.first if maker.op == "BatchNormalization" else data_operand(maker)
    return None


@dataclass(frozen=True)
class ActivationChain:
    """An activation: one operator, or several that end in a product with what went in.

    Attributes:
        head: What goes in.
        end: The last operator.
        entry: DQ where it goes in, one for each way in; None for a way without.
        inside: DQ between its operators.
    """

    head: Value
    end: Node
    entry: tuple[Node | None, ...]
    inside: tuple[Node, ...]


def activation_chains(view: View) -> Iterator[ActivationChain]:
    """All activations but ReLU and Clip; a gate and its product are one."""
    taken: set[int] = set()
    for gate in view.of(*_GATES):
        chain = _chain(gate)
        if chain is not None:
            taken.add(id(gate))
            yield chain
    for node in view.of(*sorted(SMOOTH)):
        if id(node) not in taken:
            head, found = bare(node.first)
            if head is not None:
                yield ActivationChain(head, node, (found,), ())


def _chain(gate: Node) -> ActivationChain | None:
    sources = _sources(gate.first)
    inside: list[Node] = []
    value: Value | None = gate.output
    for _ in range(_STEPS):
        step = _next(value, inside)
        if step is None:
            return None
        node, came_by = step
        other = next((one for one in node.inputs if one is not came_by), None)
        if node.op == "Mul" and not is_constant(other):
            for source, entry in _sources(other).items():
                if source in sources and sources[source][0] is entry[0]:
                    ways = (sources[source][1], entry[1])
                    return ActivationChain(entry[0], _tail(node), ways, tuple(inside))
            return None
        if data_operand(node) is None:
            return None
        value = node.output
    return None


def _next(value: Value | None, inside: list[Node]) -> tuple[Node, Value] | None:
    """The one node after a value, and the value that it reads; pairs between are noted."""
    while value is not None and value.uses and len({id(node) for node in value.users}) == 1:
        node = value.users[0]
        if node.op != QUANTIZE:
            return node, value
        following = [one for one in node.output.users if one.op == DEQUANTIZE]
        inside.extend(following[:1])
        value = following[0].output if following else None
    return None


def _sources(value: Value | None) -> dict[int, tuple[Value, Node | None]]:
    """Values that one is made of by pointwise operators, each with the DQ it came by."""
    found: dict[int, tuple[Value, Node | None]] = {}
    stack: list[tuple[Value | None, Node | None]] = [(value, None)]
    for _ in range(2 * _STEPS):
        if not stack:
            break
        one, by = stack.pop()
        before, pair = bare(one)
        if before is None or id(before) in found or is_constant(before):
            continue
        found[id(before)] = (before, pair or by)
        maker = before.producer
        if maker is not None and pair is None and maker.op in BINARY | {"Pow"}:
            stack.extend((inner, by) for inner in maker.inputs)
    return found


def _tail(node: Node) -> Node:
    """The last of the multiplications with constants after a node."""
    for _ in range(_STEPS):
        users = node.output.users
        if not node.output.single or users[0].op != "Mul" or data_operand(users[0]) is None:
            return node
        node = users[0]
    return node


@dataclass(frozen=True)
class WrittenNorm:
    """A layer norm that is written out.

    Attributes:
        division: By the standard deviation.
        nodes: All its operators, Q/DQ between them too.
        inside: DQ between its operators.
    """

    division: Node
    nodes: tuple[Node, ...]
    inside: tuple[Node, ...]


def decomposed_norms(view: View) -> Iterator[WrittenNorm]:
    """Each layer norm that is written out, without its factor and shift."""
    for node in view.of("Div"):
        passed: list[Node] = [node]
        centred = _back(node.input(0), passed, "Sub")
        root = _back(node.input(1), passed, "Sqrt")
        if centred is None or root is None:
            continue
        added = _back(root.first, passed, "Add")
        operand = data_operand(added) if added else None
        variance = _back(operand, passed, "ReduceMean")
        squared = _back(variance.first if variance else None, passed, "Pow", "Mul")
        mean = _back(centred.input(1), passed, "ReduceMean")
        if squared is not None and mean is not None:
            inside = tuple(one for one in passed if one.op == DEQUANTIZE)
            yield WrittenNorm(node, tuple(passed), inside)


def _back(value: Value | None, passed: list[Node], *ops: str) -> Node | None:
    """The operator that makes a value, after a pair; both are noted."""
    before, pair = bare(value)
    maker = made_by(before, *ops)
    passed.extend(one for one in (pair, maker) if one is not None)
    return maker
