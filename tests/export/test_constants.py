"""What follows from constants alone is not left in a file, unless the file grows with it."""

from typing import Any

import numpy as np
import onnx
import onnx_ir
import onnxruntime as ort
import pytest

from embedl_deploy.export.constants import fold_constants
from tests.tensorrt.rules.models import Text

BIAS = ("bias", np.random.default_rng(0).normal(size=(64, 64, 3)).astype(np.float32))
INTEGERS = ("integers", np.ones((16, 64), np.int8))
CHAIN = "a = Reshape(bias, I_4096_3)\nb = Transpose<perm=[1,0]>(a)\n"
X = (("x", (3, 4096)),)


@pytest.mark.parametrize(
    ("lines", "inputs", "left"),
    [
        (CHAIN + "y = Add(x, b)", X, ["Add"]),
        (CHAIN + "c = Cast<to=10>(b)\nd = Cast<to=1>(c)\ny = Add(x, d)", X, ["Add"]),
        # larger than what it follows from: what is before it is computed
        (CHAIN + "c = Tile(b, I_4_1)\ny = Add(x, c)", (("x", (12, 4096)),), ["Tile", "Add"]),
        (CHAIN + "c = Tile(b, I_4_1)\nd = ReduceSum(c, I_0)\ny = Add(x, d)", X, ["Add"]),
        # the constant has to stay for another operator, and so the result would be a second one
        (CHAIN + "c = Add(x, b)\ny = MatMul(c, a)", X, ["Transpose", "Add", "MatMul"]),
        # a quantized weight stays the integers that it is
        ("w = DequantizeLinear(integers, s, z)\ny = MatMul(x, w)", (("x", (4, 16)),), None),
    ],
)
def test_results_that_are_no_larger_are_computed(
    lines: str, inputs: tuple[tuple[str, tuple[int, ...]], ...], left: list[str] | None
) -> None:
    proto = Text(lines, inputs, arrays=[BIAS, INTEGERS]).proto()
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    model = onnx_ir.from_proto(onnx.shape_inference.infer_shapes(proto, data_prop=True))
    fold_constants(model)
    ops = [node.op_type for node in model.graph]
    assert ops == (left or [node.op_type for node in proto.graph.node])
    after = onnx_ir.to_proto(model)
    assert after.ByteSize() <= proto.ByteSize() + 2048
    x = np.random.default_rng(1).normal(size=inputs[0][1]).astype(np.float32)
    expected, got = (_run(one, x) for one in (proto, after))
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-6)


def _run(model: onnx.ModelProto, x: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> Any:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]
