"""Small networks for the tests of quantization and export, ready to be transformed.

Weights are random; batch norms have seen data and factors of both signs, and no head is zero,
so that no comparison is vacuous.
"""

from collections.abc import Callable
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.convnext import CNBlockConfig, ConvNeXt
from torchvision.models.resnet import BasicBlock, ResNet
from torchvision.models.vision_transformer import VisionTransformer

SIZE = 64


class NarrowResNet(ResNet):  # type: ignore[misc]
    """With the channels of the stem throughout."""

    def _make_layer(self, block: Any, planes: int, *args: Any, **kwargs: Any) -> nn.Sequential:
        return super()._make_layer(block, min(planes, 64), *args, **kwargs)


def resnet() -> nn.Module:
    model = NarrowResNet(BasicBlock, [1, 1, 1, 1])
    model.fc = nn.Linear(64, 10)
    return model


def convnext() -> nn.Module:
    settings = [CNBlockConfig(8, 16, 1), CNBlockConfig(16, None, 1)]
    return ConvNeXt(settings, num_classes=10, layer_scale=0.5)


def vit() -> nn.Module:
    return VisionTransformer(
        SIZE, patch_size=16, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32, num_classes=10
    )


def mobilenet() -> nn.Module:
    return torchvision.models.mobilenet_v2(width_mult=0.1, num_classes=10)


NETS: dict[str, Callable[[], nn.Module]] = {
    "resnet": resnet,
    "convnext": convnext,
    "vit": vit,
    "mobilenet": mobilenet,
}


def ready(make: Callable[[], nn.Module], shape: tuple[int, ...] = (3, SIZE, SIZE)) -> nn.Module:
    """The network in eval mode, warmed up on random data."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = make().train()
        with torch.no_grad():
            for module in model.modules():
                _enliven(module)
            for _ in range(3):
                model(torch.randn(4, *shape))
    return model.eval()


def _enliven(module: nn.Module) -> None:
    if isinstance(module, nn.BatchNorm2d) and module.weight is not None:
        signs = torch.where(torch.rand_like(module.weight) < 0.2, -1.0, 1.0)
        module.weight.copy_(signs * (0.5 + torch.rand_like(module.weight)))
        module.bias.normal_(std=0.2)
        module.momentum = 0.5
    if isinstance(module, nn.Linear) and not module.weight.any():
        module.weight.normal_(std=0.05)


def batches(
    count: int = 2, rows: int = 4, shape: tuple[int, ...] = (3, SIZE, SIZE), seed: int = 2
) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(rows, *shape, generator=generator) for _ in range(count)]
