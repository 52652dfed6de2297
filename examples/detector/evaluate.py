"""Mean average precision of whatever predicts as the detector does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from examples.detector.data import CLASSES, Scene, Shapes

Predict = Callable[[Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Found:
    """What was found in one image, the surest first: boxes (N, 4), labels (N,), scores (N,)."""

    boxes: Tensor
    labels: Tensor
    scores: Tensor


@torch.no_grad()
def mean_average_precision(
    predict: Predict, data: Shapes, batch_size: int = 50
) -> dict[str, float]:
    """The mAP at an overlap of one half, and averaged over 0.50, 0.55 to 0.95 as in COCO."""
    found: list[Found] = []
    for batch in data.batches(batch_size):
        logits, boxes = predict(batch.images)
        found += [detections(*one) for one in zip(logits, boxes, strict=True)]
    overlaps = [0.5 + 0.05 * step for step in range(10)]
    precise = [
        sum(average_precision(found, data.scenes, kind, least) for kind in range(len(CLASSES)))
        / len(CLASSES)
        for least in overlaps
    ]
    return {"mAP50": precise[0], "mAP": sum(precise) / len(precise)}


def detections(logits: Tensor, boxes: Tensor, least: float = 0.05, overlap: float = 0.5) -> Found:
    """What one image shows: of boxes of one class that overlap, the one with the best score.

    Args:
        logits: Of shape (N, classes).
        boxes: Of shape (N, 4).
        least: Smallest score.
        overlap: Largest share of the union that two boxes of one class may have in common.
    """
    scores, labels = logits.sigmoid().max(-1)
    order = scores.argsort(descending=True, stable=True)
    order = order[scores[order] > least]
    boxes, labels, scores = boxes[order], labels[order], scores[order]
    clash = (iou(boxes, boxes) > overlap) & (labels[:, None] == labels)
    keep = torch.ones(len(order), dtype=torch.bool)
    for index in range(len(order)):
        if keep[index]:
            keep[index + 1 :] &= ~clash[index, index + 1 :]
    return Found(boxes[keep], labels[keep], scores[keep])


def iou(one: Tensor, other: Tensor) -> Tensor:
    """Intersection over union of boxes (N, 4) and (M, 4), of shape (N, M)."""
    first = torch.maximum(one[:, None, :2], other[:, :2])
    last = torch.minimum(one[:, None, 2:], other[:, 2:])
    joint = (last - first).clamp(min=0).prod(-1)
    areas = [(boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(-1) for boxes in (one, other)]
    return joint / (areas[0][:, None] + areas[1] - joint).clamp(min=1e-9)


def average_precision(
    found: Sequence[Found], scenes: Sequence[Scene], kind: int, least: float
) -> float:
    """The area under precision over recall for one class; precision never rises with recall."""
    scores: list[Tensor] = []
    right: list[Tensor] = []
    there = 0
    for one, scene in zip(found, scenes, strict=True):
        boxes = scene.boxes[scene.labels == kind]
        mine = one.labels == kind
        there += len(boxes)
        scores.append(one.scores[mine])
        right.append(_hits(one.boxes[mine], boxes, least))
    order = torch.cat(scores).argsort(descending=True, stable=True)
    hits = torch.cat(right)[order].double()
    precision = hits.cumsum(0) / torch.arange(1, len(hits) + 1)
    best = precision.flip(0).cummax(0).values.flip(0) if len(hits) else precision
    return float((best * hits).sum() / max(there, 1))


def _hits(boxes: Tensor, wanted: Tensor, least: float) -> Tensor:
    """Which boxes, the surest first, are the first to cover one that is wanted."""
    free = torch.ones(len(wanted), dtype=torch.bool)
    hits = torch.zeros(len(boxes), dtype=torch.bool)
    for index, covered in enumerate(iou(boxes, wanted)):
        overlaps = covered.where(free, 0)
        if len(wanted) and overlaps.max() >= least:
            free[overlaps.argmax()] = False
            hits[index] = True
    return hits
