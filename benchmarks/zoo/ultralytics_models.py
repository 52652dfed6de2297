"""Detectors of Ultralytics, built from their descriptions, where the package is installed."""

import importlib
import importlib.util
import os
import tempfile
from pathlib import Path
from typing import Any

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
    """The model as it is written, boxes decoded, with random weights."""
    kind = getattr(_tasks(), _DESCRIPTIONS[entry.model])
    model = kind(f"{entry.model}.yaml", verbose=False)
    return Built(model, lambda batch: ((images(batch, 3, 128, 128),), {}))


def _tasks() -> Any:
    """Its models; the file of settings that it writes goes to a folder for such files."""
    os.environ.setdefault("YOLO_CONFIG_DIR", tempfile.mkdtemp())
    return importlib.import_module("ultralytics.nn.tasks")
