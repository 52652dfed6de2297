"""For each rule of fusion a model in which it holds, and one close to it in which it does not."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import TensorProto

from tests.tensorrt.rules.format_cases import ROWS, array
from tests.tensorrt.rules.models import Text
from tests.tensorrt.rules.placement_cases import CONV, LAST, LINEAR, NORM, NORM_ARRAYS, attention

HALF = TensorProto.FLOAT16
FLOAT_CONV = "c = Conv<pads=[1,1,1,1]>(x, B_16x16x3x3, B_16)\n"
HEADS = [("q", (1, 2, 8, 16)), ("k", (1, 2, 16, 8)), ("v", (1, 2, 8, 16))]
SAME = [(name, (1, 2, 8, 16)) for name in "qkv"]
SLICE = "Slice(x, I_1, I_8, I_2)"
BMM = "m = MatMul(q, k)\np = Softmax(m)\ny = MatMul(p, v)"


@dataclass(frozen=True)
class Case:
    """A rule at work.

    Attributes:
        holds: A model in which it holds.
        nodes: Of the group that it makes or adds to, without Q/DQ of weights; in order.
        not_: A model in which it does not.
        dtype: What the group computes in.
        instead: A rule that holds there; empty where nothing is to say.
    """

    holds: Text
    nodes: Sequence[str]
    not_: Text
    dtype: str = ""
    instead: str = ""


def text(lines: str, **changes: Any) -> Text:
    return Text(lines, **changes)


def conv(more: str, **changes: Any) -> Text:
    """A quantized convolution, `c`, and what follows."""
    return Text(CONV + more, **changes)


def closed(more: str, result: str, **changes: Any) -> Text:
    """The same, whose result is quantized and read by another convolution."""
    return Text(CONV + more.rstrip() + LAST.format(result), **changes)


CASES = {
    "N01": Case(
        text("a = Add(B_16x8x8, B_1x8x8)\ny = Mul(x, a)"),
        ["Add_a"],
        text("a = Add(x, B_1x8x8)\ny = Mul(x, a)"),
        instead="K13",
    ),
    "N02": Case(
        Text(
            "a = QDQ(x, s)\nw = DQ(W_16x16x1x1)\nb = DequantizeLinear(i, s)\ny = Conv(a, w, b)",
            arrays=[array("i", np.ones(16), np.int32)],
        ),
        ["DequantizeLinear_b"],
        text("a = QDQ(x, s)\nw = DQ(W_16x16x1x1)\ny = Conv(a, w, B_16)"),
    ),
    "K01": Case(
        attention(),
        ["MatMul_m", "Softmax_p", "MatMul_o"],
        attention(p="p1 = Identity(p)"),
        "INT8",
        "K08",
    ),
    "K02": Case(
        text(BMM, inputs=HEADS), ["Softmax_p"], text(BMM, inputs=HEADS, dtype=HALF), "FP32"
    ),
    "K03": Case(
        text("y = Attention(q, k, v)", inputs=SAME, opset=23, dtype=HALF),
        ["Attention_y"],
        text("y = my.Attention(q, k, v)", inputs=SAME, opset=23, dtype=HALF),
        "FP16",
        "K18",
    ),
    "K04": Case(
        closed("n = Add(c, a)\nr = Relu(n)\n", "r"),
        ["Conv_c", "Add_n", "Relu_r"],
        closed("d = QDQ(c, s1)\nn = Add(d, a)\nr = Relu(n)\n", "r"),
        "INT8",
        "K12",
    ),
    "K05": Case(
        closed("g = Sigmoid(c)\nn = Mul(c, g)\n", "n"),
        ["Conv_c", "Sigmoid_g", "Mul_n"],
        closed("d = QDQ(c, s1)\ng = Sigmoid(d)\nn = Mul(d, g)\n", "n"),
        "INT8",
        "K12",
    ),
    "K06": Case(
        text("p = Pad(x, I_0_0_1_1_0_0_1_1)\ny = Conv(p, B_16x16x3x3)"),
        ["Pad_p", "Conv_y"],
        text("p = Pad(x, I_0_0_1_1_0_0_1_1)\ny = Relu(p)"),
        "FP32",
    ),
    "K07": Case(
        closed("r = Relu(c)\nm = MaxPool<kernel_shape=[2,2]>(r)\n", "m"),
        ["Conv_c", "Relu_r", "MaxPool_m"],
        conv("r = Relu(c)\ny = MaxPool<kernel_shape=[2,2]>(r)"),
        "INT8",
        "K11",
    ),
    "K08": Case(
        text("c = MatMul(x, B_16x16)\nn = Add(c, B_16)\ny = Gelu(n)", inputs=ROWS),
        ["MatMul_c", "Add_n", "Gelu_y"],
        text(LINEAR + "n = Add(c, B_16)\ny = Gelu(n)", inputs=ROWS),
        "FP32",
        "K13",
    ),
    "K09": Case(
        text(NORM.format("x"), arrays=NORM_ARRAYS),
        ["ReduceMean_m", "Sub_d", "Pow_p", "ReduceMean_v", "Add_e", "Sqrt_r", "Div_y"],
        text(NORM.format("x").replace("Sqrt", "Exp"), arrays=NORM_ARRAYS),
        "FP32",
        "K13",
    ),
    "K10": Case(
        text("y = LayerNormalization(x, H_8)", dtype=HALF),
        ["LayerNormalization_y"],
        text("y = my.LayerNormalization(x, H_8)", dtype=HALF),
        "FP16",
    ),
    "K11": Case(
        closed("d = QDQ(c, s1)\np = GlobalAveragePool(d)\n", "p"),
        ["GlobalAveragePool_p"],
        closed("d = QDQ(c, s1)\np = ReduceMax(d, I_2_3)\n", "p"),
        "INT8",
        "K18",
    ),
    "K12": Case(
        closed("d = QDQ(c, s1)\nn = Mul(d, a)\n", "n"),
        ["Mul_n"],
        closed("n = Mul(c, a)\n", "n"),
        "INT8",
        "K13",
    ),
    "K13": Case(
        text("a = Relu(x)\ng = Sigmoid(a)\nb = Mul(a, g)\ny = Add(b, x)"),
        ["Relu_a", "Sigmoid_g", "Mul_b", "Add_y"],
        text("a = ReduceSum(x)\ng = Softmax(a)\ny = ReduceMax(g)"),
        "FP32",
    ),
    "N03": Case(
        closed("r = Conv<pads=[1,1,1,1]>(a, w)\nk = Concat<axis=3>(c, r)\n", "k"),
        ["Concat_k"],
        closed("r = Conv<pads=[1,1,1,1]>(a, w)\nt = ReduceMax(k)\nk = Concat<axis=3>(c, r)\n", "k"),
        instead="K14",
    ),
    "K14": Case(
        text("y = Concat<axis=1>(x, x)"),
        ["Concat_y"],
        text("y = Concat<axis=0>(B_16, B_16)"),
        "FP32",
        "N01",
    ),
    "K15": Case(
        text("a = Reshape(x, I_1_16_64)\ny = Transpose<perm=[0,2,1]>(a)"),
        ["Reshape_a", "Transpose_y"],
        text("a = Reshape(x, I_1_16_64)\ny = Flatten(a)"),
        "FP32",
        "N04",
    ),
    "N04": Case(
        text("b = Relu(x)\na = Reshape(b, I_1_16_64)\ny = Flatten(a)"),
        ["Reshape_a", "Flatten_y"],
        text("b = Softmax(x)\na = Reshape(b, I_1_16_64)\ny = Expand(a, I_2_16_64)"),
        instead="K16",
    ),
    "K16": Case(
        text("y = Slice(x, I_0, I_2, I_1)"), ["Slice_y"], text("y = Flatten(x)"), "FP32", "N04"
    ),
    "K17": Case(
        text("a = Cast<to=10>(x)\nb = Softmax(a)\ny = Cast<to=1>(b)"),
        ["Cast_a"],
        text("a = Relu(x)\ny = Relu(a)"),
        "FP16",
    ),
    "K18": Case(text("y = ReduceMax(x)"), ["ReduceMax_y"], text("y = Neg(x)"), "FP32", "K13"),
    "Q01": Case(
        conv(""),
        ["DequantizeLinear_w"],
        text("w = DQ(W_16x16x1x1)\ny = Conv(x, w)"),
        "INT8",
        "N05",
    ),
    "N05": Case(
        text("w = DQ(W_16x16x1x1)\ny = Conv(x, w)"),
        ["DequantizeLinear_w"],
        conv(""),
        instead="K05",
    ),
    "Q02": Case(
        closed("r = Relu(c)\n", "r"),
        ["QuantizeLinear_b_q"],
        closed("r = Softmax(c)\n", "r"),
        "INT8",
        "K19",
    ),
    "N06": Case(
        closed("d = QDQ(c, s1)\nr = Flatten(d)\nf = Reshape(r, I_1_16_8_8)\n", "f"),
        ["DequantizeLinear_d", "QuantizeLinear_b_q"],
        closed("d = QDQ(c, s)\nr = Flatten(d)\nf = Reshape(r, I_1_16_8_8)\n", "f"),
        instead="K19",
    ),
    "K19": Case(
        conv(""),
        ["QuantizeLinear_a_q"],
        text("y = Relu(x)"),
        "INT8",
    ),
    "Q03": Case(
        conv(""),
        ["DequantizeLinear_a"],
        conv("n = Softmax(a)\ny = Add(n, c)"),
        "INT8",
        "K20",
    ),
    "K20": Case(
        closed("d = QDQ(c, s1)\nr = Softmax(d)\n", "r"),
        ["DequantizeLinear_d"],
        closed("d = QDQ(c, s1)\nr = MaxPool<kernel_shape=[1,1]>(d)\n", "r"),
        "FP32",
        "N06",
    ),
    "Q04": Case(
        text("n = LayerNormalization(x, B_16)\n" + LINEAR.replace("(x,", "(n,"), inputs=ROWS),
        ["QuantizeLinear_a_q"],
        text("n = Softmax(x)\n" + LINEAR.replace("(x,", "(n,"), inputs=ROWS),
        "FP32",
        "K19",
    ),
    "K21": Case(
        text(f"a = {SLICE}\nb = Concat<axis=2>(a, x)\nc = Transpose(b)\ny = Relu(c)"),
        ["Slice_a", "Concat_b", "Transpose_c", "Relu_y"],
        text(f"a = Softmax(x)\ny = {SLICE.replace('x', 'a')}"),
        "FP32",
        "K16",
    ),
    "K22": Case(
        text("a = Neg(x)\nn = LayerNormalization(a, H_8)\ny = Mul(n, a)", dtype=HALF),
        ["Neg_a", "LayerNormalization_n", "Mul_y"],
        text("a = Neg(x)\nb = Softmax(a)\ny = Mul(b, a)", dtype=HALF),
        "FP16",
        "K18",
    ),
    "K23": Case(
        text("a = Relu(x)\ny = Transpose(a)"),
        ["Relu_a", "Transpose_y"],
        text("a = LayerNormalization(x, B_8)\ny = Transpose(a)"),
        "FP32",
        "K15",
    ),
}
