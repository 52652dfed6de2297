"""The models, their data and their results in floating point, as files that every tool reads."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

MODELS = (
    "resnet50",
    "convnext_tiny",
    "vit_b_16",
    "mobilenet_v3_large",
    "efficientnet_b0",
    "swin_t",
    "mobilenet_v3_large-initial",
    "efficientnet_b0-initial",
)
SAMPLES = 16
_OPSET = 20


def built(name: str) -> tuple[nn.Module, Tensor, Tensor]:
    """A model of torchvision with random weights, its calibration images, and others held out.

    As in the zoo: no parameter is constant, so that no layer is silent, and batch norms have the
    statistics of such images. With `-initial` after the name, parameters are as torchvision
    initializes them, and batch norms have the statistics of plain noise.
    """
    from embedl_deploy.cli.torchvision_ops import import_torchvision

    import_torchvision()
    from benchmarks.zoo import catalog
    from benchmarks.zoo.entry import Entry
    from benchmarks.zoo.warmth import warm

    torch.manual_seed(0)
    name, _, initial = name.partition("-")
    one = catalog.build(Entry(f"torchvision:{name}", "classification"))
    if initial:
        _see_noise(one.model)
    else:
        warm(one)
    torch.manual_seed(1)
    (calibration,), _ = one.draw(SAMPLES)
    torch.manual_seed(2)
    (held_out,), _ = one.draw(SAMPLES)
    return one.model, calibration, held_out


def _see_noise(model: nn.Module) -> None:
    """Give batch norms the statistics of noise, with nothing dropped."""
    part: Any
    model.train()
    for part in model.modules():
        if isinstance(part, _BatchNorm):
            part.momentum = None  # the plain mean of all batches
        if isinstance(part, nn.Dropout) or type(part).__name__ == "StochasticDepth":
            part.p = 0.0
    with torch.no_grad():
        for _ in range(4):
            model(torch.randn(8, 3, 224, 224))
    model.eval()


def prepare(name: str, folder: Path) -> None:
    """Write what the tools start from, and what they are measured against.

    In `folder`: `float.onnx` and `float.pt2`, the model; `calibration.npz` and `held_out.npy`, the
    images, the former by the name of the input; `reference.npy`, what the untouched model makes of
    those held out, in eager mode.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model, calibration, held_out = built(name)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reference = torch.cat([model(one) for one in held_out.split(1)])
        exported = torch.export.export(model, (calibration[:1],))
        torch.export.save(exported, folder / "float.pt2")
        program = torch.onnx.export(exported, opset_version=_OPSET, verbose=False)
        assert program is not None
        program.save(folder / "float.onnx", external_data=False)
    named: dict[str, Any] = {str(program.model.graph.inputs[0].name): calibration.numpy()}
    np.savez(folder / "calibration.npz", **named)
    for part, values in {"held_out": held_out, "reference": reference}.items():
        np.save(folder / f"{part}.npy", values.numpy())
