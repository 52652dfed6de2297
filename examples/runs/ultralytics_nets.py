"""Detectors of Ultralytics: `embedl-deploy` names a model by a function without arguments."""

from importlib import import_module

from torch import nn


def yolov8n() -> nn.Module:
    """YOLOv8n by its description, with random weights; `weights:` of the run file gives others."""
    model: nn.Module = import_module("ultralytics.nn.tasks").DetectionModel(
        "yolov8n.yaml", verbose=False
    )
    return model
