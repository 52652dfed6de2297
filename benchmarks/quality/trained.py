"""Models that are trained here, on handwritten digits: top-1 of the INT8 file beside float."""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx
from torch.nn import functional as F

from benchmarks.quality.record import Trained
from embedl_deploy import transform
from embedl_deploy.export import OnnxModel, export_onnx
from embedl_deploy.quantize import (
    DistillationLoss,
    QuantConfig,
    TensorQuantConfig,
    freeze,
    freeze_batch_norm,
    quantize,
)
from examples.digits import train
from examples.digits.data import Digits, calibration_batches, digits

MODELS = ("residual", "transformer", "mobile")
BATCH = 32


@dataclass(frozen=True)
class Way:
    """How a trained model is quantized.

    Attributes:
        allowed: Points of accuracy that it may lose.
        bits: Of the weights.
        epochs: Of training with quantization.
        rate: The highest learning rate in it.
        options: Of `quantize`.
    """

    allowed: float
    bits: int = 8
    epochs: int = 0
    rate: float = 1e-4
    options: dict[str, Any] = field(default_factory=dict)


WAYS: dict[str, Way] = {
    "W8A8, fast": Way(0.3),
    "W8A8, accurate": Way(0.3, options={"recipe": "accurate"}),
    "W8A8, one epoch of training": Way(0.1, epochs=1),
    "W4A8, six epochs of training": Way(1.0, bits=4, epochs=6, rate=1e-3),
}


def measured(name: str, ways: Sequence[str]) -> list[Trained]:
    """One of `examples.digits`, quantized in each way; trained at first where no cache has it."""
    if not ways:
        return []
    torch.set_num_threads(1)
    data, model = digits(), train.trained(name)
    before = train.accuracy(model, data.test_images, data.test_labels)
    result = transform(model, (data.test_images[:1],))
    rows = []
    for way in ways:
        after = accuracy(_quantized(name, result.model, data, WAYS[way]), data)
        loss = 100 * (before - after)
        rows.append(Trained(name, way, before, after, round(loss, 4), WAYS[way].allowed))
    return rows


def accuracy(model: fx.GraphModule, data: Digits) -> float:
    """Of the exported file on the test images, as ONNX Runtime computes it."""
    with tempfile.TemporaryDirectory() as folder:
        path = export_onnx(
            model, (data.test_images[:1],), Path(folder) / "model.onnx", dynamic_batch=True
        )
        runtime = OnnxModel(path, threads=1)
        run: Callable[[Tensor], Tensor] = lambda images: next(iter(runtime(images).values()))  # noqa: E731
        return train.accuracy(run, data.test_images, data.test_labels)


def _quantized(name: str, fused: fx.GraphModule, data: Digits, way: Way) -> fx.GraphModule:
    config = QuantConfig(weights=TensorQuantConfig(bits=way.bits))
    tune = (lambda model: fine_tune(model, name, data, way)) if way.epochs else None
    return quantize(fused, calibration_batches(data), config, fine_tune=tune, **way.options)


def fine_tune(model: fx.GraphModule, name: str, data: Digits, way: Way) -> None:
    """The example's own loop, with a cosine from the highest rate to nothing.

    Batch norms are frozen, and half of the loss is the distance to the floating-point model.
    """
    torch.manual_seed(0)
    recipe = train.RECIPES[name]
    task = partial(F.cross_entropy, label_smoothing=recipe.label_smoothing)
    criterion = DistillationLoss(train.trained(name), task)
    optimizer = torch.optim.AdamW(model.parameters(), lr=way.rate, weight_decay=0.0)
    steps = way.epochs * -(-len(data.train_images) // BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    freeze_batch_norm(model).train()
    for _ in range(way.epochs):
        for chosen in torch.randperm(len(data.train_images)).split(BATCH):
            images = train.shifted(data.train_images[chosen], recipe.max_shift)
            loss = criterion(model(images), data.train_labels[chosen], images)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    freeze(model)
