"""Ways to break the rules of format and types, each at several places of a file."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import ml_dtypes
import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper

from tests.tensorrt.rules.draft import Draft

Mutation = Callable[[ModelProto], Iterator[Draft]]
Change = Callable[[Draft, Any], object]


def each(find: Callable[[Draft], Sequence[Any]], *changes: Change) -> Mutation:
    """Every change at the first, the middle and the last place that it applies to."""

    def mutate(proto: ModelProto) -> Iterator[Draft]:
        for change in changes:
            drafts = [_changed(proto, find, index, change) for index in range(_count(proto, find))]
            found = [draft for draft in drafts if draft is not None]
            yield from (
                found[index] for index in sorted({0, len(found) // 2, len(found) - 1}) if found
            )

    return mutate


def _count(proto: ModelProto, find: Callable[[Draft], Sequence[Any]]) -> int:
    return len(find(Draft(proto)))


def _changed(
    proto: ModelProto, find: Callable[[Draft], Sequence[Any]], index: int, change: Change
) -> Draft | None:
    draft = Draft(proto)
    return draft if change(draft, find(draft)[index]) is not False else None


def whole(*changes: Callable[[Draft], object]) -> Mutation:
    return each(
        lambda draft: [draft], *(lambda draft, _, change=one: change(draft) for one in changes)
    )


def pairs(draft: Draft) -> list[tuple[NodeProto, NodeProto]]:
    return list(draft.pairs())


def weights(draft: Draft) -> list[NodeProto]:
    return draft.weights()


def convs(draft: Draft) -> list[NodeProto]:
    return [node for node in draft.quantized("Conv") if draft.weight_of(node)]


def weighted(draft: Draft) -> list[NodeProto]:
    found = draft.quantized("Conv", "Gemm", "MatMul")
    return [node for node in found if draft.weight_of(node)]


# --- format -------------------------------------------------------------------------------------


def opset(version: int) -> Callable[[Draft], object]:
    def change(draft: Draft) -> object:
        draft.proto.opset_import[0].version = version
        return None

    return change


def output_dtype(draft: Draft, pair: Any) -> None:
    draft.set(pair[1], "output_dtype", TensorProto.FLOAT)


def microsoft(draft: Draft, pair: Any) -> None:
    for node in pair:
        node.domain = "com.microsoft"
    draft.proto.opset_import.append(helper.make_opsetid("com.microsoft", 1))


def integer_conv(_: Draft, node: NodeProto) -> None:
    node.op_type = "ConvInteger"


def zero_point(values: Any, dtype: Any) -> Change:
    def change(draft: Draft, pair: Any) -> None:
        for node in pair:
            node.input[2] = draft.constant(values, dtype)

    return change


def no_zero_point(_: Draft, pair: Any) -> None:
    del pair[0].input[2:]


def unsigned_weight(draft: Draft, node: NodeProto) -> None:
    node.input[0] = draft.constant(abs(draft.known(node.input[0])), np.uint8)
    node.input[2] = draft.constant(draft.known(node.input[2]), np.uint8)


def computed_scale(draft: Draft, pair: Any) -> None:
    name = draft.add("ReduceMax", [pair[0].input[0]], keepdims=0)
    for node in pair:
        node.input[1] = name


def input_scale(draft: Draft, pair: Any) -> None:
    draft.graph.input.append(helper.make_tensor_value_info("given", TensorProto.FLOAT, []))
    for node in pair:
        node.input[1] = "given"


def scale(value: float) -> Change:
    def change(draft: Draft, pair: Any) -> None:
        for node in pair:
            node.input[1] = draft.constant(value)

    return change


def one_scale(value: float) -> Change:
    def change(draft: Draft, node: NodeProto) -> None:
        scales = draft.known(node.input[1]).copy()
        scales[-1] = value
        node.input[1] = draft.constant(scales)

    return change


def long_scale(draft: Draft, node: NodeProto) -> None:
    size = draft.known(node.input[1]).size + 1
    node.input[1] = draft.constant(np.ones(size))
    node.input[2] = draft.constant(np.zeros(size), np.int8)


def channel_scale(draft: Draft, pair: Any) -> object:
    shape = draft.graph.input[0].type.tensor_type.shape.dim
    if pair[0].input[0] != draft.graph.input[0].name:
        return False
    size = shape[1].dim_value
    for node in pair:
        node.input[1] = draft.constant(np.full(size, 0.1))
        node.input[2] = draft.constant(np.zeros(size), np.int8)
        draft.set(node, "axis", 1)
    return None


def other_axis(draft: Draft, node: NodeProto) -> object:
    size = draft.known(node.input[0]).shape[1]
    if size == 1:
        return False
    node.input[1] = draft.constant(np.ones(size))
    node.input[2] = draft.constant(np.zeros(size), np.int8)
    draft.set(node, "axis", 1)
    return None


def no_axis(draft: Draft, node: NodeProto) -> object:
    shape = draft.known(node.input[0]).shape
    draft.set(node, "axis", None)
    return None if shape[0] == shape[1] else False


def other_scale(draft: Draft, pair: Any) -> None:
    pair[1].input[1] = draft.constant(draft.known(pair[1].input[1]) * 2)


def leaked(draft: Draft, pair: Any) -> None:
    draft.add("Cast", [pair[0].output[0]], to=TensorProto.FLOAT)


def from_cast(draft: Draft, pair: Any) -> None:
    pair[1].input[0] = draft.add("Cast", [pair[0].input[0]], to=TensorProto.INT8)


def quantized_bias(dtype: Any) -> Change:
    def change(draft: Draft, node: NodeProto) -> object:
        if len(node.input) < 3:
            return False
        size = draft.known(node.input[2]).size
        integers, by = draft.constant(np.ones(size), dtype), draft.constant(np.ones(size))
        name = draft.add("DequantizeLinear", [integers, by], axis=0)
        node.input[2] = name
        return None

    return change


def quantized_sum(draft: Draft, node: NodeProto) -> object:
    for index in (0, 1):
        if draft.array(node.input[index]) is not None and draft.makes(
            node.input[1 - index], "MatMul"
        ):
            node.input[index] = draft.weight(*draft.known(node.input[index]).shape)
            return None
    return False


def four_bits(draft: Draft, node: NodeProto) -> object:
    array = draft.known(node.input[0])
    node.input[0] = draft.constant(array // 32, ml_dtypes.int4)
    node.input[2] = draft.constant(draft.known(node.input[2]), ml_dtypes.int4)
    return None if array.size % 2 else False


def grouped(draft: Draft, node: NodeProto) -> object:
    array = draft.known(draft.weight_of(node).input[0])  # type: ignore[union-attr]
    if len(array) != 16 or array.shape[1] != 16:
        return False
    draft.reshape_weight(node, array[:, :2], group=8)
    return None


def empty_bias(_: Draft, node: NodeProto) -> None:
    node.input[2:] = [""]


def computed_weight(draft: Draft, node: NodeProto) -> None:
    shape = draft.known(draft.weight_of(node).input[0]).shape  # type: ignore[union-attr]
    draft.graph.input.append(helper.make_tensor_value_info("given", TensorProto.FLOAT, shape))
    node.input[1] = draft.pair("given")


def second_output(_: Draft, node: NodeProto) -> None:
    node.output.append(f"{node.output[0]}_more")


def antialiased(draft: Draft, node: NodeProto) -> None:
    draft.set(node, "antialias", 1)


# --- types --------------------------------------------------------------------------------------


def mixed(draft: Draft, node: NodeProto) -> None:
    node.input[1] = draft.add("Cast", [node.input[1]], to=TensorProto.FLOAT16)


def half_weight(draft: Draft, node: NodeProto) -> object:
    weight = draft.weight_of(node)
    assert weight is not None
    weight.input[1] = draft.constant(draft.known(weight.input[1]), np.float16)
    return None


def half_bias(draft: Draft, node: NodeProto) -> object:
    if len(node.input) < 3:
        return False
    node.input[2] = draft.constant(draft.known(node.input[2]), np.float16)
    return None


def half_scale(draft: Draft, pair: Any) -> None:
    pair[0].input[1] = draft.constant(0.0625, np.float16)
    pair[1].input[1] = draft.constant(0.0625)


def in_float(draft: Draft, node: NodeProto) -> None:
    """The operator between casts."""
    result = node.output[0]
    for index, name in enumerate(node.input):
        node.input[index] = draft.add("Cast", [name], to=TensorProto.FLOAT)
    node.output[0] = f"{result}_float"
    cast = helper.make_node("Cast", [node.output[0]], [result], "back", to=TensorProto.FLOAT16)
    draft.graph.node.append(cast)


def cast_before(index: int) -> Change:
    def change(draft: Draft, pair: Any) -> None:
        pair[0].input[index] = draft.add("Cast", [pair[0].input[index]], to=TensorProto.FLOAT)

    return change


def cast_after(draft: Draft, node: NodeProto) -> None:
    node.input[0] = draft.add("Cast", [node.input[0]], to=TensorProto.FLOAT)


def factor(name: str) -> Change:
    return lambda draft, node: draft.set(node, name, 0.5)


def float_shape(draft: Draft, node: NodeProto) -> None:
    node.input[1] = draft.constant(draft.known(node.input[1]))


def half_resize(draft: Draft, node: NodeProto) -> None:
    sizes = draft.constant([1, 1, 2, 2], np.float16)
    draft.add("Resize", [node.output[0], "", sizes], mode="nearest")


def infinite(draft: Draft, node: NodeProto) -> object:
    index = next((at for at, name in enumerate(node.input) if draft.array(name) is not None), None)
    if index is None:
        return False
    values = draft.known(node.input[index]).copy()
    values.flat[0] = np.inf
    node.input[index] = draft.constant(values, np.float16)
    return None


def ops(*names: str) -> Callable[[Draft], list[NodeProto]]:
    return lambda draft: draft.nodes(*names)


def with_bias(draft: Draft) -> list[NodeProto]:
    return [node for node in draft.nodes("Conv", "Gemm") if len(node.input) > 2]


def joins(draft: Draft) -> list[NodeProto]:
    """Additions and products whose operands are no DQ."""
    return [
        node
        for node in draft.nodes("Add", "Mul")
        if not any(draft.makes(name, "DequantizeLinear") for name in node.input)
    ]


FORMAT_MUTATIONS: dict[str, Sequence[Mutation]] = {
    "F01": (whole(opset(9), opset(12), opset(25)), each(pairs, output_dtype)),
    "F02": (each(pairs, microsoft), each(convs, integer_conv)),
    "F03": (each(pairs, zero_point(0, np.uint8)), each(weights, unsigned_weight)),
    "F04": (each(pairs, zero_point(3, np.int8), zero_point([0, 0], np.int8), no_zero_point),),
    "F05": (each(pairs, computed_scale, input_scale),),
    "F06": (
        each(pairs, scale(0.0), scale(-1.0), scale(np.inf)),
        each(weights, one_scale(0.0), one_scale(np.nan)),
    ),
    "F07": (each(weights, long_scale),),
    "F08": (each(pairs, channel_scale),),
    "F09": (each(weights, other_axis, no_axis),),
    "F10": (each(pairs, other_scale, leaked, from_cast),),
    "F11": (
        each(with_bias, quantized_bias(np.int32), quantized_bias(np.int8)),
        each(ops("Add"), quantized_sum),
    ),
    "F12": (each(weights, four_bits), each(pairs, zero_point(0, ml_dtypes.int4))),
    "F13": (each(convs, grouped),),
    "F14": (each(convs, computed_weight),),
    "F15": (each(ops("Conv", "Gemm"), empty_bias),),
    "F16": (
        each(ops("MaxPool", "LayerNormalization"), second_output),
        each(ops("Resize"), antialiased),
    ),
    "T01": (each(joins, mixed),),
    "T02": (each(weighted, half_weight, half_bias),),
    "T03": (each(pairs, half_scale),),
    "T05": (each(pairs, cast_before(0), cast_before(1)), each(convs, cast_after)),
    "T07": (each(ops("Gemm"), factor("alpha"), factor("beta")),),
    "T08": (each(ops("Reshape"), float_shape), each(ops("Relu"), half_resize)),
}

HALF_MUTATIONS: dict[str, Sequence[Mutation]] = {
    "T04": (
        each(ops("Conv", "Relu", "Softmax", "Gelu", "LayerNormalization", "HardSwish"), in_float),
    ),
    "T06": (whole(opset(18), opset(17)),),
    "T09": (each(ops("Add"), infinite),),
}
