"""Attention that is written as two matrix products around a softmax."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

from embedl_deploy.onnx_model.dtypes import FP8
from embedl_deploy.onnx_model.graph import Node, Value
from embedl_deploy.onnx_model.view import (
    COPIES,
    DEQUANTIZE,
    QUANTIZE,
    View,
    bare,
    dequantizer,
    is_quantized,
    is_quantized_after,
    made_by,
    reached,
    weight_index,
    weight_quantizer,
)
from embedl_deploy.tensorrt.rules.chains import data_operand

_STEPS = 8
_HEADS = 4
_BETWEEN = frozenset({"Mul", "Div", "Add", "Sub", "Where", "Cast", "Identity", "Dropout"})


@dataclass(frozen=True)
class Operand:
    """What goes into a matrix product.

    Attributes:
        quantizer: Its DQ; None where it is in floating point.
        between: Scaling and transposing operators between the DQ and the product.
    """

    quantizer: Node | None
    between: tuple[Node, ...]


@dataclass(frozen=True)
class Attention:
    """One attention.

    Attributes:
        scores: The product of query and key.
        before: What is between it and the softmax.
        softmax: The softmax.
        product: The product with the value.
        query: First operand of the scores.
        key: Second operand of the scores.
        weights: First operand of the product: the softmax.
        value: Second operand of the product.
    """

    scores: Node
    before: tuple[Node, ...]
    softmax: Node
    product: Node
    query: Operand
    key: Operand
    weights: Operand
    value: Operand

    @property
    def operands(self) -> dict[str, Operand]:
        """What has to be quantized, by name."""
        return {
            "query": self.query,
            "key": self.key,
            "softmax": self.weights,
            "value": self.value,
        }

    @property
    def quantizers(self) -> list[Node]:
        """The DQ of its operands."""
        return [one.quantizer for one in self.operands.values() if one.quantizer is not None]

    @property
    def is_fp8(self) -> bool:
        """Whether an operand is FP8."""
        return any(node.first.dtype == FP8 for node in self.quantizers)

    @property
    def result_quantized(self) -> bool:
        """Whether what comes out is quantized, after operators that copy."""
        return is_quantized_after(self.product.output)

    @property
    def missing(self) -> list[str]:
        """Names of the places without Q/DQ."""
        found = [name for name, one in self.operands.items() if one.quantizer is None]
        return found if self.result_quantized else [*found, "result"]

    @property
    def sizes(self) -> tuple[int | None, int | None, int | None]:
        """Positions of the query and of the key, and the size of a head; None if not known."""
        query, key = (_last(self.scores.input(index)) for index in (0, 1))
        return query[0], key[1], query[1] if query[1] is not None else key[0]

    @property
    def half_projections(self) -> list[Node]:
        """Quantized products that TensorRT for RTX 1.7.1 computes in half precision with it.

        They give query, key and value to it alone, and their weights have a scale per channel; one
        position of the query reads several of the key, in four heads or more (times the batch).
        """
        query, key, _ = self.sizes
        shape = self.scores.output.shape
        if shape is None or query != 1 or key is None or key < 2:
            return []
        if prod(one or 1 for one in shape[:-2]) < _HEADS:
            return []
        values = (self.scores.input(0), self.scores.input(1), self.product.input(1))
        found = [_projection(value) for value in values]
        return [one for one in found if one is not None and _has_channel_scales(one)]

    @property
    def value_head(self) -> int | None:
        """The size of a head of the value; None if not known."""
        return _last(self.product.input(1))[1]


def _last(value: Value | None) -> tuple[int | None, int | None]:
    shape = value.shape if value is not None else None
    return (shape[-2], shape[-1]) if shape is not None and len(shape) > 1 else (None, None)


def attentions(view: View) -> Iterator[Attention]:
    """All that are found."""
    for softmax in view.of("Softmax"):
        found = _scores(softmax.first)
        product = _product(softmax)
        if found is None or product is None:
            continue
        scores, before = found
        operands = (
            *(operand(scores.input(index)) for index in (0, 1)),
            Operand(dequantizer(product.input(0), COPIES | {"Cast", "Dropout"}), ()),
            operand(product.input(1)),
        )
        yield Attention(scores, before, softmax, product, *operands)


def _projection(value: Value | None) -> Node | None:
    while value is not None and value.single and (maker := value.producer) is not None:
        if maker.op in {"MatMul", "Gemm"}:
            return maker if weight_index(maker) is not None else None
        value = maker.first if maker.op in COPIES else data_operand(maker)
    return None


def _has_channel_scales(node: Node) -> bool:
    weight = weight_quantizer(node) if is_quantized(node) else None
    scale = None if weight is None else weight.input(1)
    return scale is not None and prod(one or 1 for one in scale.shape or ()) > 1


def _scores(value: Value | None) -> tuple[Node, tuple[Node, ...]] | None:
    """The product that a softmax reads, and what is between; a query may be a constant."""
    stack: list[tuple[Value | None, tuple[Node, ...]]] = [(value, ())]
    for _ in range(2 * _STEPS):
        if not stack:
            return None
        one, passed = stack.pop()
        maker = one.producer if (one := bare(one)[0]) is not None else None
        if maker is None:
            continue
        if maker.op == "MatMul":
            return (maker, passed) if weight_index(maker) != 1 else None
        if maker.op in _BETWEEN | COPIES:
            stack.extend((inner, (*passed, maker)) for inner in maker.inputs[::-1])
    return None


def _product(softmax: Node) -> Node | None:
    through = COPIES | {QUANTIZE, DEQUANTIZE, "Cast", "Dropout"}
    for node in reached(softmax.output, through):
        if node is not None and node.op == "MatMul" and weight_index(node) is None:
            return node
    return None


def operand(value: Value | None) -> Operand:
    """An operand of a product, looked at after scaling and operators that copy."""
    between: list[Node] = []
    while value is not None:
        found = made_by(value, DEQUANTIZE)
        if found is not None:
            return Operand(found, tuple(between))
        maker = value.producer
        if maker is None:
            break
        if maker.op in COPIES:
            if maker.op == "Transpose":
                between.append(maker)
            value = maker.first
        else:
            between.append(maker)
            value = data_operand(maker) if maker.op in {"Mul", "Div"} else None
    return Operand(None, ())
