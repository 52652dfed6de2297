"""Scales and zero-points, and the axis that they go along."""

from collections.abc import Iterator
from math import prod

from embedl_deploy.onnx_model.dtypes import BLOCKED, OWN_PAIR
from embedl_deploy.onnx_model.graph import Node, Shape, Value
from embedl_deploy.onnx_model.view import (
    CONVOLUTIONS,
    DEQUANTIZE,
    KEEPING,
    QUANTIZE,
    WEIGHTED,
    View,
    constant,
    is_constant,
    reached,
    stored_type,
    weight_index,
)
from embedl_deploy.tensorrt.rules.rule import Fault, Outcome, Rule, Severity, Subject, Unknown


def _zero_point(view: View) -> Iterator[Outcome]:
    for node in view.pairs:
        zero_point = node.input(2)
        if zero_point is None:
            if node.op == QUANTIZE and not node.attributes.keys() & {"output_dtype", OWN_PAIR}:
                yield Fault(
                    "there is no zero-point, so ONNX reads UINT8 and TensorRT INT8", (node,)
                )
            continue
        found = constant(zero_point)
        if found is None:
            yield Fault("the zero-point is no constant", (node,))
            continue
        array, scale = found.array(), constant(node.input(1))
        if array is not None and (array.astype("float32") != 0).any():
            yield Fault("the zero-point is not 0: TensorRT quantizes symmetrically", (node,))
        elif zero_point.dtype != stored_type(node) and stored_type(node):
            what = (
                f"the zero-point is {zero_point.dtype}, and the quantized type {stored_type(node)}"
            )
            yield Fault(what, (node,))
        elif scale is not None and scale.size != found.size:
            yield Fault(f"there are {found.size} zero-points for {scale.size} scales", (node,))


F04 = Rule(
    "F04",
    Severity.ERROR,
    "the zero-point is written, constant, all zero, of the quantized type, and as long as the "
    "scale",
    why="Other zero-points are refused. Without one ONNX quantizes to UINT8 and TensorRT to INT8, "
    "so the two compute different things.",
    source="API, IQuantizeLayer; Parser",
    remedy="Write an int8 zero-point of zeros; quantize symmetrically.",
    check=_zero_point,
)


def _feeds_convolution(node: Node) -> bool:
    readers = reached(node.output, KEEPING | {DEQUANTIZE})
    return any(one is not None and one.op in CONVOLUTIONS for one in readers)


def _scale_value(view: View) -> Iterator[Outcome]:
    import numpy as np

    seen: set[int] = set()
    for node in view.pairs:
        scale = view.scale(node)
        if id(node.input(1)) in seen:
            continue
        seen.add(id(node.input(1)))
        if scale is None:
            if constant(node.input(1)) is not None:
                yield Unknown("there are too many scales to read them", (node,))
            continue
        with np.errstate(invalid="ignore"):
            values = scale.astype(np.float64)
        if not (np.isfinite(values) & (values > 0)).all():
            worst = values[~(np.isfinite(values) & (values > 0))].flat[0]
            yield Fault(f"a scale is {worst:g}", (node,))
        elif _dtype(node.input(1)) == "FLOAT16" and (values < 2.0**-14).any():
            what = f"the scale {values.min():.3g} is subnormal in FP16"
            yield Fault(what, (node,), Severity.WARNING)


def _dtype(value: Value | None) -> str:
    return "" if value is None else value.dtype


F06 = Rule(
    "F06",
    Severity.ERROR,
    "scales are finite and above 0",
    why="The parser says 'Scale coefficients must all be positive'. FP16 scales below 2⁻¹⁴ lose "
    "precision, or become 0 (a warning).",
    source="API; Parser; ModelOpt, replace_zero_scale_with_smallest_nonzero",
    remedy="Give channels that are all zero a scale of 1; keep tiny scales in FP32.",
    check=_scale_value,
)


def _granularity(view: View) -> Iterator[Outcome]:
    for node in view.pairs:
        scale, data = node.input(1), node.first.shape
        shape = None if scale is None else scale.shape
        if shape is None or None in shape:
            yield Unknown("the shape of the scale is not known", (node,))
        elif prod(one or 1 for one in shape) == 1:
            yield from _single(node, shape)
        elif data is None:
            yield Unknown("the shape of what is quantized is not known", (node,))
        elif problem := _misfit(node, shape, data):
            yield Fault(problem, (node,))


def _single(node: Node, scale: Shape) -> Iterator[Outcome]:
    """One scale that is written as a vector or a matrix."""
    if len(scale) > 1 and not node.attributes.get("block_size"):
        yield Fault(f"one scale has the shape {list(scale)}", (node,))
    elif (
        scale and node.op == DEQUANTIZE and not is_constant(node.first) and _feeds_convolution(node)
    ):
        what = "one scale has the shape [1]: the convolution after it loses INT8"
        yield Fault(what, (node,), Severity.WARNING)


def _misfit(node: Node, scale: Shape, data: Shape) -> str:
    if len(scale) == 1 and not node.attributes.get("block_size"):
        axis = _axis(node)
        if not -len(data) <= axis < len(data):
            return f"the axis is {axis}, and there are {len(data)} dimensions"
        size = data[axis]
        return "" if size in {None, scale[0]} else f"{scale[0]} scales for {size} channels"
    dtype = stored_type(node)
    if dtype not in BLOCKED:
        return f"scales of shape {list(scale)} quantize blocks, which {dtype} does not have"
    if len(scale) != len(data):
        return f"the scales of blocks have {len(scale)} dimensions, and the data {len(data)}"
    blocked = [index for index in range(len(data)) if scale[index] != data[index]]
    if len(blocked) > 1 or any(index < len(data) - 2 for index in blocked):
        return f"blocks go along {len(blocked)} dimensions; one of the last two is allowed"
    return ""


