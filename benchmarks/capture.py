"""What capture by `torch.export` costs: beside `torch.export` itself, and to raise its operations.

Run it on a machine with nothing else to do: python benchmarks/capture.py
"""

import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
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
from _chains import Functional
from torch import fx, nn

from embedl_deploy import transform
from embedl_deploy.cli.models import load_model
from embedl_deploy.graph.canonical import canonicalize
from embedl_deploy.graph.exported import raised
from embedl_deploy.graph.leaves import Leaves

MODELS = ("resnet50", "vit_b_16")
SIZES = (1_000, 10_000)
SECONDS = 5.0
RATIO = 1.3
_EXPORTED = 500
_EXAMPLE = (2, 3, 224, 224)
_ANY_BATCH = ({0: torch.export.Dim.AUTO},)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write; gives 1 where a bar is missed."""
    parser = parser_of(__doc__)
    parser.add_argument("--runs", type=int, default=5, help="runs of each model")
    options = parser.parse_args(arguments)
    seconds = within(30, full=options.full)
    title = "Processor time of transform by export over that of torch.export for any batch size"
    shares = []
    for name in MODELS:
        shares.append(in_fresh_process(share, name, options.runs, seconds))
        show(title, shares[-1:])
    raising = in_fresh_process(raise_chains, SIZES)
    show("Processor time of raising an exported graph", raising)
    return finish([*shares, *raising], options.json)


def share(name: str, runs: int, seconds: float) -> Figure:
    """How much longer `transform` takes than `torch.export` for a batch of any size."""
    say(f"{name} by torch.export and by transform")
    model, example = load_model(f"torchvision:{name}").eval(), torch.zeros(_EXAMPLE)
    ways = {
        "export": lambda: torch.export.export(model, (example,), dynamic_shapes=_ANY_BATCH),
        "fixed": lambda: torch.export.export(model, (example,)),
        "transform": lambda: transform(model, (example,), method="export"),
    }
    taken: dict[str, list[float]] = {way: [] for way in ways}
    for function in ways.values():
        function()
    for _ in rounds(runs, seconds):  # interleaved
        for way, function in ways.items():
            taken[way].append(timed(function).processor)
    medians = {way: median(each) for way, each in taken.items()}
    details = ", ".join(f"{way} {value:.2f} s" for way, value in medians.items())
    return Figure(name, medians["transform"] / medians["export"], "×", RATIO, details=details)


def raise_chains(sizes: Sequence[int]) -> list[Figure]:
    """Seconds of the largest chain, and how much more an operation costs there.

    torch.export takes minutes for 10,000 operations, so a short chain is exported, and its
    operations follow one another as often as it takes.
    """
    each, figures = {}, []
    model = Functional(_EXPORTED).eval()
    for size in sizes:
        say(f"a chain of {size:,} operations")
        program = torch.export.export(model, (torch.zeros(1, 2, 4, 4),))
        _repeat(program.graph, size // _EXPORTED)
        nodes = sum(node.op == "call_function" for node in program.graph.nodes)
        taken = [timed(partial(_raise, model, program)).processor for _ in range(3)]
        each[size] = median(taken) / nodes
        bar = SECONDS if size == max(sizes) else None
        what = f"{nodes:,} operations"
        figures.append(Figure(what, median(taken), "s", bar, details=spread(taken)))
    ratio = each[max(sizes)] / each[min(sizes)]
    return [*figures, Figure("an operation of the largest / of the smallest", ratio, "×", RATIO)]


def _repeat(graph: fx.Graph, times: int) -> None:
    """Let the operations of a graph of one input run on their own result, `times` in all."""
    body = [node for node in graph.nodes if node.op == "call_function"]
    source = next(node for node in graph.nodes if node.name == "x")
    output = graph.output_node()
    (result,) = output.args[0]  # type: ignore[misc] - a flat tuple
    values: dict[fx.Node, Any] = {source: result}
    for _ in range(times - 1):
        with graph.inserting_before(output):
            for node in body:
                values[node] = graph.node_copy(node, lambda one: values.get(one, one))
        values[source] = values[result]
    output.args = ((values[source],),)


def _raise(model: nn.Module, program: Any) -> Any:
    return canonicalize(model, raised(model, program, Leaves()))


if __name__ == "__main__":
    sys.exit(main())
