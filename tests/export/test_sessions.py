"""A session of ONNX Runtime as anybody opens it computes what the file says."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch
from torch import fx, nn

from embedl_deploy import Target, transform
from embedl_deploy.export import OnnxModel, export_onnx
from embedl_deploy.quantize import QuantConfig, TensorQuantConfig, quantize
from embedl_deploy.tensorrt import TENSORRT, TENSORRT_FP8_CONFIG, TENSORRT_RTX
from tests.helpers import warm

X = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
WORDS = torch.randn(2, 6, 16, generator=torch.Generator().manual_seed(0))

INT4 = QuantConfig(activations=None, weights=TensorQuantConfig(bits=4, block_size=8))
NOT_BY_RELU = ["ReluQuantRewrite"]
"""It leaves out a ReLU before FP8 numbers; `docs/quickstart.md` names it."""


def layers() -> nn.Sequential:
    """Every product that has a bias, with a quantized value after it."""
    return nn.Sequential(
        *(nn.Conv2d(3, 24, 3), nn.BatchNorm2d(24), nn.ReLU()),
        *(nn.Conv2d(24, 24, 3, groups=24), nn.ReLU6(), nn.Conv2d(24, 16, 1)),
        *(nn.ConvTranspose2d(16, 16, 2, 2), nn.ReLU(), nn.Conv2d(16, 8, 5, 4)),
        *(nn.Flatten(), nn.Linear(200, 32), nn.ReLU(), nn.Linear(32, 10)),
    )


def tiny() -> nn.Sequential:
    """A channel of which next to nothing is left but its bias, and one of which nothing is."""
    conv = nn.Conv2d(3, 24, 3)
    with torch.no_grad():
        conv.weight[0] *= 1e-12
        conv.weight[1] = 0
        assert conv.bias is not None
        conv.bias.fill_(1.0)
    return nn.Sequential(conv, nn.ReLU(), nn.Conv2d(24, 8, 1))


def blocks() -> nn.Module:
    """Linear layers on three dimensions, and a quantized value that is reshaped."""
    return nn.Sequential(
        *(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 16)), *(nn.Flatten(), nn.Linear(96, 8))
    )


def quantized(
    target: Target, config: QuantConfig | None, net: nn.Module, x: torch.Tensor = X
) -> fx.GraphModule:
    torch.manual_seed(1)
    return quantize(transform(net.eval(), (x,), target=target), [x], config)


def decibels(wanted: torch.Tensor, found: np.ndarray) -> float:
    signal = wanted.detach().double().numpy()
    noise = ((signal - found) ** 2).sum()
    return float(10 * np.log10((signal**2).sum() / max(noise, 1e-30)))


def run(path: Path, x: torch.Tensor, off: list[str] | None = None) -> np.ndarray:
    """In a session of one's own."""
    session = ort.InferenceSession(str(path), disabled_optimizers=off)
    (given,) = session.get_inputs()
    array = x.half().numpy() if given.type == "tensor(float16)" else x.numpy()
    found: np.ndarray = session.run(None, {given.name: array})[0]
    return found.astype(np.float64)


@pytest.mark.parametrize("config", [None, TENSORRT_FP8_CONFIG], ids=["int8", "fp8"])
def test_a_relu_before_fp8_numbers_is_computed(config: QuantConfig | None, tmp_path: Path) -> None:
    """ONNX Runtime takes it out where it reads FP8 numbers as ones without a sign."""
    model = quantized(TENSORRT, config, warm(layers()))
    path = export_onnx(model, (X,), tmp_path / "model.onnx")
    (found,) = OnnxModel(path)(X).values()
    assert decibels(model(X), found.double().numpy()) > 40


@pytest.mark.parametrize(
    ("target", "config", "options"),
    [
        (TENSORRT, None, {}),
        (TENSORRT, None, {"quantized_weights": "float"}),
        (TENSORRT, INT4, {}),
        (TENSORRT, TENSORRT_FP8_CONFIG, {}),
        (TENSORRT_RTX, None, {}),
        (TENSORRT_RTX, TENSORRT_FP8_CONFIG, {}),
    ],
    ids=["int8", "int8 from float", "int4", "fp8", "rtx int8", "rtx fp8"],
)
def test_a_session_of_ones_own_is_right(
    target: Target, config: QuantConfig | None, options: dict[str, Any], tmp_path: Path
) -> None:
    """In float32 it may not be: its integer kernels saturate on processors without VNNI."""
    model = quantized(target, config, warm(layers()))
    path = export_onnx(model, (X,), tmp_path / "model.onnx", precision="float16", **options)
    off = NOT_BY_RELU if config is TENSORRT_FP8_CONFIG else None
    assert decibels(model(X), run(path, X, off)) > 30


@pytest.mark.parametrize("precision", ["float32", "float16"])
@pytest.mark.parametrize("target", [TENSORRT, TENSORRT_RTX], ids=lambda one: one.name)
def test_a_bias_beside_tiny_weights_is_added(
    target: Target, precision: Any, tmp_path: Path
) -> None:
    """As a multiple of the scale it would be beyond INT32."""
    model = quantized(target, None, tiny())
    path = export_onnx(model, (X,), tmp_path / "model.onnx", precision=precision)
    assert decibels(model(X), run(path, X)) > 40


def test_a_bias_that_is_not_rounded_away_stays_in_its_layer(tmp_path: Path) -> None:
    """A float32 file is written as before."""
    path = export_onnx(quantized(TENSORRT, None, warm(layers())), (X,), tmp_path / "model.onnx")
    assert b".affine/" not in path.read_bytes()


def test_a_reshaped_value_of_opset_20_is_right(tmp_path: Path) -> None:
    """Of opset 21 ONNX Runtime 1.32 refuses what copies values after a pair."""
    model = quantized(TENSORRT, None, blocks(), WORDS)
    path = tmp_path / "model.onnx"
    export_onnx(model, (WORDS,), path, precision="float16", opset=20)
    assert decibels(model(WORDS), run(path, WORDS)) > 35
    export_onnx(model, (WORDS,), path, precision="float16")
    found = run(path, WORDS, ["QDQPropagationTransformer"])
    assert decibels(model(WORDS), found) > 35


def test_bfloat16_is_refused(tmp_path: Path) -> None:
    """ONNX Runtime has no kernels for it on the CPU: it says so, and computes nothing."""
    model = quantized(TENSORRT, None, warm(layers()))
    path = export_onnx(model, (X,), tmp_path / "model.onnx", precision="bfloat16")
    with pytest.raises(Exception, match="Could not find an implementation"):
        ort.InferenceSession(str(path))
