"""As many kernels are predicted as the compiler makes layers, of what transformers are made of."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto

from embedl_deploy.tensorrt import Basis, compile_onnx, explain_onnx
from tests.tensorrt.rules.models import Text

INSTALLED = find_spec("tensorrt_rtx_bindings") is not None
DRAW = np.random.default_rng(0)
ROWS = (("x", (1, 32, 64)),)
SLICES = "a = Slice(x, I_1, I_8, I_2)\nb = Slice(x, I_0, I_1, I_2)\n"
MOVED = "{0}r = Reshape({0}, I_1_32_2_32)\n{0}t = Transpose<perm=[0,2,1,3]>({0}r)\n"


def half(lines: str, **more: Any) -> Text:
    return Text(lines, dtype=TensorProto.FLOAT16, **more)


def weight(*shape: int) -> NDArray[np.float16]:
    return DRAW.standard_normal(shape).astype(np.float16)


def beside(more: str = "", outputs: Sequence[str] = ("m0", "m1")) -> Text:
    """Two products of one value."""
    arrays = [("w0", weight(64, 64)), ("w1", weight(64, 64)), ("b0", weight(64))]
    lines = f"m0 = MatMul(x, w0)\nm1 = MatMul(x, w1)\n{more}"
    return half(lines, inputs=ROWS, arrays=arrays, outputs=outputs)


def int8(after: str, name: str, scales: int = 64) -> Text:
    """Two INT8 products, with something between them."""
    product = "{0}w = DequantizeLinear{3}(w, ws, wz)\n{1} = MatMul({2}, {0}w)\n"
    axis, size = ("<axis=1>", (scales,)) if scales > 1 else ("", ())
    arrays: list[tuple[str, NDArray[np.generic]]] = [
        ("w", DRAW.integers(-127, 127, (64, 64)).astype(np.int8)),
        ("ws", np.full(size, 0.01, np.float32)),
        ("wz", np.zeros(size, np.int8)),
        ("b", weight(64).astype(np.float32)),
    ]
    first, second = product.format("u", "m", "a", axis), product.format("v", "o", "g", axis)
    lines = f"a = QDQ(x, s)\n{first}{after}g = QDQ({name}, s1)\n{second}y = Neg(o)"
    return Text(lines, (("x", (32, 64)),), arrays=arrays)


COUNTS = {
    "copies and a pointwise operator": (half(f"{SLICES}c = Concat<axis=2>(a, b)\ny = Relu(c)"), 1),
    "a copy and a norm": (
        half("a = Transpose<perm=[0,2,3,1]>(x)\ny = LayerNormalization(a, H_16)"),
        1,
    ),
    "a norm and a copy": (
        half("a = LayerNormalization(x, H_8)\ny = Transpose<perm=[0,3,2,1]>(a)"),
        2,
    ),
    "a pointwise operator and a copy": (half("a = Relu(x)\ny = Transpose(a)"), 1),
    "a residual that two read": (
        half("a = Neg(x)\nn = LayerNormalization(a, H_8)\ny = Add(n, a)"),
        1,
    ),
    "two norms": (half("a = LayerNormalization(x, H_8)\ny = LayerNormalization(a, H_8)"), 1),
    "copies of nothing": (
        half(
            "n = LayerNormalization(x, H_8)\np = Pad(n, I_0_0_0_0_0_0_0_0)\n"
            "r = Reshape(p, I_1_16_1_8_1_8)\nt = Transpose<perm=[0,2,1,4,3,5]>(r)\n"
            "f = Reshape(t, I_16_64)\ny = MatMul(f, w)",
            arrays=[("w", weight(64, 64))],
        ),
        2,
    ),
    "products of one value, a result each": (beside(), 2),
    "a gate": (beside("s0 = Sigmoid(m0)\ny = Mul(s0, m1)", ("y",)), 2),
    "products of one value, moved": (
        beside(MOVED.format("m0") + MOVED.format("m1"), ("m0t", "m1t")),
        3,
    ),
    "attention whose values are wider": (
        half(
            "m = MatMul(q, k)\np = Softmax(m)\ny = MatMul(p, v)",
            inputs=[("q", (1, 4, 64, 16)), ("k", (1, 4, 16, 64)), ("v", (1, 4, 64, 32))],
        ),
        3,
    ),
    "INT8, its bias and GELU": (int8("n = Add(m, b)\nr = Gelu(n)\n", "r"), 5),
    "INT8 with one scale, and ReLU": (int8("r = Relu(m)\n", "r", 1), 4),
}


@pytest.mark.parametrize("name", COUNTS)
def test_as_many_kernels_are_predicted(name: str, tmp_path: Path) -> None:
    model, count = COUNTS[name]
    assert len(explain_onnx(model.save(tmp_path)).kernels) == count


def test_why_wider_values_split_attention(tmp_path: Path) -> None:
    model, _ = COUNTS["attention whose values are wider"]
    (softmax,) = [
        one for one in explain_onnx(model.save(tmp_path)).kernels if one.kind == "softmax"
    ]
    assert softmax.reason == ("no fused attention: heads of the value have 32, those of the key 16")
    assert softmax.basis is Basis.COMPILED


def test_a_kernel_is_called_after_what_it_computes(tmp_path: Path) -> None:
    model, _ = COUNTS["copies and a pointwise operator"]
    (kernel,) = explain_onnx(model.save(tmp_path)).kernels
    assert (kernel.kind, kernel.head, kernel.nodes[0]) == ("pointwise", "Relu_y", "Slice_a")


@pytest.mark.skipif(not INSTALLED, reason="TensorRT for RTX is not installed")
@pytest.mark.parametrize("name", COUNTS)
def test_as_many_as_the_compiler_makes(name: str, tmp_path: Path) -> None:
    model, count = COUNTS[name]
    made = compile_onnx(model.save(tmp_path), "rtx4090", compiler="rtx")
    assert len(made.kernels) == count, [one.name for one in made.kernels]
