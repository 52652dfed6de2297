"""How long an engine may take: an estimate, from what its layers move and multiply."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from embedl_deploy.table import counted
from embedl_deploy.tensorrt.engine.gpus import Gpu
from embedl_deploy.tensorrt.engine.layers import Layer

LAUNCH = 2.0
"""Microseconds that a kernel takes beside its work."""


@dataclass(frozen=True)
class Estimate:
    """An estimate of the time that an engine takes; nothing was run.

    Attributes:
        gpu: Whose peaks were taken.
        microseconds: Of all kernels, one after the other.
        launches: What of that are launches.
        layers: Microseconds by layer.
        uncounted: How many of these multiply, and how often is not known: their bytes alone count.
    """

    gpu: Gpu
    microseconds: float
    launches: float
    layers: dict[str, float]
    uncounted: int = 0

    @property
    def assumptions(self) -> str:
        """What it rests on, in words."""
        left = f"; without the arithmetic of {counted(self.uncounted, 'kernel')}, not known"
        return (
            f"{self.gpu.name} at its published peaks ({self.gpu.source}); each kernel takes its "
            f"arithmetic or its bytes, whichever is longer, and {LAUNCH:g} µs; no cache, one after "
            f"the other; nothing was run{left if self.uncounted else ''}"
        )

    def to_dict(self) -> dict[str, Any]:
        """All of it for JSON."""
        return {
            "gpu": self.gpu.name,
            "estimated_microseconds": self.microseconds,
            "of_these_launches": self.launches,
            "uncounted": self.uncounted,
            "assumptions": self.assumptions,
            "layers": self.layers,
        }


def estimate(layers: Iterable[Layer], gpu: Gpu) -> Estimate | None:
    """The time of all kernels on a GPU; None where a size is open, or a type has no peak."""
    times: dict[str, float] = {}
    uncounted = 0
    for one in layers:
        if not one.is_kernel:
            continue
        if one.bytes is None or (one.macs and one.computes not in gpu.tera):
            return None
        moving = one.bytes / gpu.bandwidth / 1e3
        computing = 2 * one.macs / gpu.tera[one.computes] / 1e6 if one.macs else 0.0
        times[one.name] = max(moving, computing) + LAUNCH
        uncounted += one.macs is None
    return Estimate(gpu, sum(times.values()), LAUNCH * len(times), times, uncounted)
