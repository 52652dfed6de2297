"""T09 at the small end: an epsilon that is zero in half precision."""

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto

from embedl_deploy.tensorrt import check_onnx
from tests.tensorrt.rules.models import Text

SMALL, LARGE = 1e-12, 1e-4
TEXTS = {
    "norm": "s = Mul(x, x)\nv = Add(s, e)\nr = Sqrt(v)\ny = Div(x, r)",
    "reciprocal": "v = Add(e, x)\nr = Sqrt(v)\nd = Reciprocal(r)\ny = Mul(x, d)",
    "clip": "v = Clip(x, e)\ny = Div(x, v)",
    "maximum": "v = Max(x, e)\ny = Div(x, v)",
    "logarithm": "v = Add(x, e)\ny = Log(v)",
}
HARMLESS = {
    "a product": "v = Add(x, e)\ny = Mul(x, v)",
    "a dividend": "v = Add(x, e)\ny = Div(v, x)",
}


def warned(text: str, least: float, folder: Path, *, wide: bool = False) -> bool:
    dtype = np.float32 if wide else np.float16
    number = np.asarray([least]).astype(dtype)
    lines = text if not wide else "e = Cast<to=10>(w)\n" + text
    arrays = [("w" if wide else "e", number)]
    path = Text(lines, dtype=TensorProto.FLOAT16, arrays=arrays).save(folder)
    return any("is zero in FP16" in one.message for one in check_onnx(path).warnings)


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("name", TEXTS)
def test_an_epsilon_that_is_zero_is_told(name: str, *, wide: bool, tmp_path: Path) -> None:
    assert warned(TEXTS[name], SMALL, tmp_path, wide=wide)
    assert not warned(TEXTS[name], LARGE, tmp_path, wide=wide)


@pytest.mark.parametrize("name", HARMLESS)
def test_a_zero_that_guards_nothing_is_not(name: str, tmp_path: Path) -> None:
    assert not warned(HARMLESS[name], SMALL, tmp_path)
