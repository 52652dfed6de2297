"""Ways to break the rules of placement, each at several places of a file."""

from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np
from onnx import NodeProto, TensorProto, helper

from tests.tensorrt.rules.draft import Draft
from tests.tensorrt.rules.format_mutations import (
    Change,
    Mutation,
    convs,
    each,
    ops,
    pairs,
    weighted,
    whole,
    zero_point,
)

FP8 = ml_dtypes.float8_e4m3fn


def unpaired(index: int) -> Change:
    """An operand in floating point."""

    def change(draft: Draft, node: NodeProto) -> object:
        before = draft.source(node.input[index])
        copying = draft.maker(before)
        while copying is not None and copying.op_type in {"Reshape", "Transpose"}:
            copying = draft.maker(copying.input[0])
        if before == node.input[index] or (copying and copying.op_type == "DequantizeLinear"):
            return False  # the pair before what copies is enough
        node.input[index] = before
        return None

    return change


def float_weight(draft: Draft, node: NodeProto) -> None:
    weight = draft.weight_of(node)
    assert weight is not None
    shape = draft.known(weight.input[0]).shape
    for reader in draft.readers(weight.output[0]):
        reader.input[list(reader.input).index(weight.output[0])] = draft.constant(np.ones(shape))


def paired(index: int) -> Change:
    """A pair at an input."""

    def change(draft: Draft, node: NodeProto) -> None:
        node.input[index] = draft.pair(node.input[index])

    return change


def through(op: str, **attributes: Any) -> Change:
    def change(draft: Draft, node: NodeProto) -> None:
        node.input[0] = draft.add(op, [node.input[0]], **attributes)

    return change


def following(op: str, *makers: str) -> Mutation:
    """A pair between an operator and what it fuses with."""

    def find(draft: Draft) -> list[NodeProto]:
        return [
            node
            for node in draft.nodes(op)
            if any(draft.makes(node.input[0], maker) for maker in makers)
        ]

    return each(find, paired(0), through("Identity"))


def gates(draft: Draft) -> list[NodeProto]:
    return [
        node
        for node in draft.nodes("Mul")
        if any(draft.makes(name, "Sigmoid") for name in node.input)
    ]


def gate_paired(draft: Draft, node: NodeProto) -> None:
    index = next(i for i, name in enumerate(node.input) if draft.makes(name, "Sigmoid"))
    node.input[index] = draft.pair(node.input[index])


def residuals(draft: Draft) -> list[NodeProto]:
    return [
        node
        for node in draft.nodes("Add")
        if sum(draft.makes(name, "DequantizeLinear") is not None for name in node.input) == 1
        and any(draft.makes(name, "Conv") for name in node.input)
    ]


def residual_paired(draft: Draft, node: NodeProto) -> None:
    index = next(i for i, name in enumerate(node.input) if draft.makes(name, "Conv"))
    node.input[index] = draft.pair(node.input[index])


def residual_unpaired(draft: Draft, node: NodeProto) -> object:
    """Found only where the sum is quantized."""
    for index, name in enumerate(node.input):
        node.input[index] = draft.source(name)
    relu = draft.readers(node.output[0])[0]
    quantized = any(one.op_type == "QuantizeLinear" for one in draft.readers(relu.output[0]))
    return None if quantized else False


def second_pair(draft: Draft, pair: Any) -> None:
    draft.add("Neg", [draft.pair(pair[0].input[0], 0.7)])


def concat_scale(draft: Draft, node: NodeProto) -> None:
    node.input[0] = draft.pair(node.input[0], 0.7)
    node.input[1] = draft.pair(node.input[1], 0.7)
    node.input[2] = draft.pair(node.input[2], 0.9)


def concat_mixed(draft: Draft, node: NodeProto) -> None:
    node.input[0] = draft.pair(node.input[0])


def pool_scale(draft: Draft, node: NodeProto) -> None:
    pool = draft.add("MaxPool", [node.input[0]], kernel_shape=[1, 1])
    node.input[0] = draft.pair(pool, 0.7)


def flat_scale(draft: Draft, node: NodeProto) -> None:
    flat = draft.add("Identity", [node.input[0]])
    node.input[0] = draft.pair(flat, 0.7)


def bare_pool(draft: Draft, node: NodeProto) -> None:
    pool = draft.add("AveragePool", [node.input[0]], kernel_shape=[1, 1])
    node.input[0] = draft.pair(draft.add("Neg", [pool]))


def isolated(draft: Draft, pair: Any) -> None:
    before = draft.pair(draft.add("Neg", [pair[0].input[0]]))
    pool = draft.add("GlobalAveragePool", [before])
    draft.add("Neg", [draft.pair(pool)])


def depthwise(draft: Draft, node: NodeProto) -> object:
    array = _array(draft, node)
    if array.shape[:2] != (16, 16):
        return False
    draft.reshape_weight(node, array[:, :1], group=16)
    return None


