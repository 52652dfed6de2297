"""Convolutions and matrix products, with what runs in the same kernel."""

from collections.abc import Iterator
from dataclasses import dataclass

from embedl_deploy.onnx_model.graph import Node, Value
from embedl_deploy.onnx_model.view import (
    CONVOLUTIONS,
    DEQUANTIZE,
    channels,
    dequantizer,
    is_quantized,
    made_by,
    pads_zeros,
    weight_index,
    weight_quantizer,
)
from embedl_deploy.tensorrt.prediction.fusion import Fusion
from embedl_deploy.tensorrt.prediction.plan import Plan
from embedl_deploy.tensorrt.prediction.rule import Basis, Found
from embedl_deploy.tensorrt.prediction.types import only_quantized, predicted
from embedl_deploy.tensorrt.rules.chains import adds_residual

_JOINS = frozenset({"Add", "Min", "Max"})
_GELU = frozenset({"Gelu", "Erf", "Tanh"})


@dataclass(frozen=True)
class _Epilogue:
    """What follows a weighted operator in its kernel.

    Attributes:
        steps: Operators, those of one activation together.
        residual: The other operand of an addition among them.
    """

    steps: tuple[tuple[Node, ...], ...]
    residual: Value | None = None


def _epilogue(plan: Plan, head: Node, *, residual: bool) -> _Epilogue:
    steps: list[tuple[Node, ...]] = []
    value, other = head.output, None
    while True:
        step = plan.step(value)
        joined = _joined(plan, value) if not step and residual and other is None else None
        if joined is not None:
            step, other = [joined[0]], joined[1]
        if not step:
            break
        steps.append(tuple(step))
        value = step[-1].output
    kept = _closed(head, steps)
    joins = any(one in step[-1].inputs for step in kept for one in [other] if one is not None)
    return _Epilogue(kept, other if joins else None)


def _joined(plan: Plan, value: Value) -> tuple[Node, Value] | None:
    """The addition that a value goes into, and what it is added to."""
    node = value.users[0] if value.single else None
    if node is None or node.op not in _JOINS or plan.group(node):
        return None
    if not adds_residual(plan.view, node):
        return None
    other = next((one for one in node.inputs if one is not value), None)
    return None if other is None else (node, other)


def _closed(head: Node, steps: list[tuple[Node, ...]]) -> tuple[tuple[Node, ...], ...]:
    """Without GELU where the convolution reads INT8 and would not give it."""
    quantized = head.op in CONVOLUTIONS and is_quantized(head)
    if not quantized or only_quantized(steps[-1][-1].output if steps else head.output):
        return tuple(steps)
    until = (at for at, step in enumerate(steps) if any(one.op in _GELU for one in step))
    return tuple(steps[: next(until, len(steps))])


def _nodes(head: Node, epilogue: _Epilogue) -> list[Node]:
    return [head, *(node for step in epilogue.steps for node in step)]


# --- convolutions -------------------------------------------------------------------------------


def _residual(plan: Plan) -> Iterator[Found]:
    """The last convolution first: of two branches it is the one that can add the other."""
    for head in list(plan.free(*sorted(CONVOLUTIONS)))[::-1]:
        epilogue = _epilogue(plan, head, residual=True)
        if epilogue.residual is None:
            continue
        nodes, (dtype, loss) = _nodes(head, epilogue), predicted(plan, head)
        if loss or not is_quantized(head):
            yield Found(nodes, dtype, reason=loss)
        elif dequantizer(epilogue.residual) is None:
            why = "its residual is in floating point, which decides the type of what it gives"
            yield Found(nodes, dtype, quantized=True, open=why, reason=why)
        elif not only_quantized(nodes[-1].output):
            why = "INT8 with an INT8 residual is documented where a Q follows, and none does"
            yield Found(nodes, dtype, quantized=True, reason=why, basis=Basis.UNKNOWN)
        else:
            yield Found(nodes, dtype, quantized=True)


RESIDUAL = Fusion(
    "K04",
    "convolution + addition",
    "a convolution, batch norm, activation, the addition (or Min, Max) of a residual of one shape, "
    "and the activation after it; of two convolutions that meet, the last",
    Basis.DOCUMENTED,
    "Fusion catalog (second-hand); Guide, recommendation 4; MO#425, MO#450",
    _residual,
)


def _convolution(plan: Plan) -> Iterator[Found]:
    for head in plan.free(*sorted(CONVOLUTIONS)):
        nodes = _nodes(head, _epilogue(plan, head, residual=False))
        dtype, loss = predicted(plan, head)
        quantized = is_quantized(head) and not loss
        doubt = _doubt(head) if quantized else ""
        basis = Basis.UNKNOWN if doubt else Basis.COMPILED if loss else None
        yield Found(nodes, dtype, quantized=quantized, reason=loss or doubt, basis=basis)


