"""How long a training step of a quantized model takes beside a step of the source model.

A step is forward, backward and the optimizer's. On the CPU its time is that of one thread, which
other programs do not lengthen. Run it on a machine with nothing else to do:
python benchmarks/training.py
"""

import sys
from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from _bars import (
    Figure,
    finish,
    in_fresh_process,
    median,
    parser_of,
    rounds,
    say,
    show,
    spread,
    timed,
    within,
)
from torch import nn

from embedl_deploy import transform
from embedl_deploy.cli.torchvision_ops import import_torchvision
from embedl_deploy.quantize import QuantConfig, TensorQuantConfig, quantize
from embedl_deploy.quantize.config import Scale

MODELS = {"resnet50": (8, 112), "vit_s_16": (8, 160)}
"""Batch size and size of the images."""

SCALES: tuple[Scale, ...] = ("observed", "learned")
BARS = {"eager": 1.6, "compiled": 1.3}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write; gives 1 where a bar is missed."""
    parser = parser_of(__doc__)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=[*MODELS])
    parser.add_argument("--ways", nargs="+", choices=BARS, help="eager, or with --full both")
    parser.add_argument("--rounds", type=int, default=7, help="steps of each (default: 7)")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(arguments)
    seconds = within(45, full=options.full)
    figures: list[Figure] = []
    for way in options.ways or (BARS if options.full else ["eager"]):
        for name in options.models:
            say(f"{name}, {way}")
            sizes = (options.rounds, seconds, options.device)
            found = in_fresh_process(steps, name, way, *sizes)
            show("A training step, the source model's = 1", found)
            figures += found
    return finish(figures, options.json)


def steps(name: str, way: str, most: int, seconds: float, device: str) -> list[Figure]:
    """The time of a quantized model's step over that of the source model's, by kind of scales."""
    torch.set_num_threads(1)
    source = _source(name)
    batch, size = MODELS[name]
    images = torch.randn(batch, 3, size, size)
    models = {scale: _quantized(source, scale, images) for scale in SCALES}
    plain = _step(source, images, way, device)
    quantized = {scale: _step(model, images, way, device) for scale, model in models.items()}
    for step in (plain, *quantized.values()):
        for _ in range(2):
            step()
    shares: dict[str, list[float]] = {scale: [] for scale in SCALES}
    taken = []
    for _ in rounds(most, seconds):  # interleaved, so that a slow minute of the machine slows all
        taken.append(_time(plain, device))
        for scale, step in quantized.items():
            shares[scale].append(_time(step, device) / taken[-1])
    details = f"batch {batch}, {size}², {device}, source {median(taken):.3g} s"
    return [
        Figure(
            f"{name}, {way}, {scale} scales",
            median(runs),
            "×",
            BARS[way],
            details=f"{spread(runs)}; {details}",
        )
        for scale, runs in shares.items()
    ]


def _time(step: Callable[[], None], device: str) -> float:
    found = timed(step)
    return found.processor if device == "cpu" else found.wall


def _source(name: str) -> nn.Module:
    import_torchvision()
    import torchvision

    torch.manual_seed(0)
    if name == "resnet50":
        return torchvision.models.resnet50()
    return torchvision.models.VisionTransformer(
        MODELS[name][1], patch_size=16, num_layers=6, num_heads=6, hidden_dim=384, mlp_dim=1536
    )


def _quantized(source: nn.Module, scale: Scale, images: torch.Tensor) -> nn.Module:
    one = TensorQuantConfig(scale=scale)
    return quantize(transform(source.eval(), (images,)), [images], QuantConfig(one, one))


def _step(model: nn.Module, images: torch.Tensor, way: str, device: str) -> Callable[[], None]:
    model = model.to(device).train()
    optimizer = torch.optim.SGD(model.parameters(), 1e-4, momentum=0.9)
    called = torch.compile(model) if way == "compiled" else model
    images, labels = images.to(device), torch.arange(len(images), device=device)
    return partial(_run, called, optimizer, images, labels)


def _run(
    model: Callable[..., torch.Tensor],
    optimizer: torch.optim.Optimizer,
    images: torch.Tensor,
    labels: torch.Tensor,
) -> None:
    optimizer.zero_grad()
    F.cross_entropy(model(images), labels).backward()
    optimizer.step()
    if images.is_cuda:
        torch.cuda.synchronize()


if __name__ == "__main__":
    sys.exit(main())
