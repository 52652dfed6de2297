"""For each rule of format and types a model that breaks it, and one close to it that does not."""

from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from tests.tensorrt.rules.models import Text

HALF = TensorProto.FLOAT16
Array = tuple[str, NDArray[np.generic]]

CONV = """a = QDQ(x, s)
w = DQ(W_16x16x3x3)
c = Conv<pads=[1,1,1,1]>(a, w, B_16)
y = Relu(c)"""
HALF_CONV = """a_q = QuantizeLinear(x, h, z)
a = DequantizeLinear(a_q, h, z)
w = DequantizeLinear<axis=0>(W_16x16x3x3, H_16, W0_16)
c = Conv<pads=[1,1,1,1]>(a, w, H_16)
y = Relu(c)"""
WEIGHT = "w = DequantizeLinear<axis=1>(W_16x16, B_16, W0_16)\ny = MatMul(x, w)"
PAIR = "q = QuantizeLinear(x, s, z)\ny = DequantizeLinear(q, s, z)"
PER_CHANNEL = "q = QuantizeLinear(x, B_16, W0_16)\na = DequantizeLinear(q, B_16, W0_16)"
GROUPS = """a = QDQ(x, s)
w = DQ(W_16x{1}x3x3)
y = Conv<group={0}>(a, w)"""
FOUR_BITS = "w = DequantizeLinear(w4, s, z4)\ny = MatMul(x, w)"
IMAGE = ("x", (1, 16, 8, 8))
ROWS = (("x", (8, 16)),)


def array(name: str, values: object, dtype: Any = np.float32) -> Array:
    return name, np.array(values, dtype)


def conv(old: str = "", new: str = "", **changes: Any) -> Text:
    """A quantized convolution, with a word of it replaced."""
    assert old in CONV
    return Text(CONV.replace(old, new) if old else CONV, **changes)


def half(text: str = HALF_CONV, **changes: Any) -> Text:
    return Text(text, dtype=HALF, **changes)


def four_bits(rows: int, columns: int) -> Text:
    arrays = array("w4", np.zeros((rows, columns)), ml_dtypes.int4), array("z4", 0, ml_dtypes.int4)
    return Text(FOUR_BITS, (("x", (8, rows)),), arrays=arrays)


FORMAT: dict[str, tuple[Text, Text]] = {
    "F01": (conv(opset=25), conv(opset=24)),
    "F02": (
        Text("q = QuantizeLinear(x, s, z)\nc = ConvInteger(q, W_16x16x3x3)\ny = Cast<to=1>(c)"),
        conv(),
    ),
    "F03": (conv(arrays=[array("z", 0, np.uint8)]), conv(arrays=[array("z", 0, np.int8)])),
    "F04": (conv(arrays=[array("z", 3, np.int8)]), conv(arrays=[array("z", 0, np.int8)])),
    "F05": (
        conv("a = QDQ(x, s)", "p = ReduceMax<keepdims=0>(x)\na = QDQ(x, p)"),
        conv("a = QDQ(x, s)", "p = Identity(s)\na = QDQ(x, p)"),
    ),
    "F06": (conv(arrays=[array("s", 0.0)]), conv(arrays=[array("s", 1e-6)])),
    "F07": (
        Text(WEIGHT.replace("B_16, W0_16", "B_8, W0_8"), ROWS),
        Text(WEIGHT, ROWS),
    ),
    "F08": (
        conv("a = QDQ(x, s)", PER_CHANNEL),
        conv("a = QDQ(x, s)", PER_CHANNEL.replace("B_16, W0_16", "s, z")),
    ),
    "F09": (
        conv("DQ(W_16x16x3x3)", "DequantizeLinear(W_16x16x3x3, B_16, W0_16)"),
        conv("DQ(W_16x16x3x3)", "DequantizeLinear<axis=-4>(W_16x16x3x3, B_16, W0_16)"),
    ),
    "F10": (Text(PAIR.replace("(q, s", "(q, s1")), Text(PAIR)),
    "F11": (
        conv(
            "c = Conv<pads=[1,1,1,1]>(a, w, B_16)",
            "b = DequantizeLinear<axis=0>(b32, B_16)\nc = Conv<pads=[1,1,1,1]>(a, w, b)",
            arrays=[array("b32", [7] * 16, np.int32)],
        ),
        conv(),
    ),
    "F12": (four_bits(3, 5), four_bits(4, 5)),
    "F13": (Text(GROUPS.format(8, 2)), Text(GROUPS.format(4, 4))),
    "F14": (
        Text("a = QDQ(x, s)\nw = QDQ(k, s1)\ny = Conv(a, w)", (IMAGE, ("k", (16, 16, 3, 3)))),
        Text("a = QDQ(x, s)\nw = QDQ(B_16x16x3x3, s1)\ny = Conv(a, w)"),
    ),
    "F15": (conv("w, B_16)", "w, , )"), conv("w, B_16)", "w)")),
    "F16": (
        Text("y = MaxPool<kernel_shape=[3,3],dilations=[2,2]>(x)"),
        Text("y = MaxPool<kernel_shape=[3,3],dilations=[1,1]>(x)"),
    ),
}

TYPES: dict[str, tuple[Text, Text]] = {
    "T01": (Text("y = Add(x, H_16x8x8)"), Text("y = Add(x, B_16x8x8)")),
    "T02": (
        half(HALF_CONV.replace("3x3, H_16", "3x3, B_16")),
        half(),
    ),
    "T03": (
        Text(PAIR.replace("(x, s", "(x, h"), arrays=[array("s", 0.0625)]),
        Text(PAIR, arrays=[array("s", 0.0625)]),
    ),
    "T04": (
        half(HALF_CONV + "\nf = Cast<to=1>(y)\ng = Sigmoid(f)\no = Cast<to=10>(g)"),
        half(HALF_CONV + "\ng = Sigmoid(y)"),
    ),
    "T05": (
        conv("c = Conv<pads=[1,1,1,1]>(a", "a2 = Cast<to=1>(a)\nc = Conv(a2"),
        conv(),
    ),
    "T06": (half(opset=17), half(opset=19)),
    "T07": (
        Text("y = Gemm<alpha=0.5>(x, B_16x16, B_16)", ROWS),
        Text("y = Gemm<alpha=1.0>(x, B_16x16, B_16)", ROWS),
    ),
    "T08": (
        Text("y = Reshape(x, f)", arrays=[array("f", [1, 1024])]),
        Text("y = Reshape(x, f)", arrays=[array("f", [1, 1024], np.int64)]),
    ),
    "T09": (
        half("y = Mul(x, m)", arrays=[array("m", [np.inf], np.float16)]),
        half("y = Mul(x, m)", arrays=[array("m", [65504], np.float16)]),
    ),
}
