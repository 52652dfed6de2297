"""How much of a model's arithmetic ended in fused modules."""

import math
import operator
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from embedl_deploy.graph.shapes import shape
from embedl_deploy.modules import MHAInProjection, ScaledDotProductAttention

_PRODUCTS = frozenset({operator.matmul, torch.matmul, torch.bmm})


@dataclass(frozen=True)
class Coverage:
    """Multiply-accumulates of a model, from the shapes of its example inputs.

    Attributes:
        total: Of convolutions, linear layers, attention and matrix products.
        fused: Of those in fused modules.
    """

    total: int
    fused: int

    @property
    def share(self) -> float:
        """The fused share, between 0 and 1; 1 for a model that multiplies nothing."""
        return self.fused / self.total if self.total else 1.0

    def __str__(self) -> str:
        return f"{self.share:.1%} of {self.total / 1e9:.3g} G multiply-accumulates are fused"


def coverage(
    nodes: Iterable[fx.Node], fused: Iterable[fx.Node], objects: Mapping[str, Any]
) -> Coverage | None:
    """The coverage of a graph before its matches are applied; `None` where shapes are not known.

    Args:
        nodes: All nodes.
        fused: Those in a fusion.
        objects: The modules that the nodes' targets name.
    """
    inside = set(fused)
    total = covered = 0
    for node in nodes:
        count = multiply_accumulates(node, objects.get(str(node.target)))
        if count is None:
            return None
        total += count
        covered += count if node in inside else 0
    return Coverage(total, covered)


def multiply_accumulates(node: fx.Node, module: object) -> int | None:
    """How many a node takes; `None` where the shapes it follows from are not known."""
    counted = node.target in _PRODUCTS or isinstance(module, _COUNTED)
    if not counted or node.op == "get_attr":
        return 0
    inputs = [shape(one) for one in node.args if isinstance(one, fx.Node)]
    result = () if isinstance(module, MHAInProjection) else shape(node)
    if None in inputs or result is None:
        return None
    return _count(module, [one for one in inputs if one is not None], result)


_COUNTED = (
    nn.modules.conv._ConvNd,  # noqa: SLF001 - the base of all convolutions
    nn.Linear,
    MHAInProjection,
    ScaledDotProductAttention,
)


def _count(module: object, inputs: list[tuple[int, ...]], result: tuple[int, ...]) -> int:
    match module:
        case nn.modules.conv._ConvTransposeNd():  # noqa: SLF001 - as above
            return math.prod(inputs[0]) * module.weight[0].numel()
        case nn.modules.conv._ConvNd():  # noqa: SLF001 - as above
            return math.prod(result) * module.weight[0].numel()
        case nn.Linear():
            return math.prod(result) * module.in_features
        case MHAInProjection():
            return sum(math.prod(one) * _features(module) for one in inputs)
        case ScaledDotProductAttention():
            query, key, value = inputs[:3]
            return math.prod(query) * key[-2] + math.prod(query[:-1]) * key[-2] * value[-1]
    return math.prod(result) * inputs[0][-1]


def _features(module: MHAInProjection) -> int:
    """Output features of one projection."""
    if module.in_proj_weight is not None:
        return module.in_proj_weight.shape[0] // 3
    assert module.q_proj_weight is not None  # noqa: S101 - one or the other
    return module.q_proj_weight.shape[0]
