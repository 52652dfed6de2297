"""Training with quantizers by a loop and by Lightning."""

import dataclasses
import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from embedl_deploy import transform
from embedl_deploy.export import export_onnx, verify_onnx
from embedl_deploy.quantize import quantize
from examples.digits.data import Digits, calibration_batches, digits
from examples.digits.models import ResidualNet
from examples.digits.train import Recipe, accuracy, train
from examples.lightning_qat import LEARNED, WAYS, qat

needs_lightning = pytest.mark.skipif(
    importlib.util.find_spec("lightning") is None, reason="Lightning is not installed"
)


@pytest.fixture(scope="module")
def data() -> Digits:
    found = digits()
    images, labels = found.train_images[:512], found.train_labels[:512]
    return dataclasses.replace(found, train_images=images, train_labels=labels)


@pytest.fixture(scope="module")
def model(data: Digits) -> Iterator[nn.Module]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = ResidualNet(widths=(8, 8, 16), blocks=1)
        train(made, data, Recipe(epochs=5, max_shift=0.5))
        yield made.eval()


@pytest.mark.parametrize("way", ["loop", pytest.param("lightning", marks=needs_lightning)])
@pytest.mark.filterwarnings("ignore")  # Lightning's own, of the machine and of torch
def test_training_wins_back_what_few_bits_cost(way: str, model: nn.Module, data: Digits) -> None:
    calibrated = quantize(transform(model), calibration_batches(data), LEARNED)
    before = accuracy(calibrated, data.train_images, data.train_labels)
    trained = qat(model, data, way, epochs=4)
    assert accuracy(trained, data.train_images, data.train_labels) > before + 0.05
    assert not any(one.training for one in trained.modules())


def test_what_was_trained_is_what_the_file_computes(
    model: nn.Module, data: Digits, tmp_path: Path
) -> None:
    trained = qat(model, data, "loop", epochs=1)
    path = export_onnx(trained, (data.test_images[:1],), tmp_path / "q.onnx", dynamic_batch=True)
    assert verify_onnx(path, trained, [data.test_images[:32]]).only_ties


@needs_lightning
@pytest.mark.filterwarnings("ignore")
def test_lightning_trains_as_the_loop_does(model: nn.Module, data: Digits) -> None:
    few = dataclasses.replace(
        data, train_images=data.train_images[:128], train_labels=data.train_labels[:128]
    )
    one, other = (qat(model, few, way, epochs=1) for way in WAYS)
    for name, tensor in one.state_dict().items():
        torch.testing.assert_close(other.state_dict()[name], tensor, atol=1e-4, rtol=1e-3)
