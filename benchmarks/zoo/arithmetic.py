"""Multiply-accumulates of each node of a graph, as torch counts them while it runs.

The library counts from shapes; this counts independently of it.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.zoo.entry import Inputs
from embedl_deploy import Result
from embedl_deploy.graph.interpreter import Interpreter
from embedl_deploy.graph.paths import node_path
from embedl_deploy.modules import FusedModule

_OF_TWO_VALUES = ("bmm", "baddbmm")
"""Products in which no factor is a weight; those of a weight are `mm` and `addmm`."""


@dataclass(frozen=True)
class Rest:
    """Arithmetic that is in no fused module.

    Attributes:
        path: Of the module, or the name of the node.
        kind: Class of the module, or name of the function.
        share: Of all the arithmetic of the model.
        reason: Why no pattern took it.
    """

    path: str
    kind: str
    share: float
    reason: str


@dataclass(frozen=True)
class Arithmetic:
    """What a transformed model multiplies.

    Attributes:
        total: Multiply-accumulates.
        share: How much of that is in fused modules.
        attends: Whether values are multiplied with each other, and not with weights alone.
        rest: What is in none, the largest first.
    """

    total: int
    share: float
    attends: bool
    rest: tuple[Rest, ...]


def arithmetic(result: Result, inputs: Inputs) -> Arithmetic:
    """Run the graph and count."""
    counts = _Counting(result.model)
    recurrent = any(isinstance(one, nn.RNNBase) for one in result.model.modules())
    # The LSTM of oneDNN is one kernel that torch does not count.
    plain = torch.backends.mkldnn.flags(enabled=False) if recurrent else nullcontext()
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), plain, counts.counter:
        counts.run(*_positional(result.model, inputs))
    found = {node: count for node, count in counts.nodes.items() if count}
    total = sum(found.values())
    fused = {node for node in found if isinstance(_module(result.model, node), FusedModule)}
    left = sorted((node for node in found if node not in fused), key=lambda one: -found[one])
    ops = counts.counter.get_flop_counts().get("Global", {})
    names = {str(getattr(op, "__name__", op)).partition(".")[0] for op in ops}
    return Arithmetic(
        total=total,
        share=sum(found[node] for node in fused) / total if total else 1.0,
        attends=not names.isdisjoint(_OF_TWO_VALUES),
        rest=tuple(_rest(result, node, found[node] / total) for node in left),
    )


def _positional(graph: fx.GraphModule, inputs: Inputs) -> Iterator[Any]:
    """Inputs in the order of the graph's own; an interpreter takes no names."""
    args, kwargs = inputs
    given = iter(args)
    for node in graph.graph.nodes:
        if node.op == "placeholder":
            yield kwargs[str(node.target)] if node.target in kwargs else next(given, *node.args)


class _Counting(Interpreter):
    def __init__(self, graph: fx.GraphModule) -> None:
        super().__init__(graph)
        self.counter = FlopCounterMode(display=False)
        self.nodes: Counter[fx.Node] = Counter()

    def run_node(self, n: fx.Node) -> Any:
        before = self.counter.get_total_flops()
        value = super().run_node(n)
        self.nodes[n] = (self.counter.get_total_flops() - before) // 2
        return value


def _module(graph: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    return graph.get_submodule(str(node.target)) if node.op == "call_module" else None


def _rest(result: Result, node: fx.Node, share: float) -> Rest:
    module = _module(result.model, node)
    kind = (
        getattr(node.target, "__name__", node.target) if module is None else type(module).__name__
    )
    told = (*result.unfused, *(result.coverage.rest if result.coverage else ()))
    reasons = {one.path: one.reason for one in told}
    path = node_path(node)
    return Rest(path, str(kind), share, reasons.get(path, "the library gives no reason"))
