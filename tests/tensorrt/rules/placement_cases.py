"""For each rule of placement a model that breaks it, and one close to it that does not."""

from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np
from onnx import TensorProto

from tests.tensorrt.rules.format_cases import GROUPS, ROWS, Array, array
from tests.tensorrt.rules.models import Text

CONV = """a = QDQ(x, s)
w = DQ(W_16x16x3x3)
c = Conv<pads=[1,1,1,1]>(a, w, B_16)
"""
OTHER = """wr = DQ(W_16x16x1x1)
r = Conv(a, wr)
"""
LAST = """
b = QDQ({}, s1)
w2 = DQ(W_16x16x1x1)
y = Conv(b, w2)"""
LINEAR = """a = QDQ(x, s)
w = DQ(W_16x16)
t = Transpose<perm=[1,0]>(w)
c = MatMul(a, t)
"""
NORM = """m = ReduceMean({0}, last)
d = Sub({0}, m)
p = Pow(d, two)
v = ReduceMean(p, last)
e = Add(v, two)
r = Sqrt(e)
y = Div(d, r)"""
NORM_ARRAYS = [array("two", 2), array("last", [-1], np.int64)]
FP8 = ml_dtypes.float8_e4m3fn
TWO = (("x", (1, 16, 8, 8)), ("r", (1, 16, 8, 8)))


def conv(more: str, **changes: Any) -> Text:
    return Text(CONV + more, **changes)


def quantized(name: str, **changes: Any) -> Text:
    """A quantized convolution, then what `name` says, quantized and convolved again."""
    lines, _, result = name.rpartition("; ")
    return Text(CONV + lines.replace("; ", "\n") + LAST.format(result), **changes)


def attention(head: int = 16, positions: int = 8, **changes: str) -> Text:
    """Attention with all its pairs; `changes` replaces lines by name."""
    lines = {
        "q": "q1 = QDQ(q, s)",
        "k": "k1 = QDQ(k, s)",
        "m": "m = MatMul(q1, k1)",
        "softmax": "p = Softmax(m)",
        "p": "p1 = QDQ(p, s)",
        "v": "v1 = QDQ(v, s)",
        "o": f"o = MatMul(p1, v1)\no1 = QDQ(o, s)\nw = DQ(W_{head}x{head})\n"
        "t = Transpose<perm=[1,0]>(w)\ny = MatMul(o1, t)",
    }
    inputs = (
        ("q", (1, 2, positions, head)),
        ("k", (1, 2, head, positions)),
        ("v", (1, 2, positions, head)),
    )
    return Text("\n".join((lines | changes).values()), inputs)


def one_query(heads: int = 4, queries: int = 1, keys: int = 8, scale: str = "H_64") -> Text:
    """Attention of one query, with quantized projections; `scale` is that of their weights."""
    head, lines = 64 // heads, ["a = QDQ(x, h)", "b = QDQ(u, h)"]
    dequantize = "DequantizeLinear<axis=0>" if scale == "H_64" else "DequantizeLinear"
    zero = "W0_64" if scale == "H_64" else "z"
    for one, source, rows, order in (
        ("q", "b", queries, "0,2,1,3"),
        ("k", "a", keys, "0,2,3,1"),
        ("v", "a", keys, "0,2,1,3"),
    ):
        lines += [
            f"w{one} = {dequantize}(weight{one}, {scale}, {zero})",
            f"t{one} = Transpose<perm=[1,0]>(w{one})",
            f"{one}0 = MatMul({source}, t{one})",
            f"{one}1 = Reshape({one}0, I_1_{rows}_{heads}_{head})",
            f"{one} = Transpose<perm=[{order}]>({one}1)",
        ]
    lines += ["m = MatMul(q, k)", "p = Softmax(m)", "o = MatMul(p, v)"]
    inputs = (("x", (1, keys, 64)), ("u", (1, queries, 64)))
    arrays = [array(f"weight{one}", np.full((64, 64), at), np.int8) for at, one in enumerate("qkv")]
    return Text("\n".join(lines), inputs, dtype=TensorProto.FLOAT16, arrays=arrays)


