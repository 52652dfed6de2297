"""The questions that rules ask of a graph: constants, Q/DQ pairs, what quantizes what."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from embedl_deploy.onnx_model.dtypes import FLOATS, HALF
from embedl_deploy.onnx_model.graph import Graph, Node, Value
from embedl_deploy.onnx_model.tensors import Tensor

if TYPE_CHECKING:
    from numpy.typing import NDArray

QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"
CONVOLUTIONS = frozenset({"Conv", "ConvTranspose"})
WEIGHTED = CONVOLUTIONS | {"Gemm", "MatMul"}
COPIES = frozenset(
    {"Flatten", "Transpose", "Split", "Squeeze", "Unsqueeze", "Expand", "ReverseSequence"}
    | {"Reshape", "Tile", "Gather", "Slice", "GatherElements", "GatherND", "Identity"}
    | {"DepthToSpace", "SpaceToDepth"}
)
"""Operators that move values and compute nothing; `Concat` has rules of its own."""

COMMUTING = COPIES | {"MaxPool"}
"""Operators that TensorRT moves Q/DQ across."""

KEEPING = COMMUTING | {"Concat"}
"""Operators that give values which they read, and no others."""

_SIZES = frozenset({"Constant", "Shape", "Size"})
_ACTIVE = ("If", "Loop", "Scan", "Random", "Bernoulli", "Multinomial")
POOLS = frozenset({"AveragePool", "GlobalAveragePool"})
BINARY = frozenset({"Add", "Sub", "Mul", "Div"})


class View:
    """A graph, indexed.

    Args:
        graph: With types.

    Attributes:
        graph: As given.
        half: The half-precision type that the file is meant to compute in; empty without one.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._by_op: dict[str, list[Node]] = defaultdict(list)
        for node in graph:
            self._by_op[node.op].append(node)
        self._scales: dict[int, NDArray[Any] | None] = {}
        weighted = [node.output.dtype for node in self.of(*WEIGHTED)]
        halves = [dtype for dtype in weighted if dtype in HALF]
        self.half = max(halves, key=halves.count) if 2 * len(halves) >= len(weighted) > 0 else ""

    def of(self, *ops: str) -> Iterator[Node]:
        """Nodes of some types among ONNX's own operators."""
        for op in ops:
            yield from (node for node in self._by_op[op] if not node.domain)

    def is_fixed(self, value: Value | None) -> bool:
        """Whether a value is a constant, follows from constants and sizes, or is left out."""
        return value is None or value.tensor is not None or id(value) in self._follow

    @cached_property
    def _follow(self) -> set[int]:
        """The values that follow from constants and sizes."""
        found: set[int] = set()
        for node in self.graph:
            known = (one is None or one.tensor or id(one) in found for one in node.inputs)
            if _computes(node) and (node.op in _SIZES or (node.inputs and all(known))):
                found.update(id(one) for one in node.outputs)
        return found

    @property
    def pairs(self) -> Iterator[Node]:
        """All `QuantizeLinear` and `DequantizeLinear`."""
        return self.of(QUANTIZE, DEQUANTIZE)

    @property
    def quantized(self) -> Iterator[Node]:
        """Weighted operators that compute on quantized values."""
        return (node for node in self.of(*WEIGHTED) if is_quantized(node))

    def scale(self, node: Node) -> "NDArray[Any] | None":
        """The scale of Q or DQ; None where it is no constant."""
        if id(node) not in self._scales:
            found = constant(node.input(1))
            self._scales[id(node)] = None if found is None else found.array()
        return self._scales[id(node)]

    def same_scale(self, one: Node, other: Node) -> bool | None:
        """Whether two of Q and DQ have the same scale; None where that is not known."""
        if one.input(1) is other.input(1):
            return True
        first, second = self.scale(one), self.scale(other)
        return None if first is None or second is None else _equal(first, second)


def _equal(one: "NDArray[Any]", other: "NDArray[Any]") -> bool:
    if one.size != other.size:
        return False
    return bool((one.astype("float64").ravel() == other.astype("float64").ravel()).all())


def _computes(node: Node) -> bool:
    """Whether what a node gives follows from what it reads."""
    return not node.domain and not node.op.startswith(_ACTIVE)


# --- constants ----------------------------------------------------------------------------------


def constant(value: Value | None) -> Tensor | None:
    """The tensor of a constant, also through `Cast` and `Identity`."""
    while value is not None:
        if value.tensor is not None:
            return value.tensor
        maker = value.producer
        value = maker.first if maker and maker.op in {"Cast", "Identity"} else None
    return None


def root(value: Value | None) -> Value | None:
    """Where a value comes from, through Q/DQ, `Cast` and operators that copy."""
    while value is not None and value.producer is not None and value.tensor is None:
        maker = value.producer
        if maker.op not in COPIES | {QUANTIZE, DEQUANTIZE, "Cast"} or not maker.inputs:
            return value
        value = maker.inputs[0]
    return value


def is_constant(value: Value | None) -> bool:
    """Whether a value is a constant, also through Q/DQ and operators that copy."""
    found = root(value)
    return found is not None and found.tensor is not None


def numbers(value: Value | None) -> list[float] | None:
    """The values of a small constant."""
    found = constant(value)
    array = None if found is None or found.size > 64 else found.array()
    return None if array is None else [float(one) for one in array.ravel()]


# --- pairs --------------------------------------------------------------------------------------


