"""Networks some of whose channels have been made large, and what reads them small: they compute
what they computed before, and one scale for all channels no longer fits.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.vision_transformer import VisionTransformer

from embedl_deploy import Result
from embedl_deploy.quantize import analyze, quantize
from tests.quantize.nets import batches, ready

SHAPE = (3, 16, 16)
DATA = batches(4, 8, SHAPE)
UNSEEN = batches(2, 16, SHAPE, seed=3)
LARGE = math.log(100)


class Mobile(nn.Module):
    """Depthwise and pointwise convolutions, with and without batch norm, and linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *normed(nn.Conv2d(3, 16, 3, stride=2, bias=False)),
            *normed(nn.Conv2d(16, 16, 3, groups=16, bias=False)),
            *normed(nn.Conv2d(16, 32, 1, bias=False)),
            *normed(nn.Conv2d(32, 32, 3, groups=32, bias=False)),
            *(nn.Conv2d(32, 32, 1), nn.ReLU()),
            *(nn.Conv2d(32, 48, 1), nn.LeakyReLU(0.1)),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
            *(nn.Linear(48, 64), nn.ReLU(), nn.Linear(64, 10)),
        )

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.layers(x)
        return result


def normed(conv: nn.Conv2d) -> tuple[nn.Module, ...]:
    return conv, nn.BatchNorm2d(conv.out_channels), nn.ReLU()


def mobile(*, planted: bool) -> nn.Module:
    """With factors from 0.01 to 100 on all channels between layers."""
    model: Any = ready(Mobile, SHAPE)
    before: Any = None
    for layer in model.layers if planted else ():
        if before is not None and isinstance(layer, nn.Conv2d | nn.Linear):
            depthwise = isinstance(layer, nn.Conv2d) and layer.groups > 1
            columns = layer.weight if depthwise else layer.weight.transpose(0, 1)
            factors = torch.empty(len(before.weight)).uniform_(-LARGE, LARGE).exp()
            move(factors, [before.weight, before.bias], [columns])
        before = layer if hasattr(layer, "weight") else before
    return model


def vit(*, planted: bool) -> nn.Module:
    """With two channels in each tensor 40 times as large: after norms, in query and value."""
    model: Any = ready(lambda: VisionTransformer(16, 4, 2, 2, 32, 64, num_classes=10), SHAPE)
    for layer in model.encoder.layers if planted else ():
        attention = layer.self_attention
        weights, biases = attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3)
        (query, key, value) = zip(weights, biases, strict=True)
        move(outliers(), [layer.ln_1.weight, layer.ln_1.bias], [attention.in_proj_weight.T])
        move(outliers(), query, key)
        move(outliers(), value, [attention.out_proj.weight.T])
        move(outliers(), [layer.ln_2.weight, layer.ln_2.bias], [layer.mlp[0].weight.T])
    return model


def outliers() -> Tensor:
    factors = torch.ones(32)
    factors[torch.randperm(32)[:2]] = 40.0
    return factors


def move(factors: Tensor, giving: Sequence[Tensor], reading: Sequence[Tensor]) -> None:
    """Make channels larger where they are given, and smaller where they are read."""
    with torch.no_grad():
        for tensor in giving:
            tensor.mul_(factors.view(-1, *(1,) * (tensor.dim() - 1)))
        for tensor in reading:
            tensor.div_(factors.view(-1, *(1,) * (tensor.dim() - 1)))


def decibels(result: Result) -> float:
    """Signal to noise at the outputs of the quantized model, on data that it has not seen."""
    return analyze(quantize(result, DATA), UNSEEN).output_sqnr_db
