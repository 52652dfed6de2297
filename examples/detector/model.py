"""A one-stage detector without anchors: residual backbone, feature pyramid, one shared head."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from examples.detector.data import CLASSES, IMAGE_SIZE
from examples.digits.models import ResidualBlock

STRIDES = (4, 8, 16)
"""Pixels between the places of each level of the pyramid."""


class Detector(nn.Module):
    """Gives, for each of N places, the score of every class and a box.

    Takes images of shape (B, 3, 48, 48); gives logits (B, N, 3), and boxes (B, N, 4) as x1, y1,
    x2, y2 in pixels. Suppressing all but the best of boxes that overlap is left to the caller.
    """

    places: Tensor
    strides: Tensor

    def __init__(self, widths: tuple[int, int, int] = (24, 32, 64), channels: int = 32) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 16, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(inplace=True),
        )
        self.stages = nn.ModuleList(
            ResidualBlock(before, width, stride=2)
            for before, width in zip((16, *widths), widths, strict=False)
        )
        self.pyramid = Pyramid(widths, channels)
        self.head = Head(channels)
        places, strides = zip(*map(_grid, STRIDES), strict=True)
        self.register_buffer("places", torch.cat(places), persistent=False)
        self.register_buffer("strides", torch.cat(strides), persistent=False)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        x, levels = self.stem(images), []
        for stage in self.stages:
            x = stage(x)
            levels.append(x)
        found = [self.head(level) for level in self.pyramid(levels)]
        logits = torch.cat([_rows(one) for one, _ in found], dim=1)
        sides = torch.cat([_rows(one) for _, one in found], dim=1).exp() * self.strides
        first, last = self.places - sides[..., :2], self.places + sides[..., 2:]
        return logits, torch.cat([first, last], dim=-1)


class Pyramid(nn.Module):
    """Adds to each level what coarser levels saw (Lin et al. 2017, arXiv 1612.03144)."""

    def __init__(self, widths: tuple[int, ...], channels: int) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(nn.Conv2d(width, channels, 1) for width in widths)
        self.smooth = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in widths)

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        merged = [lateral(x) for lateral, x in zip(self.lateral, levels, strict=True)]
        for index in (1, 0):
            coarse = F.interpolate(merged[index + 1], scale_factor=2.0, mode="nearest")
            merged[index] = merged[index] + coarse
        return [smooth(x) for smooth, x in zip(self.smooth, merged, strict=True)]


class Head(nn.Module):
    """Scores of the classes, and the logarithm of the distance to each side of the box."""

    def __init__(self, channels: int, rare: float = 0.01) -> None:
        super().__init__()
        self.tower = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(inplace=True),
        )
        self.classes = nn.Conv2d(channels, len(CLASSES), 3, padding=1)
        self.sides = nn.Conv2d(channels, 4, 3, padding=1)
        nn.init.constant_(self.classes.bias, -math.log((1 - rare) / rare))  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.tower(x)
        return self.classes(x), self.sides(x)


def _rows(x: Tensor) -> Tensor:
    return x.flatten(2).transpose(1, 2)


def _grid(stride: int) -> tuple[Tensor, Tensor]:
    """Centres (N, 2) as x, y in pixels, and the stride of each (N, 1)."""
    steps = (torch.arange(IMAGE_SIZE // stride) + 0.5) * stride
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    centres = torch.stack([x, y], -1).reshape(-1, 2)
    return centres, torch.full((len(centres), 1), float(stride))
