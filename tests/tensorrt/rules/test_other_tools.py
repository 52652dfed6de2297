"""The known faults of files that ONNX Runtime's quantize_static writes are found."""

from collections import Counter
from pathlib import Path

import onnx
from onnxruntime import quantization

from benchmarks.other_tools import batches, by_onnx_runtime, residual
from embedl_deploy.tensorrt import Report, Severity, check_onnx


class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
    def __init__(self) -> None:
        self.rows = batches(2)

    def get_next(self) -> object:
        return next(self.rows, None)


def saved(folder: Path) -> Path:
    onnx.save(residual(), folder / "float.onnx")
    return folder / "float.onnx"


def counts(report: Report) -> Counter[str]:
    return Counter(one.rule for one in report.findings if one.severity is not Severity.INFO)


def test_with_default_settings(tmp_path: Path) -> None:
    by_onnx_runtime(saved(tmp_path), tmp_path / "quantized.onnx")
    report = check_onnx(tmp_path / "quantized.onnx")
    # Seven asymmetric pairs, three biases, the addition, a row and a quantized output.
    assert counts(report) == {"F04": 14, "F11": 3, "P04": 1, "P12": 1, "P21": 1}
    biases = {one.nodes[0] for one in report.errors if one.rule == "F11"}
    assert biases == {"b1_DequantizeLinear", "b2_DequantizeLinear", "b3_DequantizeLinear"}


def test_with_unsigned_activations(tmp_path: Path) -> None:
    kind = quantization.QuantType.QUInt8
    target = tmp_path / "quantized.onnx"
    quantization.quantize_static(saved(tmp_path), target, Reader(), activation_type=kind)
    report = check_onnx(target)
    assert counts(report)["F03"] == 7
    assert {one.message for one in report.errors if one.rule == "F03"} == {"it quantizes to UINT8"}


def test_with_the_settings_that_suit_tensorrt(tmp_path: Path) -> None:
    target = tmp_path / "quantized.onnx"
    quantization.quantize_static(
        saved(tmp_path),
        target,
        Reader(),
        per_channel=True,
        extra_options={"ActivationSymmetric": True, "QuantizeBias": False},
    )
    report = check_onnx(target)
    assert report.ok, report
