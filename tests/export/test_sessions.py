"""Which sessions of ONNX Runtime compute what a file says."""

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch
from torch import fx, nn

from embedl_deploy import Target, transform
from embedl_deploy.export import OnnxModel, export_onnx
from embedl_deploy.quantize import QuantConfig, quantize
from embedl_deploy.tensorrt import TENSORRT, TENSORRT_FP8_CONFIG, TENSORRT_RTX
from tests.helpers import warm

X = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def quantized(target: Target, config: QuantConfig | None) -> fx.GraphModule:
    torch.manual_seed(1)
    net = nn.Sequential(
        *(nn.Conv2d(3, 24, 3), nn.BatchNorm2d(24), nn.ReLU()),
        *(nn.Conv2d(24, 24, 3), nn.BatchNorm2d(24), nn.ReLU()),
        *(nn.Conv2d(24, 24, 1), nn.ReLU(), nn.Conv2d(24, 8, 1)),
    )
    return quantize(transform(warm(net).eval(), (X,), target=target), [X], config)


def decibels(wanted: torch.Tensor, found: np.ndarray) -> float:
    signal = wanted.detach().double().numpy()
    noise = ((signal - found) ** 2).sum()
    return float(10 * np.log10((signal**2).sum() / max(noise, 1e-30)))


@pytest.mark.parametrize("config", [None, TENSORRT_FP8_CONFIG], ids=["int8", "fp8"])
def test_a_relu_before_fp8_numbers_is_computed(config: QuantConfig | None, tmp_path: Path) -> None:
    """ONNX Runtime takes it out where it reads FP8 numbers as ones without a sign."""
    model = quantized(TENSORRT, config)
    path = export_onnx(model, (X,), tmp_path / "model.onnx")
    (found,) = OnnxModel(path)(X).values()
    assert decibels(model(X), found.double().numpy()) > 40


@pytest.mark.parametrize(
    ("target", "config", "off"),
    [
        (TENSORRT_RTX, None, []),
        (TENSORRT_RTX, TENSORRT_FP8_CONFIG, ["ReluQuantRewrite"]),
        (TENSORRT, None, ["WeightBiasQuantization"]),
        (TENSORRT, TENSORRT_FP8_CONFIG, ["WeightBiasQuantization", "ReluQuantRewrite"]),
    ],
    ids=["rtx int8", "rtx fp8", "int8", "fp8"],
)
def test_a_session_of_ones_own_is_right_without_the_passes_that_are_named(
    target: Target, config: QuantConfig | None, off: list[str], tmp_path: Path
) -> None:
    """What `docs/quickstart.md` says of float16 files."""
    model = quantized(target, config)
    path = export_onnx(model, (X,), tmp_path / "model.onnx", precision="float16")
    session = ort.InferenceSession(str(path), disabled_optimizers=off)
    (found,) = session.run(None, {session.get_inputs()[0].name: X.half().numpy()})
    assert decibels(model(X), found.astype(np.float64)) > 30
