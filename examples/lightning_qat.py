"""Quantization-aware training of the digits network: a loop of one's own, and Lightning.

`python -m examples.lightning_qat` trains the residual network for a few epochs, quantizes it to
weights of 3 bits and activations of 4, trains on with learned scales by both, and prints the
accuracy after each step. So few bits show what training gains: at 8 bits nothing is lost here.
Lightning is optional (`pip install lightning`); without it the loop alone runs.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from embedl_deploy import transform
from embedl_deploy.cli.torchvision_ops import import_torchvision
from embedl_deploy.quantize import (
    QuantConfig,
    TensorQuantConfig,
    freeze,
    freeze_batch_norm,
    quantize,
    scale_parameters,
)
from examples.digits.data import Digits, calibration_batches, digits
from examples.digits.models import MODELS
from examples.digits.train import Recipe, accuracy, train

LEARNED = QuantConfig(
    activations=TensorQuantConfig(bits=4, scale="learned"),
    weights=TensorQuantConfig(bits=3, scale="learned"),
)


def optimizer_for(model: nn.Module) -> torch.optim.Optimizer:
    """AdamW; learned scales get no weight decay and a smaller rate."""
    scales = scale_parameters(model)
    known = {id(one) for one in scales}
    rest = [one for one in model.parameters() if id(one) not in known]
    optimizer = torch.optim.AdamW(rest, lr=1e-3)
    optimizer.add_param_group({"params": scales, "lr": 1e-4, "weight_decay": 0.0})
    return optimizer


def train_by_loop(model: nn.Module, batches: DataLoader[tuple[Tensor, ...]], epochs: int) -> None:
    """An ordinary loop, with the statistics of batch norms frozen."""
    freeze_batch_norm(model)
    optimizer = optimizer_for(model)
    for _ in range(epochs):
        model.train()
        for images, labels in batches:
            optimizer.zero_grad()
            F.cross_entropy(model(images), labels).backward()
            optimizer.step()
    freeze(model)


def train_by_lightning(
    model: nn.Module, batches: DataLoader[tuple[Tensor, ...]], epochs: int
) -> None:
    """The same by Lightning: its module only holds the quantized model."""
    import_torchvision()  # torchmetrics imports it where it is installed
    import lightning

    class Quantized(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def training_step(self, batch: list[Tensor], _index: int) -> Tensor:
            images, labels = batch
            return F.cross_entropy(self.model(images), labels)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return optimizer_for(self.model)

    freeze_batch_norm(model).train()  # Lightning leaves each module in the mode that it is in
    trainer = lightning.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Quantized(), batches)
    freeze(model)


WAYS: dict[str, Callable[[nn.Module, DataLoader[tuple[Tensor, ...]], int], None]] = {
    "loop": train_by_loop,
    "lightning": train_by_lightning,
}


def qat(
    model: nn.Module, data: Digits, way: str, *, epochs: int = 3, seed: int = 0
) -> fx.GraphModule:
    """A quantized copy of a trained model, trained on in one of `WAYS`."""
    quantized = quantize(transform(model), calibration_batches(data), LEARNED)
    generator = torch.Generator().manual_seed(seed)
    batches = DataLoader(
        TensorDataset(data.train_images, data.train_labels),
        batch_size=64,
        shuffle=True,
        generator=generator,
    )
    WAYS[way](quantized, batches, epochs)
    return quantized


def main() -> None:
    """Print the accuracy in floating point, calibrated, and trained in each way."""
    torch.set_num_threads(1)
    data = digits()

    def said(name: str, model: nn.Module) -> None:
        print(f"{name:<28} {accuracy(model.eval(), data.test_images, data.test_labels):.2%}")

    torch.manual_seed(0)
    model = MODELS["residual"]()
    train(model, data, Recipe(epochs=6))
    said("floating point", model)
    said("calibrated", quantize(transform(model), calibration_batches(data), LEARNED))
    said("trained by a loop", qat(model, data, "loop"))
    if importlib.util.find_spec("lightning") is None:
        print("Lightning is not installed: pip install lightning")
        return
    said("trained by Lightning", qat(model, data, "lightning"))


if __name__ == "__main__":
    main()
