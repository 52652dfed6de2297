"""Generated images of discs, squares and triangles, with a box and a class for each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

IMAGE_SIZE = 48
CLASSES = ("disc", "square", "triangle")
SIDES = (10, 32)
"""Smallest and largest side of a box, in pixels."""
MOST_SHAPES = 3
NOISE = 0.05


@dataclass(frozen=True)
class Scene:
    """What is to be found in one image: boxes (N, 4) as x1, y1, x2, y2 in pixels, labels (N,)."""

    boxes: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Shapes:
    """Images, float32 of shape (N, 3, 48, 48) around 0, and the scene of each."""

    images: Tensor
    scenes: tuple[Scene, ...]

    def batches(self, size: int, generator: torch.Generator | None = None) -> Iterator[Shapes]:
        """Parts of at most `size` images; with a generator, drawn anew in another order."""
        count = len(self.scenes)
        shuffled = generator is not None
        order = torch.randperm(count, generator=generator) if shuffled else torch.arange(count)
        for chosen in order.split(size):
            yield Shapes(self.images[chosen], tuple(self.scenes[int(one)] for one in chosen))


def shapes(count: int, seed: int) -> Shapes:
    """`count` images of one to three shapes; the same seed gives the same ones."""
    generator = torch.Generator().manual_seed(seed)
    drawn = [_drawn(generator) for _ in range(count)]
    return Shapes(torch.stack([image for image, _ in drawn]), tuple(scene for _, scene in drawn))


def _drawn(generator: torch.Generator) -> tuple[Tensor, Scene]:
    def uniform(*size: int) -> Tensor:
        return torch.rand(*size, generator=generator)

    slope = torch.linspace(-0.5, 0.5, IMAGE_SIZE)
    image = uniform(3, 1, 1) + (uniform(3, 1, 1) - 0.5) * slope
    image = (image + (uniform(3, 1, 1) - 0.5) * slope[:, None]).clone()
    boxes: list[Tensor] = []
    labels: list[int] = []
    for _ in range(1 + int(uniform(1) * MOST_SHAPES)):
        box = _placed(uniform(3))
        if any(_touch(box, other) for other in boxes):
            continue
        labels.append(int(uniform(1) * len(CLASSES)))
        boxes.append(box)
        color = _contrasting(image, box, uniform(3))
        image = torch.where(mask(box, labels[-1]), color[:, None, None], image)
    image += NOISE * torch.randn(image.shape, generator=generator)
    return 2 * image - 1, Scene(torch.stack(boxes), torch.tensor(labels))


def _placed(random: Tensor) -> Tensor:
    side = SIDES[0] + (SIDES[1] - SIDES[0]) * float(random[0]) ** 2  # more small ones
    corner = random[1:] * (IMAGE_SIZE - side)
    return torch.cat([corner, corner + side])


def _touch(one: Tensor, other: Tensor) -> bool:
    return bool((torch.minimum(one[2:], other[2:]) > torch.maximum(one[:2], other[:2])).all())


def _contrasting(image: Tensor, box: Tensor, color: Tensor) -> Tensor:
    x, y = ((box[:2] + box[2:]) / 2).long()
    below = image[:, y, x]
    away = torch.where(color > below, 1.0, -1.0)
    return torch.where((color - below).abs() < 0.25, below + 0.35 * away, color)


def mask(box: Tensor, label: int) -> Tensor:
    """Which pixels a shape covers, bool of shape (48, 48)."""
    centre, half = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) / 2
    pixels = torch.arange(IMAGE_SIZE) + 0.5
    across = ((pixels - centre[0]) / half[0]).expand(IMAGE_SIZE, -1)
    down = ((pixels - centre[1]) / half[1])[:, None].expand(-1, IMAGE_SIZE)
    square = torch.maximum(across.abs(), down.abs()) < 1
    match CLASSES[label]:
        case "disc":
            return across.square() + down.square() < 1
        case "triangle":
            return square & (2 * across.abs() < 1 + down)
        case _:
            return square