def fp8_attention(scale: float = 1 / 448, query: int = 128, key: int = 128) -> Text:
    pairs = {
        name: f"{name}q = QuantizeLinear({name}, {by}, z8)\n"
        f"{name}1 = DequantizeLinear({name}q, {by}, z8)"
        for name, by in (("q", "h"), ("k", "h"), ("p", "p8"), ("v", "h"))
    }
    end = "o = MatMul(p1, v1)\noq = QuantizeLinear(o, h, z8)\nd = DequantizeLinear(oq, h, z8)\n"
    text = attention(64, 128, **pairs, o=f"{end}y = MatMul(d, H_64x64)")
    arrays = [array("z8", 0, FP8), array("p8", scale, np.float16)]
    inputs = (("q", (1, 2, query, 64)), ("k", (1, 2, 64, key)), ("v", (1, 2, key, 64)))
    return Text(text.lines, inputs, dtype=TensorProto.FLOAT16, arrays=arrays)


def fp8_conv(channels: int) -> Text:
    text = """aq = QuantizeLinear(x, s, z8)
a = DequantizeLinear(aq, s, z8)
w = DequantizeLinear(w8, s, z8)
y = Conv(a, w)"""
    weight = array("w8", np.ones((channels, channels, 3, 3)), FP8)
    arrays: Sequence[Array] = [array("z8", 0, FP8), weight]
    return Text(text, (("x", (1, channels, 8, 8)),), arrays=arrays)


