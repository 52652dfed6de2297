"""Files on which the compiler was found to differ from what was said of them."""

from dataclasses import dataclass

import ml_dtypes
import numpy as np

from tests.tensorrt.rules.models import Text


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


_POOL = "a = QDQ(x, s)\nb = MaxPool<kernel_shape=[3,3],pads=[1,1,1,1]>(a)\n"
_CONV = "v = DQ(W_16x16x3x3)\nc = Conv<pads=[1,1,1,1]>(b, v)\n"
_FP8 = ("f", np.array(0, ml_dtypes.float8_e4m3fn))
_INT4 = ("f", np.array(0, ml_dtypes.int4))
_PAIR = "a_q = QuantizeLinear(x, s, f)\na = DequantizeLinear(a_q, s, f)\n"

FOUND = {
    "pooled, and read by a product alone": Case(Text(_POOL + _CONV), types=(("Conv_c", "INT8"),)),
    "pooled, and quantized again": Case(
        Text(f"{_POOL}{_CONV}q = QDQ(b, s2)\nr = Relu(q)", outputs=("c", "r")),
        types=(("Conv_c", "FP32"),),
    ),
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
    "FP8 added to INT8": Case(Text(f"{_PAIR}b = QDQ(x, s)\nc = Add(a, b)", arrays=[_FP8])),
    "INT4 in a convolution": Case(
        Text(f"{_PAIR}v = DQ(W_16x16x3x3)\nc = Conv(a, v)", arrays=[_INT4]), frozenset({"F12"})
    ),
    "INT4 in no product": Case(
        Text(f"{_PAIR}c = Relu(a)", arrays=[_INT4]), warnings=frozenset({"F12"})
    ),
}
