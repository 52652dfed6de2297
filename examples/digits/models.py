"""A residual network, a vision transformer and a mobile network in plain PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from examples.digits.data import IMAGE_SIZE, NUM_CLASSES


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut; a 1×1 convolution on it where the shape changes."""

    def __init__(self, in_channels: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample: nn.Module | None = None
        if stride != 1 or in_channels != channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride, bias=False),
                nn.BatchNorm2d(channels),
            )

    def forward(self, x: Tensor) -> Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += identity
        result: Tensor = self.relu(out)
        return result


class ResidualNet(nn.Module):
    """A ResNet for small gray images: a stem and three stages of residual blocks."""

    def __init__(
        self,
        widths: Sequence[int] = (24, 48, 96),
        blocks: int = 2,
        num_classes: int = NUM_CLASSES,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, widths[0], 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = self._stage(widths[0], widths[0], blocks, stride=1)
        self.layer2 = self._stage(widths[0], widths[1], blocks, stride=2)
        self.layer3 = self._stage(widths[1], widths[2], blocks, stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(widths[2], num_classes)

    def _stage(self, in_channels: int, channels: int, blocks: int, stride: int) -> nn.Sequential:
        first = ResidualBlock(in_channels, channels, stride)
        return nn.Sequential(first, *(ResidualBlock(channels, channels) for _ in range(1, blocks)))

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        x = torch.flatten(self.avgpool(x), 1)
        logits: Tensor = self.fc(x)
        return logits


class EncoderBlock(nn.Module):
    """Self-attention and an MLP, each after a LayerNorm and added to the residual stream."""

    def __init__(self, dim: int, heads: int, mlp_dim: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attention = nn.MultiheadAttention(dim, heads, dropout=dropout, batch_first=True)
        self.dropout = nn.Dropout(dropout)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(
            nn.Linear(dim, mlp_dim),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(mlp_dim, dim),
            nn.Dropout(dropout),
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm1(x)
        y, _ = self.attention(y, y, y, need_weights=False)
        x = x + self.dropout(y)
        y = self.mlp(self.norm2(x))
        return x + y


class VisionTransformer(nn.Module):
    """A ViT: patch embedding by a convolution, class token, learned positions, pre-norm blocks."""

    def __init__(
        self,
        *,
        image_size: int = IMAGE_SIZE,
        patch_size: int = 4,
        dim: int = 96,
        depth: int = 4,
        heads: int = 4,
        dropout: float = 0.0,
        num_classes: int = NUM_CLASSES,
    ) -> None:
        super().__init__()
        tokens = (image_size // patch_size) ** 2 + 1
        self.patch_embedding = nn.Conv2d(1, dim, patch_size, stride=patch_size)
        self.class_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.position_embedding = nn.Parameter(torch.empty(1, tokens, dim).normal_(std=0.02))
        self.blocks = nn.Sequential(
            *(EncoderBlock(dim, heads, 2 * dim, dropout) for _ in range(depth))
        )
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embedding(x).flatten(2).transpose(1, 2)
        class_token = self.class_token.expand(x.shape[0], -1, -1)
        x = torch.cat([class_token, x], dim=1) + self.position_embedding
        x = self.norm(self.blocks(x))
        logits: Tensor = self.head(x[:, 0])
        return logits


class SqueezeExcite(nn.Module):
    """Scales each channel by a gate that is computed from the mean of all channels."""

    def __init__(self, channels: int, reduction: int = 4) -> None:
        super().__init__()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Conv2d(channels, channels // reduction, 1)
        self.relu = nn.ReLU(inplace=True)
        self.fc2 = nn.Conv2d(channels // reduction, channels, 1)
        self.gate = nn.Hardsigmoid()

    def forward(self, x: Tensor) -> Tensor:
        scale: Tensor = self.relu(self.fc1(self.avgpool(x)))
        scale = self.gate(self.fc2(scale))
        return x * scale


class InvertedResidual(nn.Module):
    """Expand 1×1, depthwise 3×3, optional squeeze-excite, project 1×1; a shortcut if it fits."""

    def __init__(
        self,
        in_channels: int,
        channels: int,
        *,
        stride: int = 1,
        expansion: int = 3,
        activation: Callable[[], nn.Module] = nn.ReLU6,
        squeeze: bool = False,
    ) -> None:
        super().__init__()
        hidden = in_channels * expansion
        self.shortcut = stride == 1 and in_channels == channels
        self.body = nn.Sequential(
            *_conv_bn(in_channels, hidden, 1),
            activation(),
            *_conv_bn(hidden, hidden, 3, stride=stride, groups=hidden),
            activation(),
            *((SqueezeExcite(hidden),) if squeeze else ()),
            *_conv_bn(hidden, channels, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.body(x)
        return x + out if self.shortcut else out


class MobileNet(nn.Module):
    """A small MobileNet: ReLU6 in the early blocks, Hardswish and squeeze-excite in the late."""

    def __init__(self, num_classes: int = NUM_CLASSES) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *_conv_bn(1, 24, 3, stride=2),
            nn.Hardswish(),
            InvertedResidual(24, 24),
            InvertedResidual(24, 40, stride=2),
            InvertedResidual(40, 40, activation=nn.Hardswish, squeeze=True),
            InvertedResidual(40, 64, stride=2, activation=nn.Hardswish, squeeze=True),
            InvertedResidual(64, 64, activation=nn.Hardswish, squeeze=True),
            *_conv_bn(64, 192, 1),
            nn.Hardswish(),
        )
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(nn.Dropout(0.1), nn.Linear(192, num_classes))

    def forward(self, x: Tensor) -> Tensor:
        x = self.avgpool(self.features(x))
        logits: Tensor = self.classifier(x.flatten(1))
        return logits


def _conv_bn(
    in_channels: int, channels: int, kernel_size: int, *, stride: int = 1, groups: int = 1
) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    padding = kernel_size // 2
    conv = nn.Conv2d(in_channels, channels, kernel_size, stride, padding, groups=groups, bias=False)
    return conv, nn.BatchNorm2d(channels)


MODELS: dict[str, Callable[[], nn.Module]] = {
    "residual": ResidualNet,
    "transformer": VisionTransformer,
    "mobile": MobileNet,
}
"""How to make each model, untrained, by the name that `trained` takes."""
