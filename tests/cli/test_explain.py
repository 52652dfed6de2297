"""`explain` shows what is expected to run, and why."""

from pathlib import Path

import pytest

from tests.cli.commands import run, run_json
from tests.tensorrt.rules.format_cases import CONV, FORMAT
from tests.tensorrt.rules.models import Text


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")


def test_kernels_are_shown_with_counts_types_and_shares(tmp_path: Path) -> None:
    said = " ".join(run("explain", str(Text(CONV).save(tmp_path))).stdout.split())
    assert "1 convolution INT8 100.0% documented K05 Conv_c" in said
    assert "1 K19 quantize: it reads an input of the file, which is in floating point, at" in said
    assert "multiply-accumulates: 100.0% in INT8" in said


def test_every_kernel_can_be_listed_with_its_operators(tmp_path: Path) -> None:
    said = run("explain", str(Text(CONV).save(tmp_path)), "--all").stdout
    assert "K05  convolution, INT8, 100.0%, documented  K05 Q01 Q03" in said
    assert "Conv_c → Relu_y" in said
    assert "with DequantizeLinear_a, DequantizeLinear_w" in said


def test_a_file_that_is_refused_says_so(tmp_path: Path) -> None:
    said = run("explain", str(FORMAT["F04"][0].save(tmp_path))).stdout
    assert "TensorRT refuses the file as it is: 2 errors by check_onnx" in said


def test_shapes_are_given_by_name_or_for_the_only_input(tmp_path: Path) -> None:
    path = str(Text("y = MatMul(x, B_16x4)", (("x", (None, None, 16)),)).save(tmp_path))
    assert run_json("explain", path)["uncounted"] == ["MatMul_y"]
    for shape in ("2,3,16", "x:2,3,16"):
        assert run_json("explain", path, "--shape", shape)["macs"] == {"FP32": 2 * 3 * 16 * 4}
    assert "no shape" in run("explain", path, "--shape", "x:a", code=2).stderr


def test_a_file_that_can_not_be_read_is_an_error(tmp_path: Path) -> None:
    found = run_json("explain", str(tmp_path / "gone.onnx"), code=1)
    assert found["error"]["type"] == "CheckError"
