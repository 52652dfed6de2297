"""Is everything right on a GPU, and fast enough? One table with bars, in eight minutes.

Needs torch, torchvision, onnx, onnxscript and onnxruntime. Run it on a machine with nothing else to
do: python benchmarks/gpu.py. With `--device cpu --size 64 --batch 2` it checks itself.
"""

import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from _bars import Figure, finish, median, parser_of, rounds, say, show, spread
from torch import Tensor, fx, nn

from embedl_deploy import transform
from embedl_deploy.cli.torchvision_ops import import_torchvision
from embedl_deploy.export import export_onnx, verify_onnx
from embedl_deploy.quantize import (
    EntropyObserver,
    MinMaxObserver,
    MSEObserver,
    Observer,
    PercentileObserver,
    QuantConfig,
    TensorQuantConfig,
    calibrate,
    insert_qdq,
    quantize,
)
from embedl_deploy.quantize.config import Scale

MODELS = ("resnet50", "vit_b_16", "swin_t", "convnext_tiny")
OBSERVERS: dict[str, tuple[Callable[[], Observer], float]] = {
    "min-max": (MinMaxObserver, 0.8),
    "percentile": (PercentileObserver, 0.5),
    "entropy": (EntropyObserver, 0.5),
    "mse": (MSEObserver, 0.5),
}
"""With the bar: throughput beside the plain forward."""

SCALES: tuple[Scale, ...] = ("observed", "learned")
EAGER, COMPILED, MEMORY, COMPILING = 1.6, 1.3, 1.3, 1.5
STAGES = ("correct", "calibration", "training", "compiled")
_SECONDS = 480.0


class Bench:
    """One model on one device.

    Args:
        name: Of torchvision.
        device: Where to measure.
        options: How many images (`batch`) of which `size` in pixels, and how many `rounds`.
        end: The time after which no measurement begins, by `time.monotonic`.
    """

    def __init__(self, name: str, device: torch.device, options: Namespace, end: float) -> None:
        import_torchvision()
        import torchvision

        torch.manual_seed(0)
        batch, size, self.most = options.batch, options.size, options.rounds
        sized = {"image_size": size} if name.startswith("vit") else {}
        self.name, self.device, self.batch, self.end = name, device, batch, end
        self.source: nn.Module = getattr(torchvision.models, name)(**sized).eval()
        generator = torch.Generator().manual_seed(0)
        self.images = torch.randn(batch, 3, size, size, generator=generator)
        self.there = self.images.to(device)
        self.fused = transform(deepcopy(self.source).to(device), (self.there[:1],)).model

    # --- right ---------------------------------------------------------------------------------

    def correct(self) -> list[Figure]:
        """Each stage beside the same stage on the CPU; what counts are differences."""
        here = transform(self.source, (self.images[:1],)).model
        with torch.no_grad():
            away = self.fused(self.there[:4]).cpu(), here(self.images[:4])
        figures = [self._figure("forward, off by", _apart(*away), 1e-3, "of the largest")]
        some, config = self.images[:4], QuantConfig(attention="full")
        got = quantize(self.fused, [some.to(self.device)], config)
        want = quantize(here, [some], config)
        scales = [_apart(a.cpu(), b) for a, b in zip(_scales(got), _scales(want), strict=True)]
        figures.append(self._figure("scales, off by", max(scales), 1e-3, "of the largest"))
        with tempfile.TemporaryDirectory() as folder:
            file = export_onnx(got, self.there[:1], Path(folder) / "there.onnx")
            twin = export_onnx(deepcopy(got).cpu(), self.images[:1], Path(folder) / "here.onnx")
            other = float(file.read_bytes() != twin.read_bytes())
            figures.append(self._figure("file, bytes differ", other, 0, "(0 is no)"))
            parity = verify_onnx(file, got, [self.there[:1]])
        figures.append(self._figure("file, not as simulated", float(not parity.only_ties), 0, ""))
        return figures

    # --- fast ----------------------------------------------------------------------------------

    def calibration(self) -> list[Figure]:
        """Images a second while calibrating, over those of the plain forward."""
        data = [self.there] * 4
        models = {
            name: insert_qdq(self.fused, QuantConfig(TensorQuantConfig(observer=observer)))
            for name, (observer, _) in OBSERVERS.items()
        }
        calls: dict[str, Callable[[], object]] = {"plain": partial(_forward, self.fused, data)}
        calls |= {name: partial(calibrate, model, data) for name, model in models.items()}
        taken = self._times(calls)
        figures = []
        for name, (_, bar) in OBSERVERS.items():
            shares = [one / other for one, other in zip(taken["plain"], taken[name], strict=True)]
            what = f"{self.name}, calibration, {name}"
            details = f"{spread(shares)}; plain {median(taken['plain']):.3g} s"
            figures.append(Figure(what, median(shares), "×", bar, "higher", details))
        return figures

    def training(self) -> list[Figure]:
        """The time and the memory of a training step, over those of the source model's."""
        steps = self._steps(lambda model: model)
        taken = self._times(steps)
        memory = {name: self._peak(step) for name, step in steps.items()}
        figures = self._shares("training step, eager", taken, EAGER)
        if memory["source"]:
            shares = {name: [peak / memory["source"]] for name, peak in memory.items()}
            figures += self._shares("training memory", {**shares, "source": [1.0]}, MEMORY)
        return figures

    def compiled(self) -> list[Figure]:
        """The same compiled, and how long compiling takes beside compiling the source model."""
        steps = self._steps(partial(torch.compile, fullgraph=True))
        taken = {name: [self._time(step)] for name, step in steps.items()}
        figures = self._shares("compiling", taken, COMPILING)
        return figures + self._shares("training step, compiled", self._times(steps), COMPILED)

    def _steps(self, called: Callable[..., Callable[..., Tensor]]) -> dict[str, Callable[[], None]]:
        models: dict[str, nn.Module] = {"source": deepcopy(self.source).to(self.device)}
        for scale in SCALES:
            one = TensorQuantConfig(scale=scale)
            models[scale] = quantize(self.fused, [self.there], QuantConfig(one, one))
        labels = torch.arange(self.batch, device=self.device)
        return {
            name: _Step(model.train(), called(model), self.there, labels)
            for name, model in models.items()
        }

    def _shares(self, what: str, taken: dict[str, list[float]], bar: float) -> list[Figure]:
        return [
            Figure(
                f"{self.name}, {what}, {scale}",
                median([a / b for a, b in zip(taken[scale], taken["source"], strict=True)]),
                "×",
                bar,
                details=f"source {median(taken['source']):.3g} s" if "memory" not in what else "",
            )
            for scale in SCALES
        ]

    def _times(self, calls: Mapping[str, Callable[[], object]]) -> dict[str, list[float]]:
        """Interleaved, so that a slow minute of the machine slows all."""
        for call in calls.values():
            call()
        taken: dict[str, list[float]] = {name: [] for name in calls}
        for _ in rounds(self.most, min(15.0, self.end - time.monotonic())):
            for name, call in calls.items():
                taken[name].append(self._time(call))
        return taken

    def _time(self, call: Callable[[], object]) -> float:
        self._wait()
        before = time.perf_counter()
        call()
        self._wait()
        return time.perf_counter() - before

    def _peak(self, call: Callable[[], object]) -> float:
        """Bytes that a call takes beyond what is there before it; 0 where that is not known."""
        if self.device.type != "cuda":
            return 0.0
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(self.device)
        before = torch.cuda.memory_allocated(self.device)
        call()
        self._wait()
        return float(torch.cuda.max_memory_allocated(self.device) - before)

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _figure(self, what: str, value: float, bar: float, unit: str) -> Figure:
        return Figure(f"{self.name}, {what}", value, unit, bar)