PLACEMENT: dict[str, tuple[Text, Text]] = {
    "P01": (
        Text("w = DQ(W_16x16x3x3)\ny = Conv(x, w)"),
        Text("a = QDQ(x, s)\nw = DQ(W_16x16x3x3)\ny = Conv(a, w)"),
    ),
    "P02": (
        conv("b = QDQ(c, s1)\ny = Relu(b)"),
        quantized("r = Relu(c); r"),
    ),
    "P03": (
        quantized("g = Sigmoid(c); g1 = QDQ(g, s2); m = Mul(c, g1); m"),
        quantized("g = Sigmoid(c); m = Mul(c, g); m"),
    ),
    "P04": (
        conv("c1 = QDQ(c, s1)\nr1 = QDQ(r, s2)\nd = Add(c1, r1)\ny = Relu(d)", inputs=TWO),
        conv("r1 = QDQ(r, s2)\nd = Add(c, r1)\ny = Relu(d)", inputs=TWO),
    ),
    "P05": (
        conv("b = QDQ(x, s1)\nw2 = DQ(W_16x16x1x1)\nd = Conv(b, w2)\ny = Mul(c, d)"),
        conv("w2 = DQ(W_16x16x1x1)\nd = Conv(a, w2)\ny = Mul(c, d)"),
    ),
    "P06": (
        quantized("p = QDQ(c, s1); q = QDQ(r, s2); k = Concat<axis=2>(p, q); k", inputs=TWO),
        quantized("p = QDQ(c, s1); q = QDQ(r, s1); k = Concat<axis=2>(p, q); k", inputs=TWO),
    ),
    "P07": (
        quantized("p = QDQ(c, s2); k = MaxPool<kernel_shape=[2,2]>(p); k"),
        quantized("p = QDQ(c, s1); k = MaxPool<kernel_shape=[2,2]>(p); k"),
    ),
    "P08": (
        conv("p = QDQ(c, s2)\nk = GlobalAveragePool(p)\ny = Softmax(k)"),
        quantized("p = QDQ(c, s2); k = GlobalAveragePool(p); k"),
    ),
    "P09": (
        Text("a = QDQ(x, s)\nk = GlobalAveragePool(a)\nb = QDQ(k, s1)\ny = Softmax(b)"),
        conv("p = QDQ(c, s2)\nk = GlobalAveragePool(p)\nb = QDQ(k, s1)\ny = Exp(b)"),
    ),
    "P10": (Text(GROUPS.format(16, 1)), Text(GROUPS.format(1, 16))),
    "P11": (
        Text("a = QDQ(x, s)\nw = DQ(W_12x12x3x3)\ny = Conv(a, w)", (("x", (1, 12, 8, 8)),)),
        Text("a = QDQ(x, s)\nw = DQ(W_16x3x3x3)\ny = Conv(a, w)", (("x", (1, 3, 8, 8)),)),
    ),
    "P12": (Text(LINEAR, (("x", (1, 16)),)), Text(LINEAR, ROWS)),
    "P13": (
        Text(LINEAR + NORM.format("c"), ROWS, arrays=NORM_ARRAYS),
        Text(LINEAR + "y = LayerNormalization(c, B_16, B_16)", ROWS),
    ),
    "P14": (
        conv("y = LayerNormalization<axis=1>(c, B_16x8x8)"),
        conv("n = QDQ(c, s1)\ny = LayerNormalization<axis=1>(n, B_16x8x8)"),
    ),
    "P15": (
        Text("a = QDQ(x, s)\ny = Softmax(a)"),
        Text("p = Softmax(x)\ny = Neg(p)"),
    ),
    "P16": (attention(p="p1 = Identity(p)"), attention()),
    "P17": (attention(head=24), attention(head=32)),
    "P18": (
        attention(m="q2 = Mul(q1, B_1)\nm = MatMul(q2, k1)"),
        attention(q="q2 = Mul(q, B_1)\nq1 = QDQ(q2, s)"),
    ),
    "P19": (fp8_attention(1 / 127), fp8_attention(1 / 448)),
    "P20": (fp8_conv(16), fp8_conv(32)),
    "P21": (conv("y = QDQ(c, s1)"), conv("y = Relu(c)")),
    "P22": (
        Text("p = Pad(x, I_0_0_1_1_0_0_1_1)\na = QDQ(p, s)\nw = DQ(W_16x16x3x3)\ny = Conv(a, w)"),
        Text("a = QDQ(x, s)\np = Pad(a, I_0_0_1_1_0_0_1_1)\nw = DQ(W_16x16x3x3)\ny = Conv(p, w)"),
    ),
    "P23": (
        Text("t = DQ(W_16x16)\ni = Cast<to=7>(x)\ny = Gather(t, i)", ROWS),
        Text("i = Cast<to=7>(x)\ny = Gather(B_16x16, i)", ROWS),
    ),
    "P24": (
        conv("w2 = DQ(W_16x16x3x3)\n"
             "d = Conv<pads=[1,1,1,1]>(a, w2)\nc1 = QDQ(c, s1)\nd1 = QDQ(d, s2)\n"
             "e = Neg(c1)\nf = Neg(d1)\ny = Concat<axis=2>(e, f)"),
        conv("w2 = DQ(W_16x16x3x3)\n"
             "d = Conv<pads=[1,1,1,1]>(a, w2)\nc1 = QDQ(c, s1)\nd1 = QDQ(d, s1)\n"
             "e = Neg(c1)\nf = Neg(d1)\ny = Concat<axis=2>(e, f)"),
    ),
    "P25": (
        quantized("p = GlobalAveragePool(c); g = Sigmoid(p); c1 = QDQ(c, s2); g1 = QDQ(g, s); "
                  "m = Mul(c1, g1); m"),
        quantized("p = GlobalAveragePool(c); g = Sigmoid(p); m = Mul(c, g); m"),
    ),
    "P26": (
        conv("q8 = QuantizeLinear(c, s, z8)\nd = DequantizeLinear(q8, s, z8)\ny = Relu(d)",
             arrays=[array("z8", 0, FP8)]),
        conv("d = QDQ(c, s)\ny = Relu(d)"),
    ),
    "P27": (
        Text("a = QDQ(x, s)\nw = DequantizeLinear<axis=1>(W_16x16x2x2, B_16, W0_16)\n"
             "c = ConvTranspose(a, w)\nr = Relu(c)" + LAST.format("r")),
        Text("c = ConvTranspose(x, B_16x16x2x2)\nr = Relu(c)" + LAST.format("r")),
    ),
    "P28": (one_query(), one_query(queries=2)),
}  # fmt: skip