def made_by(value: Value | None, *ops: str) -> Node | None:
    """The node that makes a value, if it is one of these types."""
    maker = value.producer if value is not None else None
    return maker if maker is not None and maker.op in ops and not maker.domain else None


def dequantizer(value: Value | None, through: frozenset[str] = COMMUTING) -> Node | None:
    """The DQ that a value comes from, through operators that TensorRT moves it across."""
    while value is not None:
        if found := made_by(value, DEQUANTIZE):
            return found
        maker = made_by(value, *through)
        value = maker.first if maker else None
    return None


def quantizer_of(dequantize: Node) -> Node | None:
    """The Q of a DQ; None where a constant is its input."""
    return made_by(dequantize.first, QUANTIZE)


def bare(value: Value | None) -> tuple[Value | None, Node | None]:
    """A value before its Q/DQ pair, and the DQ; the value itself where there is none."""
    found = made_by(value, DEQUANTIZE)
    before = quantizer_of(found) if found else None
    return (before.first, found) if before else (value, None)


def stored_type(node: Node) -> str:
    """The quantized type of Q or DQ."""
    return node.output.dtype if node.op == QUANTIZE else node.first.dtype


def reached(value: Value, through: Iterable[str] = COPIES) -> Iterator[Node | None]:
    """Nodes that read a value through operators of some types; None where it leaves the graph."""
    stack, seen, passed = [value], {id(value)}, frozenset(through)
    while stack:
        one = stack.pop()
        if one.is_output:
            yield None
        for node in one.users:
            if node.op not in passed:
                yield node
                continue
            for result in node.outputs:
                if id(result) not in seen:
                    seen.add(id(result))
                    stack.append(result)


def is_quantized_after(value: Value, through: Iterable[str] = COPIES) -> bool:
    """Whether a Q reads a value, perhaps through operators of some types."""
    return any(node is not None and node.op == QUANTIZE for node in reached(value, through))


# --- weighted operators -------------------------------------------------------------------------


def weight_index(node: Node) -> int | None:
    """Which input of a weighted operator is a constant; None for a product of activations."""
    if node.op != "MatMul":
        return 1
    return next((index for index in (1, 0) if is_constant(node.input(index))), None)


def weight_quantizer(node: Node) -> Node | None:
    """The DQ of a weight, through operators that copy."""
    index = weight_index(node)
    return None if index is None else dequantizer(node.input(index), COPIES)


def activation_quantizer(node: Node) -> Node | None:
    """The DQ of what a weighted operator computes on."""
    value = node.input(0 if weight_index(node) != 0 else 1)
    pad = made_by(value, "Pad") if node.op in CONVOLUTIONS else None
    return _carrier(pad.first if pad is not None and pads_exactly(pad) else value)


def _carrier(value: Value | None) -> Node | None:
    """The DQ that a value comes from, of several in a concatenation that have one scale."""
    while value is not None:
        if found := made_by(value, DEQUANTIZE):
            return found
        if joined := made_by(value, "Concat"):
            return _shared([_carrier(one) for one in dict.fromkeys(joined.inputs)])
        maker = made_by(value, *COMMUTING)
        value = maker.first if maker else None
    return None


def _shared(found: Sequence[Node | None]) -> Node | None:
    """The first of several DQ where all are there and have its scale."""
    known = [one for one in found if one is not None]
    if not known or len(known) < len(found):
        return None
    first, *others = known
    return first if all(_alike(first, one) for one in others) else None


def _alike(one: Node, other: Node) -> bool:
    """Whether two DQ have one type and one constant scale."""
    scales = [constant(node.input(1)) for node in (one, other)]
    first, second = (None if scale is None else scale.array() for scale in scales)
    if first is None or second is None or stored_type(one) != stored_type(other):
        return False
    return _equal(first, second)


def pads_zeros(pad: Node) -> bool:
    """Whether padding adds zeros, which are exact in symmetric quantization."""
    mode = pad.attributes.get("mode", b"constant")
    return mode == b"constant" and (pad.input(2) is None or numbers(pad.input(2)) == [0.0])


def pads_exactly(pad: Node) -> bool:
    """Whether padding commutes with symmetric quantization: zeros, or values that are there."""
    return pads_zeros(pad) or pad.attributes.get("mode", b"constant") != b"constant"


def is_quantized(node: Node) -> bool:
    """Whether both operands are quantized, so that it computes in integers or FP8."""
    if weight_index(node) is None:
        return bool(dequantizer(node.input(0)) and dequantizer(node.input(1)))
    return bool(weight_quantizer(node) and activation_quantizer(node))


def channels(node: Node) -> tuple[int, int, int] | None:
    """Inputs, outputs and groups of a convolution; None where the weight's shape is not known."""
    weight, group = node.input(1), node.number("group", 1)
    shape = weight.shape if weight is not None else None
    if shape is None or len(shape) < 2 or shape[0] is None or shape[1] is None or group < 1:
        return None
    if node.op == "ConvTranspose":
        return shape[0], shape[1] * group, group
    return shape[1] * group, shape[0], group


def kernel(node: Node) -> tuple[int, ...]:
    """Sizes of the window of a convolution; empty where they are not known."""
    weight = node.input(1)
    sizes = tuple(weight.shape or ())[2:] if weight is not None else ()
    return tuple(one for one in sizes if one is not None)


def floats(node: Node) -> list[Value]:
    """Floating-point inputs of a node."""
    return [one for one in node.inputs if one is not None and one.dtype in FLOATS]
