"""How much of a model's arithmetic ended in fused modules."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import fx

from embedl_deploy.modules import FusedModule
from embedl_deploy.rewrite.arithmetic import multiply_accumulates
from embedl_deploy.table import amount, percent


@dataclass(frozen=True)
class Unfused:
    """An operation with parameters or multiply-accumulates that no fusion took.

    Attributes:
        path: Its module path; of a function, its name within the module that calls it.
        kind: Name of its class or function.
        reason: Why no pattern took it.
        macs: Its multiply-accumulates; `None` where shapes are not known.
        weighted: Whether it has parameters of its own.
    """

    path: str
    kind: str
    reason: str
    macs: int | None = None
    weighted: bool = True


@dataclass(frozen=True)
class Coverage:
    """Multiply-accumulates of a model, from the shapes of its example inputs.

    Attributes:
        total: Of convolutions, linear and recurrent layers, attention and products of matrices.
        fused: Of those in fused modules.
        rest: The operations that have the others, the largest first, with reasons.
    """

    total: int
    fused: int
    rest: tuple[Unfused, ...] = ()

    @property
    def share(self) -> float:
        """The fused share, between 0 and 1; 1 for a model that multiplies nothing."""
        return self.fused / self.total if self.total else 1.0

    def __str__(self) -> str:
        return f"{percent(self.share)} of {amount(self.total)} multiply-accumulates are fused"


def coverage(
    nodes: Iterable[fx.Node],
    fused: Iterable[fx.Node],
    objects: Mapping[str, Any],
    left: Sequence[Unfused] = (),
) -> Coverage | None:
    """The coverage of a graph before its matches are applied; `None` where shapes are not known.

    Args:
        nodes: All nodes.
        fused: Those in a fusion.
        objects: The modules that the nodes' targets name.
        left: What no fusion took.
    """
    inside = set(fused)
    total = covered = 0
    for node in nodes:
        module = objects.get(str(node.target)) if node.op == "call_module" else None
        count = multiply_accumulates(node, module)
        if count is None:
            return None
        total += count
        covered += count if node in inside or isinstance(module, FusedModule) else 0
    return Coverage(total, covered, tuple(one for one in left if one.macs))
