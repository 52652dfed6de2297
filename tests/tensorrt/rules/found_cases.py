"""Files on which the compiler was found to differ from what was said of them."""

from dataclasses import dataclass

import ml_dtypes
import numpy as np
from onnx import TensorProto

from tests.tensorrt.rules.models import Text
from tests.tensorrt.rules.placement_cases import attention, fp8_attention, one_query


@dataclass(frozen=True)
class Case:
    """A file, and what is said of it now.

    Attributes:
        text: The file.
        errors: Rules of which there is an error.
        warnings: Rules of which there is a warning, among others.
        types: What products are explained to compute in, by name.
    """

    text: Text
    errors: frozenset[str] = frozenset()
    warnings: frozenset[str] = frozenset()
    types: tuple[tuple[str, str], ...] = ()


_PLAIN = "b = MaxPool<kernel_shape=[3,3],pads=[1,1,1,1]>(a)\n"
_POOL = f"a = QDQ(x, s)\n{_PLAIN}"
_CONV = "v = DQ(W_16x16x3x3)\nc = Conv<pads=[1,1,1,1]>(b, v)\n"
_FP8 = ("f", np.array(0, ml_dtypes.float8_e4m3fn))
_WEIGHT = ("w8", np.ones((16, 16, 3, 3), ml_dtypes.float8_e4m3fn))
_CONV8 = "v = DequantizeLinear(w8, s, f)\nc = Conv<pads=[1,1,1,1]>(b, v)\n"
_INT4 = ("f", np.array(0, ml_dtypes.int4))
_COMPUTED = "p = ReduceMax<keepdims=0>(x)\na = QDQ(x, p)\n"
_PAIR = "a_q = QuantizeLinear(x, s, f)\na = DequantizeLinear(a_q, s, f)\n"

