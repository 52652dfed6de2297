"""Training of the detector: each place near a shape's centre learns its class and its box."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from examples.detector.data import Scene, shapes
from examples.detector.model import STRIDES, Detector

Progress = Callable[[int, int, float], None]
"""Called after each epoch with its number (from 1), the number of epochs and the mean loss."""


@dataclass(frozen=True)
class Recipe:
    """How to train it."""

    images: int = 1536
    epochs: int = 12
    batch_size: int = 32
    learning_rate: float = 3e-3
    seed: int = 0


def trained(recipe: Recipe, progress: Progress | None = None) -> Detector:
    """A detector in eval mode, trained anew; torch's global random state stays as it was."""
    data = shapes(recipe.images, seed=1 + recipe.seed)
    generator = torch.Generator().manual_seed(recipe.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        model = Detector()
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, weight_decay=0.02)
    steps = -(-recipe.images // recipe.batch_size) * recipe.epochs
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.learning_rate, steps)
    for epoch in range(1, recipe.epochs + 1):
        losses = []
        for batch in data.batches(recipe.batch_size, generator):
            loss = detection_loss(model, model(batch.images), batch.scenes)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        if progress is not None:
            progress(epoch, recipe.epochs, sum(losses) / len(losses))
    return model.eval()


def detection_loss(
    model: Detector, outputs: tuple[Tensor, Tensor], scenes: Sequence[Scene]
) -> Tensor:
    """Focal loss of the classes and GIoU loss of the boxes, for each place with a shape."""
    logits, boxes = outputs
    assigned = [assign(model.places, model.strides, scene) for scene in scenes]
    labels = torch.stack([one for one, _ in assigned])
    wanted = torch.stack([one for _, one in assigned])
    there = labels >= 0
    count = there.sum().clamp(min=1)
    classes = F.one_hot(labels + 1, logits.shape[-1] + 1)[..., 1:].float()
    return (focal(logits, classes) + giou(boxes[there], wanted[there]).sum()) / count


def assign(places: Tensor, strides: Tensor, scene: Scene) -> tuple[Tensor, Tensor]:
    """The label of each place, −1 for none, and the box that it should give.

    A box belongs to the level whose stride is nearest to a quarter of its side, and there to the
    places within one stride and a half of its centre.
    """
    levels = strides.new_tensor(STRIDES)
    side = (scene.boxes[:, 2:] - scene.boxes[:, :2]).amax(1)
    level = levels[(side[:, None] / 4 / levels).log().abs().argmin(1)]
    centre = (scene.boxes[:, :2] + scene.boxes[:, 2:]) / 2
    apart = (places[:, None] - centre).abs().amax(-1)
    inside = (places[:, None] > scene.boxes[:, :2]) & (places[:, None] < scene.boxes[:, 2:])
    taken = (strides == level) & (apart < 1.5 * strides) & inside.all(-1)
    nearest = apart.masked_fill(~taken, torch.inf).argmin(1)
    labels = scene.labels[nearest].masked_fill(~taken.any(1), -1)
    return labels, scene.boxes[nearest]


def focal(logits: Tensor, classes: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """The sum of the focal loss (Lin et al. 2017, arXiv 1708.02002)."""
    entropy = F.binary_cross_entropy_with_logits(logits, classes, reduction="none")
    missed = (classes - logits.sigmoid()).abs()
    balance = alpha * classes + (1 - alpha) * (1 - classes)
    return (balance * missed**gamma * entropy).sum()


def giou(boxes: Tensor, wanted: Tensor) -> Tensor:
    """1 − GIoU of each pair (Rezatofighi et al. 2019, arXiv 1902.09630), of shape (N,)."""
    joint = _area(
        torch.maximum(boxes[:, :2], wanted[:, :2]), torch.minimum(boxes[:, 2:], wanted[:, 2:])
    )
    either = _area(boxes[:, :2], boxes[:, 2:]) + _area(wanted[:, :2], wanted[:, 2:]) - joint
    hull = _area(
        torch.minimum(boxes[:, :2], wanted[:, :2]), torch.maximum(boxes[:, 2:], wanted[:, 2:])
    )
    return 1 - joint / either + (hull - either) / hull


def _area(first: Tensor, last: Tensor) -> Tensor:
    return (last - first).clamp(min=0).prod(-1)
