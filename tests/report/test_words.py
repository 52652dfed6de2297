"""What a file is, in words, follows from its types alone."""

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto

from embedl_deploy.onnx_model import OnnxFile
from embedl_deploy.report.words import numbers_of, word_for
from tests.tensorrt.rules.models import Text

UNSIGNED = ("z8", np.zeros((), np.uint8))
BIAS = ("bias", np.zeros((16,), np.int32))
UNSIGNED_PAIR = "q = QuantizeLinear(x, s, z8)\na = DequantizeLinear(q, s, z8)"


@pytest.mark.parametrize(
    ("text", "numbers", "word"),
    [
        (Text("y = Conv(x, B_16x16x3x3)"), [], "float32"),
        (Text("y = Relu(x)", dtype=TensorProto.DOUBLE), [], "double"),
        (Text("y = Conv(x, H_16x16x3x3)", dtype=TensorProto.FLOAT16), [], "float16"),
        (Text("a = QDQ(x, s)\nw = DQ(W_16x16x3x3)\ny = Conv(a, w)"), ["INT8"], "INT8"),
        (
            Text(f"{UNSIGNED_PAIR}\nw = DQ(W_16x16x3x3)\ny = Conv(a, w)", arrays=[UNSIGNED]),
            ["UINT8", "INT8"],
            "UINT8 and INT8",
        ),
        (Text("a = QuantizeLinear(x, s)\ny = DequantizeLinear(a, s)"), ["UINT8"], "UINT8"),
        # the sums of a bias are no kind of their own
        (
            Text(
                "a = QDQ(x, s)\nb = DequantizeLinear(bias, s)\ny = Conv(a, B_16x16x3x3, b)",
                arrays=[BIAS],
            ),
            ["INT8"],
            "INT8",
        ),
        (
            Text("q, t, z = DynamicQuantizeLinear(x)\ny = ConvInteger(q, W_16x16x3x3, z)"),
            ["UINT8", "INT8"],
            "UINT8 and INT8",
        ),
        (Text("y = other.Magic(x)"), [], "File"),
    ],
)
def test_a_file_is_called_by_what_it_holds(
    text: Text, numbers: list[str], word: str, tmp_path: Path
) -> None:
    file = OnnxFile.open(text.save(tmp_path))
    assert (numbers_of(file), word_for(file)) == (numbers, word)
