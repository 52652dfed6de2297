"""Quantizes a model with one setting of this library, in a process of its own."""

import sys
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from benchmarks.quality.models import built
from embedl_deploy import transform
from embedl_deploy.export import export_onnx
from embedl_deploy.quantize import QuantConfig, quantize, smooth

SETTINGS = (
    "embedl_deploy-fast",
    "embedl_deploy-smooth",
    "embedl_deploy-accurate",
    "embedl_deploy-float-head",
)


def main(setting: str, name: str, folder: Path) -> None:
    """Write `SETTING.onnx`, and print the version."""
    torch.set_num_threads(1)
    model, calibration, _ = built(name)
    batches = calibration.split(1)
    result = transform(model, (batches[0],))
    if setting in {"embedl_deploy-smooth", "embedl_deploy-float-head"}:
        smooth(result, batches)
    skip = (head(model),) if setting == "embedl_deploy-float-head" else ()
    recipe: Literal["fast", "accurate"] = "accurate" if "accurate" in setting else "fast"
    quantized = quantize(result, batches, QuantConfig(skip=skip), recipe=recipe)
    export_onnx(quantized, (batches[0],), folder / f"{setting}.onnx")
    print(f"embedl_deploy {version('embedl_deploy')}")


def head(model: nn.Module) -> str:
    """Path of the last linear layer."""
    return [path for path, one in model.named_modules() if isinstance(one, nn.Linear)][-1]


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
