"""Every model of torchvision that is a graph; of detectors the backbone and the heads."""

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.zoo.entry import Built, Entry, Inputs, images

KINDS = {
    "classification": "torchvision.models",
    "segmentation": "torchvision.models.segmentation",
    "optical flow": "torchvision.models.optical_flow",
    "detection": "torchvision.models.detection",
    "video": "torchvision.models.video",
}
_SIZES = {"segmentation": 256, "optical flow": 128, "detection": 320}


def entries(_: Path) -> list[Entry]:
    """All models, the smaller ones of a kind first."""
    return [entry for kind in KINDS for entry in sorted(_of(kind), key=lambda one: one.parameters)]


def _of(kind: str) -> list[Entry]:
    models = importlib.import_module("torchvision.models")
    names = models.list_models(module=importlib.import_module(KINDS[kind]))
    return [Entry(f"torchvision:{name}", kind, _parameters(name)) for name in names]


def _parameters(name: str) -> int:
    return min(int(one.meta["num_params"]) for one in _weights(name))


def _weights(name: str) -> list[Any]:
    return list(importlib.import_module("torchvision.models").get_model_weights(name))


def build(entry: Entry) -> Built:
    """The model with random weights, and inputs of the smallest size that it was trained for."""
    models = importlib.import_module("torchvision.models")
    without = {"weights": None}
    if entry.group in {"segmentation", "detection"}:
        without["weights_backbone"] = None
    model = models.get_model(entry.model, **without)
    match entry.group:
        case "detection":
            return _detector(model, 300 if entry.model == "ssd300_vgg16" else 320)
        case "optical flow":
            return _images(model, (3, 128, 128), 2)
        case "video":
            return _images(model, _clip(entry.model))
        case "segmentation":
            return _images(model, (3, 256, 256))
    return _images(model, (3, *[_crop(entry.model)] * 2))


def _crop(name: str) -> int:
    return min(int(one.transforms().crop_size[0]) for one in _weights(name))


def _clip(name: str) -> tuple[int, ...]:
    """Channels, frames, height, width."""
    weights = _weights(name)[0]
    return (3, 16, *(int(one) for one in weights.transforms().crop_size))


def _images(model: nn.Module, size: Sequence[int], count: int = 1) -> Built:
    def draw(batch: int) -> Inputs:
        return tuple(images(batch, *size) for _ in range(count)), {}

    return Built(model, draw)


# --- detectors -----------------------------------------------------------------------------------


def _detector(model: Any, size: int) -> Built:
    regions = hasattr(model, "roi_heads")
    part: nn.Module = _TwoStages(model) if regions else _OneStage(model)

    def draw(batch: int) -> Inputs:
        image = images(batch, 3, size, size)
        if not regions:
            return (image,), {}
        channels = model.backbone.out_channels
        return (image, *(torch.randn(batch, channels, one, one) for one in (7, 14))), {}

    return Built(part, draw)


class _OneStage(nn.Module):
    """Backbone and head of RetinaNet, FCOS and SSD: what comes before the boxes are selected."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.backbone = model.backbone
        self.head = model.head

    def forward(self, images: Tensor) -> Any:
        features = self.backbone(images)
        return self.head([features] if isinstance(features, Tensor) else list(features.values()))


class _TwoStages(nn.Module):
    """Backbone and heads of Faster, Mask and Keypoint R-CNN, without the selection of regions."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        heads = model.roi_heads
        self.backbone = model.backbone
        self.region_head = model.rpn.head
        self.box_head = heads.box_head
        self.box_predictor = heads.box_predictor
        kinds = ("mask", "keypoint")
        found = [kind for kind in kinds if getattr(heads, f"{kind}_head", None) is not None]
        self.others = nn.ModuleDict(
            {
                kind: nn.Sequential(
                    getattr(heads, f"{kind}_head"), getattr(heads, f"{kind}_predictor")
                )
                for kind in found
            }
        )

    def forward(self, images: Tensor, boxes: Tensor, shapes: Tensor) -> Any:
        features = list(self.backbone(images).values())
        proposals = self.region_head(features)
        others = [head(shapes) for head in self.others.values()]
        return proposals, self.box_predictor(self.box_head(boxes)), others