def _doubt(head: Node) -> str:
    found = channels(head)
    if head.op == "ConvTranspose":
        return "TensorRT for RTX computes it in floating point"
    if found is not None and found[2] > 1:
        return "whether there is an INT8 kernel with groups depends on the GPU (TRT#4060, TRT#4529)"
    return ""


CONVOLUTION = Fusion(
    "K05",
    "convolution",
    "a convolution with batch norm and the pointwise operators after it that read nothing else; "
    "GELU only where the convolution gives the type that it reads",
    Basis.DOCUMENTED,
    "Fusion catalog (second-hand); Guide, recommendation 3",
    _convolution,
)


def _pad(plan: Plan) -> Iterator[Found]:
    for pad in plan.free("Pad"):
        reader = pad.output.users[0] if pad.output.single else None
        group = plan.group(reader) if reader is not None and reader.op in CONVOLUTIONS else None
        before = group is not None and reader is not None and pad.output is reader.first
        if before and pads_zeros(pad):
            yield Found([pad], into=group)


PAD = Fusion(
    "K06",
    "",
    "zero padding right before a convolution",
    Basis.DOCUMENTED,
    "Fusion catalog (second-hand); TRT#2592",
    _pad,
)


def _pool(plan: Plan) -> Iterator[Found]:
    for pool in plan.free("MaxPool", "AveragePool"):
        maker = pool.first.producer
        group = plan.group(maker) if maker is not None and pool.first.single else None
        if group is None or group.rule not in {CONVOLUTION, RESIDUAL}:
            continue
        if group.quantized and (pool.op != "MaxPool" or not only_quantized(pool.output)):
            continue
        yield Found([pool], into=group)


POOL = Fusion(
    "K07",
    "",
    "pooling right after a convolution, where both compute in one type",
    Basis.DOCUMENTED,
    "Fusion catalog (second-hand)",
    _pool,
)

# --- matrix products ----------------------------------------------------------------------------


def _beside(plan: Plan) -> Iterator[Found]:
    """Products of one value with weights, in one type, that are no results of the file."""
    found: dict[tuple[int, str, str], list[Node]] = {}
    for head in plan.free("MatMul"):
        value, (dtype, loss) = head.first, predicted(plan, head)
        pair = made_by(value, DEQUANTIZE)
        source = value if pair is None else pair.first
        if plan.is_fixed(head.input(1)) and not plan.is_fixed(value) and not head.output.is_output:
            found.setdefault((id(source), dtype, loss), []).append(head)
    for (_, dtype, loss), heads in found.items():
        if len(heads) > 1:
            quantized = is_quantized(heads[0]) and not loss
            yield Found(heads, dtype, quantized=quantized, reason=loss, basis=Basis.COMPILED)


def _product(plan: Plan) -> Iterator[Found]:
    yield from _beside(plan)
    for head in plan.free("Gemm", "MatMul"):
        epilogue = _epilogue(plan, head, residual=False)
        dtype, loss = predicted(plan, head)
        quantized = is_quantized(head) and not loss
        alone = quantized and dtype == "INT8" and _rescales(head, epilogue)
        weight = None if quantized or weight_index(head) is None else weight_quantizer(head)
        reason = loss or ("its weight alone is quantized" if weight is not None else "")
        basis = Basis.COMPILED if loss or alone else None
        nodes = [head] if alone else _nodes(head, epilogue)
        yield Found(nodes, dtype, quantized=quantized, reason=reason, basis=basis)


def _rescales(head: Node, epilogue: _Epilogue) -> bool:
    """Whether a second kernel computes what is after an INT8 product: all but scale and ReLU."""
    weight = weight_quantizer(head)
    scale = weight.input(1) if weight is not None else None
    single = scale is not None and scale.shape in {(), (1,)}
    return bool(epilogue.steps) and not (single and _only_relu(epilogue))


def _only_relu(epilogue: _Epilogue) -> bool:
    return all(node.op == "Relu" for step in epilogue.steps for node in step)


PRODUCT = Fusion(
    "K08",
    "matrix product",
    "a matrix product with its bias, and the pointwise operators after it that read nothing else; "
    "of an INT8 product alone, but for a ReLU where the weight has one scale, and of products of "
    "one value with weights, which are one, what follows is a kernel of its own (compiled)",
    Basis.ASSUMED,
    "Parser (Gemm is a product and an addition); what fuses after it is not in the catalog",
    _product,
)