FOUND = {
    "pooled, and read by a product alone": Case(Text(_POOL + _CONV), types=(("Conv_c", "INT8"),)),
    "pooled, and quantized again": Case(
        Text(f"{_POOL}{_CONV}q = QDQ(b, s2)\nr = Relu(q)", outputs=("c", "r")),
        types=(("Conv_c", "FP32"),),
    ),
    "pooled and joined, and quantized again": Case(
        Text(
            f"{_POOL.replace('b =', 'p =')}b = Concat<axis=2>(a, p)\n{_CONV}"
            "q = QDQ(p, s2)\nr = Relu(q)",
            outputs=("c", "r"),
        ),
        types=(("Conv_c", "FP32"),),
    ),
    "pooled and joined": Case(
        Text(f"{_POOL.replace('b =', 'p =')}b = Concat<axis=2>(a, p)\n{_CONV}"),
        types=(("MaxPool_p", "INT8"), ("Conv_c", "INT8")),
    ),
    "pooled in FP8": Case(
        Text(f"{_PAIR}{_PLAIN}{_CONV8}", arrays=[_FP8, _WEIGHT]),
        types=(("MaxPool_b", "FP32"), ("Conv_c", "FP32")),
    ),
    "pooled and joined in FP8": Case(
        Text(
            f"{_PAIR}{_PLAIN.replace('b =', 'p =')}b = Concat<axis=2>(a, p)\n{_CONV8}",
            arrays=[_FP8, _WEIGHT],
        ),
        types=(("MaxPool_p", "FP32"), ("Conv_c", "FP32")),
    ),
    "pooled between FP8 pairs": Case(
        Text(
            f"{_PAIR}{_PLAIN.replace('b =', 'p =').replace('Max', 'Average')}"
            f"b_q = QuantizeLinear(p, s, f)\nb = DequantizeLinear(b_q, s, f)\n{_CONV8}",
            arrays=[_FP8, _WEIGHT],
        ),
        types=(("AveragePool_p", "FP32"), ("Conv_c", "FP8")),
    ),
    "few keys in FP8": Case(
        fp8_attention(key=31),
        types=(("MatMul_m", "FP8"), ("Softmax_p", "FP16"), ("MatMul_o", "FP8")),
    ),
    "few queries in FP8": Case(
        fp8_attention(query=1), types=(("MatMul_m", "FP8"), ("Softmax_p", "FP8"))
    ),
    "few keys in INT8": Case(attention(positions=4), types=(("Softmax_p", "INT8"),)),
    "transposed, and quantized again": Case(
        Text(
            f"a = QDQ(x, s)\nb = Transpose<perm=[0,1,3,2]>(a)\n{_CONV}q = QDQ(b, s2)\nr = Relu(q)",
            outputs=("c", "r"),
        ),
        types=(("Conv_c", "INT8"),),
    ),
    "FP8 times an INT8 weight": Case(
        Text(f"{_PAIR}v = DQ(W_16x16x3x3)\nc = Conv(a, v)", arrays=[_FP8]), frozenset({"P26"})
    ),
    "FP8 times INT8": Case(
        Text(f"{_PAIR}b = QDQ(x, s)\nc = MatMul(a, b)", arrays=[_FP8]), frozenset({"P26"})
    ),
    "a key that is pooled, and quantized again": Case(
        Text(f"{_POOL}q = QDQ(b, s2)\nt = Transpose<perm=[0,1,3,2]>(b)\nc = MatMul(q, t)"),
        types=(("MatMul_c", "FP32"),),
    ),
    "one query": Case(
        one_query(),
        types=(("MatMul_q0", "FP16"), ("MatMul_v0", "FP16"), ("MatMul_o", "FP16")),
    ),
    "one query of many keys": Case(one_query(keys=300), types=(("MatMul_k0", "FP16"),)),
    "one query in two heads": Case(one_query(heads=2), types=(("MatMul_q0", "INT8"),)),
    "one query, and a scale for each weight": Case(
        one_query(scale="h"), types=(("MatMul_q0", "INT8"), ("MatMul_v0", "INT8"))
    ),
    "two queries": Case(one_query(queries=2), types=(("MatMul_q0", "INT8"),)),
    "FP8 joined with INT8, times an INT8 weight": Case(
        Text(f"{_PAIR}p = QDQ(x, s)\nb = Concat<axis=2>(a, p)\n{_CONV}", arrays=[_FP8]),
        frozenset({"P26"}),
    ),
    "FP8 joined with INT8": Case(
        Text(f"{_PAIR}p = QDQ(x, s)\nb = Concat<axis=2>(a, p)\nc = Relu(b)", arrays=[_FP8])
    ),
    "FP8 times an INT8 weight, transposed": Case(
        Text(f"{_PAIR}v = DQ(W_16x16x3x3)\nc = ConvTranspose(a, v)", arrays=[_FP8])
    ),
    "a layer norm with factors of another type": Case(
        Text("c = LayerNormalization(x, B_8)", dtype=TensorProto.FLOAT16), frozenset({"T01"})
    ),
    "a group norm with factors of another type": Case(
        Text("c = GroupNormalization<num_groups=4>(x, B_16, B_16)", dtype=TensorProto.FLOAT16),
        frozenset({"T01"}),
    ),
    "an RMS norm with factors of another type": Case(
        Text("c = RMSNormalization(x, B_8)", opset=23, dtype=TensorProto.FLOAT16)
    ),
    "FP8 added to INT8": Case(Text(f"{_PAIR}b = QDQ(x, s)\nc = Add(a, b)", arrays=[_FP8])),
    "INT4 in a convolution": Case(
        Text(f"{_PAIR}v = DQ(W_16x16x3x3)\nc = Conv(a, v)", arrays=[_INT4]), frozenset({"F12"})
    ),
    "a computed scale before a convolution of a float weight": Case(
        Text(f"{_COMPUTED}c = Conv(a, B_16x16x3x3)"), warnings=frozenset({"F05"})
    ),
    "a computed scale before a transposed convolution": Case(
        Text(f"{_COMPUTED}v = DQ(W_16x16x3x3)\nc = ConvTranspose(a, v)"),
        warnings=frozenset({"F05"}),
    ),
    "computed scales before a concatenation": Case(
        Text(f"{_COMPUTED}c = Concat<axis=1>(a, a)"), frozenset({"F05"})
    ),
    "a computed scale before a concatenation with floats": Case(
        Text(f"{_COMPUTED}r = Relu(a)\nc = Concat<axis=1>(a, r)"), warnings=frozenset({"F05"})
    ),
    "a half-precision scale that gives FLOAT": Case(
        Text(
            "q = QuantizeLinear(x, h, z)\na = DequantizeLinear<output_dtype=1>(q, h, z)\n"
            "v = DequantizeLinear<axis=0>(W_16x16x3x3, B_16, W0_16)\nc = Conv(a, v)",
            opset=23,
            dtype=TensorProto.FLOAT16,
        ),
        warnings=frozenset({"T03"}),
        types=(("Conv_c", "FP32"),),
    ),
    "FP8 quantized to INT8": Case(
        Text(f"{_PAIR}t = Transpose<perm=[0,1,3,2]>(a)\nb = QDQ(t, s)\nc = Relu(b)", arrays=[_FP8]),
        frozenset({"P26"}),
    ),
    "FP8 joined and quantized to INT8": Case(
        Text(f"{_PAIR}t = Concat<axis=1>(a, x)\nb = QDQ(t, s)\nc = Relu(b)", arrays=[_FP8]),
        frozenset({"P26"}),
    ),
    "FP8 pooled and quantized to INT8": Case(
        Text(f"{_PAIR}{_PLAIN.replace('b =', 't =')}b = QDQ(t, s)\nc = Relu(b)", arrays=[_FP8])
    ),
    "a computed scale before an INT8 convolution": Case(
        Text(f"{_COMPUTED}v = DQ(W_16x16x3x3)\nc = Conv(a, v)"), frozenset({"F05"})
    ),
}
