"""How fast calibration is beside the plain forward of the model, and whether memory grows.

Run it on a machine with nothing else to do: python benchmarks/calibration.py
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from _bars import (
    Figure,
    finish,
    in_fresh_process,
    median,
    parser_of,
    resident,
    rounds,
    say,
    show,
    spread,
    timed,
    within,
)
from torch import Tensor, fx

from embedl_deploy import transform
from embedl_deploy.cli.models import load_model
from embedl_deploy.quantize import (
    EntropyObserver,
    MinMaxObserver,
    MovingAverageObserver,
    MSEObserver,
    Observer,
    PercentileObserver,
    QuantConfig,
    QuantStub,
    TensorQuantConfig,
    calibrate,
    insert_qdq,
)

MODELS = ("resnet50", "mobilenet_v2", "vit_b_16")
OBSERVERS: dict[str, Callable[[], Observer]] = {
    "min-max": MinMaxObserver,
    "moving average": MovingAverageObserver,
    "percentile": partial(PercentileObserver, 99.99),
    "entropy": EntropyObserver,
    "mse": MSEObserver,
}
THROUGHPUT = {
    "min-max": 0.8,
    "moving average": 0.8,
    "percentile": 0.5,
    "entropy": 0.5,
    "mse": 0.5,
}
MEMORY_MODEL = "mobilenet_v2"
_SHAPE = (3, 224, 224)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write; gives 1 where a bar is missed."""
    parser = parser_of(__doc__)
    parser.add_argument("--models", nargs="+", default=MODELS, help="models of torchvision")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each (default: 5)")
    parser.add_argument("--batches", type=int, default=2, help="batches in a run (default: 2)")
    parser.add_argument("--batch-size", type=int, default=4)
    options = parser.parse_args(arguments)
    figures: list[Figure] = []
    sizes = (options.rounds, options.batches, options.batch_size)
    for name in options.models:
        say(f"{name}, calibration beside the plain forward")
        found = in_fresh_process(throughput, name, *sizes, within(10, full=options.full))
        show("Throughput of calibration, plain forward of the fused model = 1", found)
        figures += found
    grown = []
    batches = 30 if options.full else 12
    for observer in OBSERVERS:
        say(f"{MEMORY_MODEL}, memory with {observer}")
        grown.append(in_fresh_process(growth, observer, batches, options.batch_size))
    show(f"Memory that {MEMORY_MODEL} gathers while it is calibrated", grown)
    return finish([*figures, *grown], options.json)


def throughput(name: str, most: int, batches: int, batch_size: int, seconds: float) -> list[Figure]:
    """How many samples a second, over those of the plain forward, by observer."""
    fused, data = _fused(name), list(_data(batches, batch_size))
    models = {observer: _with_stubs(fused, observer) for observer in OBSERVERS}
    _forward(fused, data[:1])
    for model in models.values():
        calibrate(model, data[:1])
    plain: list[float] = []
    taken: dict[str, list[float]] = {observer: [] for observer in OBSERVERS}
    for _ in rounds(most, seconds):  # interleaved, so that a slow minute of the machine slows all
        plain.append(timed(lambda: _forward(fused, data)).wall)
        for observer, model in models.items():
            taken[observer].append(timed(partial(calibrate, model, data)).wall)
    figures = []
    for observer, runs in taken.items():
        shares = [one / other for one, other in zip(plain, runs, strict=True)]
        rate = batches * batch_size / median(runs)
        details = f"{rate:.1f} samples/s, {spread(shares)}"
        bar = THROUGHPUT[observer]
        figures.append(
            Figure(f"{name}, {observer}", median(shares), "×", bar, "higher", details=details)
        )
    return figures


def growth(observer: str, batches: int, batch_size: int) -> Figure:
    """MiB by which the process grows from a third of the batches to the last."""
    model = _with_stubs(_fused(MEMORY_MODEL), observer)
    seen: list[float] = []
    data = _data(batches, batch_size)
    calibrate(model, data, progress=lambda *_: seen.append(resident("VmRSS")))
    first = batches // 3
    grown = max(seen[first:]) - max(seen[:first])
    bar = _observed_mib(model) * batch_size
    details = f"over {batches - first} batches; bar: what the stubs see of one batch"
    return Figure(f"{observer}, growth", max(0.0, grown), "MiB", bar, details=details)


def _observed_mib(model: fx.GraphModule) -> float:
    """MiB of the activations that reach stubs, for one sample: what an observer might keep."""
    stubs = {path for path, module in model.named_modules() if isinstance(module, QuantStub)}
    nodes = [node for node in model.graph.nodes if node.target in stubs]
    assert len(nodes) == len(stubs)
    return sum(node.meta["val"].nbytes for node in nodes) / 2**20


def _fused(name: str) -> fx.GraphModule:
    return transform(load_model(f"torchvision:{name}"), (torch.zeros(1, *_SHAPE),)).model


def _with_stubs(fused: fx.GraphModule, observer: str) -> fx.GraphModule:
    return insert_qdq(fused, QuantConfig(TensorQuantConfig(observer=OBSERVERS[observer])))


def _data(batches: int, batch_size: int) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(0)
    for _ in range(batches):
        yield torch.randn(batch_size, *_SHAPE, generator=generator)


def _forward(model: fx.GraphModule, data: Sequence[Tensor]) -> None:
    with torch.no_grad():
        for batch in data:
            model(batch)


if __name__ == "__main__":
    sys.exit(main())
