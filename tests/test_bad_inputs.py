"""What cannot be meant is refused by an error of the library, with a remedy, or warned of."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from embedl_deploy import Result, transform
from embedl_deploy.errors import DeployError
from embedl_deploy.export import compare_onnx, export_onnx, verify_onnx
from embedl_deploy.quantize import QuantConfig, TensorQuantConfig, quantize
from embedl_deploy.tensorrt import check_onnx, explain_onnx

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
ARRAY = X.numpy()
PIXELS = torch.full((2, 3, 8, 8), 7, dtype=torch.uint8)


@pytest.fixture(scope="module")
def result() -> Result:
    return transform(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval(), (X,))


@pytest.fixture(scope="module")
def quantized(result: Result) -> torch.fx.GraphModule:
    return quantize(result, [X])


@pytest.fixture(scope="module")
def file(quantized: torch.fx.GraphModule, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_onnx(quantized, X, tmp_path_factory.mktemp("file") / "model.onnx")


def as_config(config: Any) -> Callable[[Result], object]:
    return lambda result: quantize(result, [X], config)


def on_data(data: Any) -> Callable[[Result], object]:
    return lambda result: quantize(result, data)


QUANTIZING: dict[str, tuple[Callable[[Result], object], str]] = {
    "a dict as config": (as_config({"bits": 8}), "the config is a dict; give a QuantConfig"),
    "a name as config": (as_config("int8"), "the config is a str; give a QuantConfig"),
    "no data": (on_data(None), "the data is a NoneType; pass a list of batches"),
    "a tensor as data": (on_data(X), "the data is a Tensor; pass a list of batches"),
    "an array as data": (on_data(ARRAY), "the data is a ndarray; pass a list of batches"),
    "a path as data": (on_data("photos"), "the data is a str; pass a list of batches"),
    "no batches": (on_data([]), "give at least one batch"),
    "arrays": (on_data([ARRAY]), r"NumPy arrays: give tensors, of torch.from_numpy\(\)"),
    "pixels": (on_data([PIXELS]), r"it is uint8: give it as in training, such as image.float\(\)"),
    "float64": (on_data([X.double()]), r"it is float64: give float32, with .float\(\)"),
}


@pytest.mark.parametrize(("call", "words"), QUANTIZING.values(), ids=QUANTIZING)
def test_quantizing_says_what_it_needs(
    result: Result, call: Callable[[Result], object], words: str
) -> None:
    with pytest.raises(DeployError, match=words):
        call(result)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: QuantConfig(activations="int8"), "activations is a str; give a TensorQuantConfig"),  # type: ignore[arg-type]
        (lambda: QuantConfig(weights=None), "weights is a NoneType; give a TensorQuantConfig"),  # type: ignore[arg-type]
        (lambda: QuantConfig(probabilities=8), "probabilities is a int"),  # type: ignore[arg-type]
        (lambda: QuantConfig(skip=[3]), "skip has 3; choose by a path pattern"),  # type: ignore[list-item]
        (lambda: QuantConfig(skip="head"), r"write skip=\['head'\]"),
        (lambda: TensorQuantConfig(bits="8"), "bits must be between 2 and 8"),  # type: ignore[arg-type]
    ],
)
def test_a_config_says_what_it_takes(make: Callable[[], object], words: str) -> None:
    with pytest.raises(DeployError, match=words):
        make()


@pytest.mark.parametrize(
    ("example", "words"),
    [
        (ARRAY, "NumPy arrays: give tensors"),
        (PIXELS, "it is uint8: give it as in training"),
    ],
)
def test_examples_of_another_kind_are_named(example: Any, words: str) -> None:
    with pytest.raises(DeployError, match=words):
        transform(nn.Sequential(nn.Conv2d(3, 4, 3)), (example,))


EXPORTING: dict[str, tuple[Any, Any, str]] = {
    "no path": (X, None, "a NoneType names no file; give its path"),
    "a number as path": (X, 3, "a int names no file; give its path"),
    "no examples": (None, "x.onnx", "the example inputs are a NoneType; give a tensor"),
    "an array": (ARRAY, "x.onnx", "the example inputs are a ndarray; give a tensor"),
    "arrays": ((ARRAY,), "x.onnx", "NumPy arrays: give tensors"),
    "pixels": ((PIXELS,), "x.onnx", "it is uint8: give it as in training"),
}


@pytest.mark.parametrize(("args", "path", "words"), EXPORTING.values(), ids=EXPORTING)
def test_exporting_says_what_it_needs(
    quantized: torch.fx.GraphModule,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    args: Any,
    path: Any,
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DeployError, match=words):
        export_onnx(quantized, args, path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "call",
    [
        lambda model, path: verify_onnx(path, model, [X]),
        lambda model, path: compare_onnx(path, model, [X]),
        lambda _, path: check_onnx(path),
        lambda _, path: explain_onnx(path),
    ],
)
def test_what_is_no_path_names_no_file(
    quantized: torch.fx.GraphModule, call: Callable[[Any, Any], object]
) -> None:
    with pytest.raises(DeployError, match="a NoneType names no file; give its path"):
        call(quantized, None)
    with pytest.raises(DeployError, match="a Sequential names no file; give its path"):
        call(quantized, nn.Sequential())


def test_verifying_with_arrays_is_refused(quantized: torch.fx.GraphModule, file: Path) -> None:
    with pytest.raises(DeployError, match="NumPy arrays: give tensors"):
        verify_onnx(file, quantized, [ARRAY])


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    ours = [one.getMessage() for one in caplog.records if one.name.startswith("embedl_deploy.")]
    caplog.clear()
    return ours


def test_zeros_are_warned_of(result: Result, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("WARNING")
    quantize(result, [torch.zeros_like(X), torch.zeros_like(X)])
    (warning,) = said(caplog)
    assert "the input 'input' is zero in all calibration data" in warning
    quantize(result, [torch.zeros_like(X), X])
    assert not said(caplog)


def test_a_float32_file_is_warned_of(
    result: Result, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("WARNING")
    export_onnx(result, X, tmp_path / "model.onnx")
    (warning,) = said(caplog)
    assert "nothing in the model is quantized, and the file is float32 throughout" in warning
    export_onnx(result, X, tmp_path / "half.onnx", precision="float16")
    assert not said(caplog)