class _Step:
    """Forward, backward and the optimizer's step."""

    def __init__(
        self, model: nn.Module, called: Callable[..., Tensor], images: Tensor, labels: Tensor
    ) -> None:
        self.called, self.images, self.labels = called, images, labels
        self.optimizer = torch.optim.SGD(model.parameters(), 1e-4, momentum=0.9)

    def __call__(self) -> None:
        self.optimizer.zero_grad()
        F.cross_entropy(self.called(self.images), self.labels).backward()
        self.optimizer.step()


def _forward(model: fx.GraphModule, data: Sequence[Tensor]) -> None:
    with torch.no_grad():
        for batch in data:
            model(batch)


def _scales(model: nn.Module) -> list[Tensor]:
    return [one for name, one in model.state_dict().items() if name.endswith("scale")]


def _apart(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max() / other.abs().max())


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write; gives 1 where a bar is missed."""
    parser = parser_of(__doc__)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=[*MODELS])
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=[*STAGES])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=5, help="runs of each (default: 5)")
    options = parser.parse_args(arguments)
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("skipped: this machine has no GPU that torch sees")
        return 0
    end = time.monotonic() + (float("inf") if options.full else _SECONDS)
    figures: list[Figure] = []
    for stage in options.stages:  # the first stage of every model first, should time run out
        for name in options.models:
            left = end - time.monotonic()
            say(f"{name}, {stage}" if left > 0 else f"{name}, {stage}: left out, no time is left")
            # TF32 has ten bits: right is judged in float32, speed in what users train with
            tf32 = stage != "correct"
            torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = tf32
            if left > 0:
                bench = Bench(name, device, options, end)
                figures += getattr(bench, stage)()
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else options.device
    show(f"On {where}, torch {torch.__version__}, batch {options.batch}, {options.size}²", figures)
    return finish(figures, options.json)


if __name__ == "__main__":
    sys.exit(main())