def narrow(draft: Draft, node: NodeProto) -> object:
    array = _array(draft, node)
    if array.shape[1] == 1:
        return False
    draft.reshape_weight(node, array[:12, :12])
    return None


def few_columns(draft: Draft, node: NodeProto) -> None:
    draft.reshape_weight(node, _array(draft, node)[:8])
    if len(node.input) > 2:
        node.input[2] = draft.constant(np.ones(8))


def _array(draft: Draft, node: NodeProto) -> Any:
    weight = draft.weight_of(node)
    assert weight is not None
    return draft.known(weight.input[0])


def written_norm(draft: Draft, node: NodeProto) -> None:
    value, last = node.output[0], draft.constant([-1], np.int64)
    centred = draft.add("Sub", [value, draft.add("ReduceMean", [value, last])])
    squared = draft.add("Pow", [centred, draft.constant(2)])
    variance = draft.add("ReduceMean", [squared, last])
    root = draft.add("Sqrt", [draft.add("Add", [variance, draft.constant(1e-6)])])
    draft.add("Div", [centred, root])


def norm_after(draft: Draft, node: NodeProto) -> None:
    draft.add("LayerNormalization", [node.output[0], draft.constant(np.ones(8))])


def quantized_factor(draft: Draft, node: NodeProto) -> None:
    size = draft.known(node.input[1]).size
    by = draft.constant(0.1), draft.constant(0, np.int8)
    node.input[1] = draft.add("DequantizeLinear", [draft.constant(np.ones(size), np.int8), *by])


def products(draft: Draft) -> list[NodeProto]:
    return [node for node in draft.nodes("MatMul") if draft.makes(node.input[0], "Softmax")]


def completed(draft: Draft, node: NodeProto) -> None:
    """All of an attention quantized, scaled and transposed before its pairs."""
    scores = _scores(draft)
    for index, name in enumerate(scores.input):
        scores.input[index] = draft.pair(_floating(draft, name))
    if not draft.makes(node.input[0], "DequantizeLinear"):
        node.input[0] = draft.pair(node.input[0], 1 / 127)


def _scores(draft: Draft) -> NodeProto:
    (softmax,) = draft.nodes("Softmax")
    scores = draft.makes(softmax.input[0], "MatMul")
    assert scores is not None
    return scores


def _floating(draft: Draft, name: str) -> str:
    """A value whose way has no pair between scaling and projection."""
    node = draft.maker(name)
    while node is not None and node.op_type in {"Mul", "Transpose", "Reshape"}:
        node.input[0] = draft.source(node.input[0])
        node = draft.maker(node.input[0])
    return draft.source(name)


def incomplete(name: str) -> Change:
    def change(draft: Draft, node: NodeProto) -> None:
        completed(draft, node)
        scores = _scores(draft)
        place, index = {"query": (scores, 0), "key": (scores, 1)}.get(name, (node, 0))
        index = 1 if name == "value" else index
        place.input[index] = draft.source(place.input[index])

    return change


def large_heads(draft: Draft, node: NodeProto) -> None:
    completed(draft, node)
    for index, axis in ((0, 3), (1, 2)):
        _repeat(draft, index, axis, 3)


def many_positions(index: int, axis: int) -> Change:
    def change(draft: Draft, node: NodeProto) -> None:
        completed(draft, node)
        _repeat(draft, index, axis, 100)

    return change


def _repeat(draft: Draft, index: int, axis: int, times: int) -> None:
    scores = _scores(draft)
    repeats = [times if one == axis else 1 for one in range(4)]
    value = draft.source(scores.input[index])
    tiled = draft.add("Tile", [value, draft.constant(repeats, np.int64)])
    scores.input[index] = draft.pair(tiled)


def scaled_late(op: str, index: int) -> Change:
    def change(draft: Draft, node: NodeProto) -> None:
        completed(draft, node)
        scores = _scores(draft)
        more: Sequence[str] = [draft.constant(0.5)] if op == "Mul" else []
        settings = {"perm": [0, 1, 2, 3]} if op == "Transpose" else {}
        scores.input[index] = draft.add(op, [scores.input[index], *more], **settings)

    return change


def fp8_attention(softmax_scale: float, *without: str) -> Change:
    def change(draft: Draft, node: NodeProto) -> None:
        completed(draft, node)
        scores = _scores(draft)
        for place, index in ((scores, 0), (scores, 1), (node, 0), (node, 1)):
            value = draft.source(place.input[index])
            by = softmax_scale if place is node and index == 0 else 0.1
            place.input[index] = draft.pair(value, by, FP8)
        if "softmax" in without:
            node.input[0] = draft.source(node.input[0])
        if "key" in without:
            scores.input[1] = draft.source(scores.input[1])

    return change


def fp8_conv(draft: Draft, node: NodeProto) -> None:
    node.input[0] = draft.pair(draft.source(node.input[0]), 0.1, FP8)
    node.input[1] = draft.weight(*_array(draft, node).shape, dtype=FP8)