def _axis(node: Node) -> int:
    return node.number("axis", 1)


F07 = Rule(
    "F07",
    Severity.ERROR,
    "there is one scale, one for each channel along the axis, or (FP8, INT4, FP4) one for each "
    "block along one of the last two dimensions; one scale is a scalar",
    why="The parser refuses others: 'number of scales is not equal to the number of output "
    "channels', 'Only a single blocking dimension is allowed', 'ScaleMode is illegal'. TensorRT "
    "for RTX reads a scale of shape [1] as one for a channel, and a convolution after it loses "
    "INT8 (a warning).",
    source="API; Parser; TensorRT for RTX 1.7.1",
    remedy="Set axis to the dimension that the scales belong to; write one scale as a scalar.",
    check=_granularity,
)


def _per_channel(view: View) -> Iterator[Outcome]:
    for node in view.pairs:
        scale = node.input(1)
        shape = () if scale is None or scale.shape is None else scale.shape
        blocks = len(shape) > 1 or node.attributes.get("block_size")
        if prod(one or 1 for one in shape) > 1 and not blocks and not is_constant(node.first):
            yield Fault("an activation is quantized with more than one scale", (node,))


F08 = Rule(
    "F08",
    Severity.WARNING,
    "only constants are quantized per channel",
    why="Data centres: documented as not supported; TensorRT for RTX: it builds, and the operator "
    "after it loses INT8.",
    source="API, IDequantizeLayer",
    remedy="Quantize activations with one scale for the tensor.",
    check=_per_channel,
)


def _weight_axis(view: Subject) -> Iterator[Outcome]:
    for node in view.of(DEQUANTIZE):
        scale = node.input(1)
        if scale is None or scale.shape is None or len(scale.shape) != 1 or scale.shape == (1,):
            continue
        if node.attributes.get("block_size") or not is_constant(node.first):
            continue
        yield from _axis_faults(view, node)


def _axis_faults(view: Subject, node: Node) -> Iterator[Outcome]:
    found, right = False, None
    for use, axis in weight_uses(node):
        found = True
        right = axis
        if axis is None:
            yield Unknown("it reaches its operator after a reshape", (node, use))
        elif axis != positive(_axis(node), node):
            what = f"the axis is {_axis(node)}, and output channels of {use.op} are along {axis}"
            yield Fault(what, (node, use))
            return
    if "axis" not in node.attributes and found:
        severity = Severity.ERROR if view.version.may_be_before(10, 13) else None
        wrong = "" if right == 1 else ", and newer ones read 1"
        what = f"the axis is not written; versions differ in its default{wrong}"
        yield Fault(what, (node,), severity)


def positive(axis: int, node: Node) -> int:
    """An axis of what a DQ reads, counted from the first."""
    rank = len(node.first.shape or ())
    return axis + rank if axis < 0 else axis


def weight_uses(node: Node) -> Iterator[tuple[Node, int | None]]:
    """Weighted operators after a DQ, each with the axis of its output channels in the DQ."""
    rank = len(node.first.shape or ())
    if not rank:
        return
    stack: list[tuple[Value, tuple[int, ...] | None]] = [(node.output, tuple(range(rank)))]
    while stack:
        value, order = stack.pop()
        for use, index in value.uses:
            if use.op in WEIGHTED and index == weight_index(use):
                axis = _channel_axis(use, index, rank)
                yield use, None if order is None or axis >= len(order) else order[axis]
            elif use.op == "Transpose" and order is not None:
                stack.append((use.output, _permuted(use, order)))
            elif use.op in {"Identity", "Cast"}:
                stack.append((use.output, order))
            elif use.op in {"Reshape", "Squeeze", "Unsqueeze"}:
                stack.append((use.output, None))


def _permuted(transpose: Node, order: tuple[int, ...]) -> tuple[int, ...] | None:
    perm = transpose.attributes.get("perm") or tuple(reversed(range(len(order))))
    fits = sorted(perm) == list(range(len(order)))
    return tuple(order[one] for one in perm) if fits else None


def _channel_axis(node: Node, index: int, rank: int) -> int:
    match node.op:
        case "Conv":
            return 0
        case "ConvTranspose":
            return 1
        case "Gemm":
            return 0 if node.attributes.get("transB") else 1
    return rank - 1 if index == 1 else rank - 2


F09 = Rule(
    "F09",
    Severity.WARNING,
    "the axis of a weight's scales is written, and is that of its output channels: 0 for Conv and "
    "Gemm with transB, 1 for ConvTranspose and Gemm, the last for MatMul",
    why="Along another axis the operator loses INT8 (TensorRT for RTX: its weight is dequantized "
    "at every inference). The default differs: parsers up to 10.6 read 0, newer ones and ONNX 1, "
    "so a file without the attribute may compute something else (an error up to 10.12).",
    source="API (KCRS); Guide; ModelOpt, ort_utils.py; Parser",
    remedy="Write the attribute axis at every DequantizeLinear with several scales.",
    check=_weight_axis,
)
