"""How long `transform` takes, whether that is linear in the size of the graph, and its memory.

Run it on a machine with nothing else to do: python benchmarks/transform.py
"""

import sys
from collections import defaultdict
from collections.abc import Sequence

import torch
from _bars import (
    Figure,
    Taken,
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
from _chains import CHAINS
from torch import nn

from embedl_deploy import capture, transform
from embedl_deploy.cli.models import load_model
from embedl_deploy.cli.torchvision_ops import import_torchvision
from embedl_deploy.tensorrt import TENSORRT_PATTERNS

SECONDS = {"resnet50": 0.5, "convnext_base": 1.5}
SIZES = (1_000, 6_000)
FULL_SIZES = (1_000, 10_000, 100_000)
RATIO = 1.3
MEMORY_MODEL = "convnext_base"
ALLOWANCE = 200.0
MIB = 2**20
_EXAMPLE = (1, 3, 224, 224)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write; gives 1 where a bar is missed."""
    parser = parser_of(__doc__)
    parser.add_argument("--runs", type=int, default=7, help="runs of each model (default: 7)")
    parser.add_argument(
        "--rounds", type=int, default=3, help="runs of each chain, interleaved (default: 3)"
    )
    parser.add_argument(
        "--chains", nargs="+", choices=CHAINS, default=tuple(CHAINS), help="which chains"
    )
    parser.add_argument("--sizes", type=int, nargs="+", help="operators in a chain")
    parser.add_argument("--only", choices=("time", "linearity", "memory"), help="measure only this")
    options = parser.parse_args(arguments)
    sizes = options.sizes or (FULL_SIZES if options.full else SIZES)
    seconds = within(6, full=options.full)
    figures: list[Figure] = []
    if options.only in {None, "time"}:
        figures += times(options.runs, seconds)
    if options.only in {None, "linearity"}:
        figures += linearity(options.chains, sizes, options.rounds, seconds)
    if options.only in {None, "memory"}:
        title = f"Peak memory of transform({MEMORY_MODEL}, (x,)) above that before the model"
        figures += _shown(title, memory())
    return finish(figures, options.json)


def _shown(title: str, figures: list[Figure]) -> list[Figure]:
    show(title, figures)
    return figures


# --- time --------------------------------------------------------------------------------------


def times(runs: int, seconds: float) -> list[Figure]:
    """Medians of every model, warm and cold."""
    found = []
    for name, bar in SECONDS.items():
        say(f"{name}, warm and cold")
        warm = in_fresh_process(warm_runs, name, runs, seconds)
        cold = [in_fresh_process(cold_run, name) for _ in rounds(max(1, runs // 2), seconds)]
        figures = [_time(f"{name}, warm", bar, warm)]
        figures.append(_time(f"{name}, first in its process", bar, cold))
        found += _shown("Seconds of transform(model, (x,))", figures)
    return found


def _time(what: str, bar: float, runs: Sequence[Taken]) -> Figure:
    wall = [run.wall for run in runs]
    processor = median([run.processor for run in runs])
    details = f"{spread(wall)}; processor {processor:.3f} s"
    return Figure(what, median(wall), "s", bar, details=details)


def warm_runs(name: str, runs: int, seconds: float) -> list[Taken]:
    """How long each of several runs takes, after one that does not count."""
    model, example = load_model(f"torchvision:{name}"), torch.zeros(_EXAMPLE)
    transform(model, (example,))
    return [timed(lambda: transform(model, (example,))) for _ in rounds(runs, seconds)]


def cold_run(name: str) -> Taken:
    """How long the first `transform` of this process takes."""
    model, example = load_model(f"torchvision:{name}"), torch.zeros(_EXAMPLE)
    return timed(lambda: transform(model, (example,)))


# --- linearity ---------------------------------------------------------------------------------


def linearity(
    chains: Sequence[str], sizes: Sequence[int], runs: int, seconds: float
) -> list[Figure]:
    """Microseconds per operator by size, and the ratio of the most to the least."""
    title = "Processor time per operator of transform(model, patterns=TENSORRT_PATTERNS)"
    found = []
    for kind in chains:
        found += _shown(title, in_fresh_process(_chain, kind, sizes, runs, seconds))
    return found


def _chain(kind: str, sizes: Sequence[int], runs: int, seconds: float) -> list[Figure]:
    say(f"chain '{kind}' of {', '.join(f'{size:,}' for size in sizes)} operators")
    models = {size: CHAINS[kind](size).eval() for size in sizes}
    nodes = {size: _operators(model) for size, model in models.items()}
    _once(models[min(sizes)])
    taken: dict[int, list[float]] = defaultdict(list)
    for _ in rounds(
        runs, seconds
    ):  # interleaved, so that a slow minute of the machine slows all sizes
        for size, model in models.items():
            for _ in range(_repeats(size, max(sizes))):
                taken[size].append(_once(model) / nodes[size] * 1e6)
    figures = [
        Figure(f"{kind}, {nodes[size]:,} operators", median(each), "µs", details=spread(each))
        for size, each in taken.items()
    ]
    values = [figure.value for figure in figures]
    return [*figures, Figure(f"{kind}, most / least", max(values) / min(values), "×", RATIO)]


def _repeats(size: int, largest: int) -> int:
    """Small chains run more often: one run of them is at the mercy of the machine."""
    return min(5, max(1, largest // size))


def _once(model: nn.Module) -> float:
    """Seconds of the processor: one thread works here, and other programs do not count."""
    return timed(lambda: transform(model, patterns=TENSORRT_PATTERNS)).processor


def _operators(model: nn.Module) -> int:
    return sum(
        node.op not in {"placeholder", "get_attr", "output"}
        for node in capture(model, copy=False).graph.nodes
    )


# --- memory ------------------------------------------------------------------------------------


def memory() -> list[Figure]:
    """Peak memory with a copy of the model's tensors and without."""
    found = []
    for copy, times_model in ((True, 2), (False, 1)):
        say(f"peak memory of {MEMORY_MODEL}, copy={copy}")
        peak, size = in_fresh_process(peak_memory, MEMORY_MODEL, copy)
        details = f"model {size:.0f} MiB; bar: {times_model} × model + {ALLOWANCE:.0f}"
        bar = times_model * size + ALLOWANCE
        found.append(Figure(f"copy={copy}", peak, "MiB", bar, details=details))
    return found


def peak_memory(name: str, copy: bool) -> tuple[float, float]:  # noqa: FBT001
    """MiB that building and transforming a model adds at its peak, and MiB of its tensors."""
    import_torchvision()
    before = resident("VmRSS")
    model = load_model(f"torchvision:{name}")
    result = transform(model, (torch.zeros(_EXAMPLE),), copy=copy)
    peak = resident("VmHWM")
    assert result.matches
    tensors = (*model.parameters(), *model.buffers())
    return peak - before, sum(tensor.nbytes for tensor in tensors) / MIB


if __name__ == "__main__":
    sys.exit(main())