def output_paired(draft: Draft) -> None:
    name = draft.graph.output[0].name
    maker = draft.maker(name)
    assert maker is not None
    maker.output[0] = "before"
    last = draft.maker(draft.pair("before"))
    assert last is not None
    last.output[0] = name


def padded(draft: Draft, node: NodeProto) -> None:
    pads = draft.constant([0, 0, 1, 1, 0, 0, 1, 1], np.int64)
    node.input[0] = draft.pair(draft.add("Pad", [draft.source(node.input[0]), pads]))


def embedded(draft: Draft) -> None:
    draft.add("Gather", [draft.weight(8, 4), draft.constant([1, 2], np.int64)])


def parallel(draft: Draft, node: NodeProto) -> object:
    value = node.output[0]
    relu = next((one for one in draft.readers(value) if one.op_type == "Relu"), None)
    if relu is None or not any(
        one.op_type == "QuantizeLinear" for one in draft.readers(relu.output[0])
    ):
        return False
    other = draft.add("Conv", [*node.input[:2]], kernel_shape=_array(draft, node).shape[2:])
    draft.add("Neg", [draft.pair(other, 0.7)])
    return None


def gated(draft: Draft, node: NodeProto) -> None:
    value = node.output[0]
    gate = draft.add("Sigmoid", [draft.add("GlobalAveragePool", [value])])
    product = draft.add("Mul", [draft.pair(value), draft.pair(gate)])
    draft.add("Neg", [draft.pair(product)])


def transposed(draft: Draft, node: NodeProto) -> None:
    by = draft.constant(np.ones(16)), draft.constant(np.zeros(16), np.int8)
    integers = draft.constant(np.ones((16, 16, 2, 2)), np.int8)
    weight = draft.add("DequantizeLinear", [integers, *by], axis=1)
    relu = draft.add("Relu", [draft.add("ConvTranspose", [node.input[0], weight])])
    draft.add("Neg", [draft.pair(relu)])


def linears(draft: Draft) -> list[NodeProto]:
    return [node for node in weighted(draft) if node.op_type in {"Gemm", "MatMul"}]


def queried(draft: Draft, node: NodeProto) -> None:
    """Another reader: an attention of four heads, one query and two keys."""
    size = draft.known(draft.weight_of(node).input[0]).shape[-1]  # type: ignore[union-attr]

    def projected(*sizes: int) -> str:
        product = draft.add("MatMul", [node.input[0], draft.weight(size, size)])
        return draft.add("Reshape", [product, draft.constant(sizes, np.int64)])

    def twice(value: str, *times: int) -> str:
        return draft.add("Tile", [value, draft.constant(times, np.int64)])

    scores = draft.add("MatMul", [projected(4, 1, -1), twice(projected(4, -1, 1), 1, 1, 2)])
    weights = draft.add("Softmax", [scores], axis=-1)
    result = draft.add("MatMul", [weights, twice(projected(4, 1, -1), 1, 2, 1)])
    draft.graph.output.append(helper.make_tensor_value_info(result, TensorProto.FLOAT, None))


PLACEMENT_MUTATIONS: dict[str, Sequence[Mutation]] = {
    "P01": (each(weighted, unpaired(0), float_weight),),
    "P02": (following("Relu", "Conv", "Gemm", "Add"),),
    "P03": (
        each(gates, gate_paired),
        each(ops("Gelu", "HardSwish", "Sigmoid"), paired(0)),
    ),
    "P04": (each(residuals, residual_paired, residual_unpaired),),
    "P05": (each(pairs, second_pair),),
    "P06": (each(ops("Concat"), concat_scale, concat_mixed),),
    "P07": (each(convs, pool_scale, flat_scale),),
    "P08": (each(convs, bare_pool),),
    "P09": (each(pairs, isolated),),
    "P10": (each(convs, depthwise),),
    "P11": (each(convs, narrow),),
    "P12": (each(linears, few_columns),),
    "P13": (each(ops("Relu", "Gelu"), written_norm),),
    "P14": (each(convs, norm_after),),
    "P15": (each(ops("Softmax"), paired(0)), each(ops("LayerNormalization"), quantized_factor)),
    "P16": (each(products, *map(incomplete, ("query", "key", "softmax", "value"))),),
    "P17": (each(products, large_heads, many_positions(0, 2), many_positions(1, 3)),),
    "P18": (each(products, *(scaled_late(op, i) for op in ("Mul", "Transpose") for i in (0, 1))),),
    "P19": (
        each(
            products,
            fp8_attention(1 / 127),
            fp8_attention(1.0),
            fp8_attention(1 / 448, "softmax"),
            fp8_attention(1 / 448, "key"),
        ),
    ),
    "P20": (each(convs, fp8_conv),),
    "P21": (whole(output_paired),),
    "P22": (each(convs, padded),),
    "P23": (whole(embedded),),
    "P24": (each(convs, parallel),),
    "P25": (each(convs, gated),),
    "P26": (each(pairs, zero_point(0, FP8)),),
    "P27": (each(convs, transposed),),
    "P28": (each(linears, queried),),
}
