"""Detectors of Ultralytics, built from their descriptions, where the package is installed."""

import importlib
import importlib.util
import os
import tempfile
from pathlib import Path
from typing import Any

from torch import Tensor

from benchmarks.zoo.entry import Built, Entry, images

_DESCRIPTIONS = {
    "yolov8n": "DetectionModel",
    "yolov8n-seg": "SegmentationModel",
    "yolov8n-pose": "PoseModel",
    "yolo11n": "DetectionModel",
    "yolo11n-seg": "SegmentationModel",
    "yolo11n-pose": "PoseModel",
    "yolo26n": "DetectionModel",
    "yolo26n-seg": "SegmentationModel",
    "yolo26n-pose": "PoseModel",
    "rtdetr-l": "RTDETRDetectionModel",
}


def entries(_: Path) -> list[Entry]:
    """All of them; none where the package is not installed."""
    if importlib.util.find_spec("ultralytics") is None:
        return []
    return [Entry(f"ultralytics:{name}", "detection") for name in _DESCRIPTIONS]


def build(entry: Entry) -> Built:
    """The model as it is written, with random weights.

    Boxes are decoded, or not with `-raw` after the name, as runtimes often decode them.
    """
    name = entry.model.removesuffix("-raw")
    model = getattr(_tasks(), _DESCRIPTIONS[name])(f"{name}.yaml", verbose=False)
    if name != entry.model:
        head = model.model[-1]
        head.__class__ = type("RawDetect", (type(head),), {"forward": _raw})
    return Built(model, lambda batch: ((images(batch, 3, 128, 128),), {}))


def _raw(head: Any, maps: list[Tensor]) -> tuple[Tensor, Tensor]:
    """The numbers of boxes (batch, 4 · 16, places), and scores (batch, classes, places)."""
    found = head.forward_head(maps, **head.one2many)
    return found["boxes"], found["scores"]


def _tasks() -> Any:
    """Its models; the file of settings that it writes goes to a folder for such files."""
    os.environ.setdefault("YOLO_CONFIG_DIR", tempfile.mkdtemp())
    return importlib.import_module("ultralytics.nn.tasks")
