"""Networks as they are published, from the float model to a verified file.

One at full depth, the others with fewer blocks, at 64×64. Weights are random and warmed up, so
outputs that run freely drift apart by cascading ties, and the stubs decide.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torchvision
from torch import fx, nn
from torchvision.models.densenet import DenseNet
from torchvision.models.efficientnet import EfficientNet, MBConvConfig
from torchvision.models.mobilenetv3 import InvertedResidualConfig, MobileNetV3
from torchvision.models.swin_transformer import SwinTransformer

from embedl_deploy import transform
from embedl_deploy.export import export_onnx, verify_onnx
from embedl_deploy.quantize import quantize
from tests.export import files
from tests.quantize.nets import batches, convnext, ready, vit


def efficientnet() -> nn.Module:
    settings = [
        MBConvConfig(1, 3, 1, 16, 16, 1, 1.0, 1.0),
        MBConvConfig(6, 5, 2, 16, 24, 2, 1.0, 1.0),
    ]
    return EfficientNet(settings, dropout=0.2, num_classes=10, last_channel=64)


def mobilenet_v3() -> nn.Module:
    row = partial(InvertedResidualConfig, stride=1, dilation=1, width_mult=1.0)
    settings = [
        row(8, 3, 8, 8, use_se=True, activation="RE"),
        row(8, 5, 24, 16, use_se=False, activation="HS", stride=2),
        row(16, 5, 32, 16, use_se=True, activation="HS"),
    ]
    return MobileNetV3(settings, 64, num_classes=10)


def swin() -> nn.Module:
    return SwinTransformer([4, 4], 16, [2], [2], [4, 4], num_classes=10)


def densenet() -> nn.Module:
    return DenseNet(8, (2, 2), 16, num_classes=10)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "resnet18": torchvision.models.resnet18,
    "mobilenet_v3": mobilenet_v3,
    "efficientnet": efficientnet,
    "convnext": convnext,
    "vit": vit,
    "swin": swin,
    "densenet": densenet,
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_becomes_a_file_that_computes_the_same(name: str, tmp_path: Path) -> None:
    example = batches(1, 2)[0]
    model = quantize(transform(ready(NETWORKS[name]), (example,)), batches(2, 4))
    path = export_onnx(model, (example,), tmp_path / "model.onnx")
    file = files.File(path)
    files.assert_typed(file)
    files.assert_pairs(file, model)
    files.assert_weights(file, model)
    files.assert_no_leftovers(file, model)
    files.assert_names(file, model)
    assert file.ops()["QuantizeLinear"] == len(files.stubs_of(model))
    parity = verify_onnx(path, model, batches(2, 2, seed=5))
    assert parity.only_ties, parity
    assert len(parity.stubs) == len(files.stubs_of(model))
    assert parity.sqnr_db > 15
    if name == "resnet18":
        assert_no_larger_than_its_integers(path, model)


def assert_no_larger_than_its_integers(path: Path, model: fx.GraphModule) -> None:
    """There is no float copy of a quantized weight, and little beside the weights."""
    weights = files.quantized_weights(model)
    integers = sum(weight.numel() for weight in weights)
    channels = sum(weight.shape[0] for weight in weights)
    assert integers > 10_000_000
    scales, zero_points, biases = 4 * channels, channels, 4 * channels
    assert path.stat().st_size <= 1.01 * (integers + scales + zero_points + biases)
