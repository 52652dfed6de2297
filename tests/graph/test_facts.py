"""What a graph says of its shapes without example inputs is true of every run."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import fx, nn

from embedl_deploy import capture
from embedl_deploy.graph.facts import Facts
from embedl_deploy.graph.shapes import targets
from tests.helpers import net

U = None
FACTS: list[tuple[Callable[..., Any], tuple[int | None, ...] | None]] = [
    (lambda m, x: m.conv(x), (U, 4, U, U)),
    (lambda m, x: m.norm(m.conv(x)), (U, 4, U, U)),
    (lambda m, x: m.norm(x), (U, 4, U, U)),
    (lambda m, x: m.up(x), (U, 6, U, U)),
    (lambda m, x: m.pool(m.conv(x)), (U, 4, 1, 1)),
    (lambda m, x: m.pool(x), (U, U, 1, 1)),
    (lambda m, x: F.adaptive_avg_pool2d(m.conv(x), (U, 3)), (U, 4, U, 3)),
    (lambda m, x: F.adaptive_max_pool2d(m.conv(x), 1), (U, 4, 1, 1)),
    (lambda m, x: F.max_pool2d(m.conv(x), 2), (U, 4, U, U)),
    (lambda m, x: F.gelu(m.pool(m.conv(x))), (U, 4, 1, 1)),
    (lambda m, x: F.relu6(F.dropout(m.pool(m.conv(x)), training=m.training)), (U, 4, 1, 1)),
    (lambda m, x: m.pool(m.conv(x)) + 1, (U, 4, 1, 1)),
    (lambda m, x: m.pool(m.conv(x)) * 2.0 / 3, (U, 4, 1, 1)),
    (lambda m, x: 1 - m.pool(m.conv(x)), U),
    (lambda m, x: m.pool(m.conv(x)) + x.mean((1, 2, 3), True), U),
    (lambda m, x: m.conv(x).permute(0, 2, 3, 1), (U, U, U, 4)),
    (lambda m, x: m.pool(m.conv(x)).permute(0, -1, -2, 1), (U, 1, 1, 4)),
    (lambda m, x: m.head(m.pool(m.conv(x)).permute(0, 2, 3, 1)), (U, 1, 1, 5)),
    (lambda m, x: m.head(x), U),
    (lambda m, x: m.conv(x).flatten(1), U),
    (lambda _, x: x, U),
    (lambda m, x: m.pool(m.conv(x))[:, :2], U),
]


@pytest.mark.parametrize(("forward", "expected"), FACTS)
def test_a_fact_is_what_the_graph_says(
    forward: Callable[..., Any], expected: tuple[int | None, ...] | None
) -> None:
    parts = {
        "conv": nn.Conv2d(4, 4, 3, padding=1),
        "norm": nn.BatchNorm2d(4),
        "up": nn.ConvTranspose2d(4, 6, 2),
        "pool": nn.AdaptiveAvgPool2d(1),
        "head": nn.Linear(4, 5),
    }
    graph = capture(net(forward, **parts).eval())
    facts = Facts(targets(graph))
    (output,) = graph.graph.find_nodes(op="output")
    assert facts.of(output.args[0]) == expected
    held: dict[fx.Node, tuple[int, ...]] = {}

    class Run(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            value = super().run_node(n)
            held[n] = tuple(getattr(value, "shape", ()))
            return value

    Run(graph).run(torch.randn(2, 4, 4, 4))
    for node, shape in held.items():
        if node.op == "output" or (fact := facts.of(node)) is None:
            continue
        assert len(fact) == len(shape)
        assert all(size in {None, real} for size, real in zip(fact, shape, strict=True)), node


def test_a_deep_graph_needs_no_deep_stack() -> None:
    layers = [nn.Conv2d(4, 4, 1), *(nn.ReLU() for _ in range(5000))]
    graph = capture(nn.Sequential(*layers))
    (output,) = graph.graph.find_nodes(op="output")
    assert Facts(targets(graph)).of(output.args[0]) == (None, 4, None, None)
