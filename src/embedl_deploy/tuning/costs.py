"""What a file costs: by the compiler's layers, or by what a user measures."""

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, SupportsFloat

from embedl_deploy.errors import BuildError
from embedl_deploy.target import Target

Unit = Literal["time", "bytes"]


@dataclass(frozen=True)
class Cost:
    """What a file costs.

    Attributes:
        value: Microseconds or megabytes, or what a user's function gives.
        kernels: That the compiler made of it; None where it was measured, or a function gives it.
        lost: Products that it computes in a wider type than was simulated; likewise.
        layers: A digest of its layers: files of one digest run alike. Empty where not known.
        compiler: That made or measured it, with its version; empty where not known.
    """

    value: float
    kernels: int | None = None
    lost: int | None = None
    layers: str = ""
    compiler: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data."""
        return asdict(self)


CostFunction = Callable[[Path], SupportsFloat]
"""Gives what an ONNX file costs, less is better: a number, or a latency with `measured_by`."""


def cost_of(path: Path, target: Target, gpu: str, unit: Unit, own: CostFunction | None) -> Cost:
    """What a file costs.

    Args:
        path: The file.
        target: Builds it.
        gpu: That it is compiled for.
        unit: `time` is an estimate of microseconds, by a roofline of the kernels; `bytes` are the
            megabytes that the kernels read and write.
        own: Used in place of both.

    Raises:
        BuildError: The compiler does not take the file, or the GPU has no peaks for its types.
    """
    if own is not None:
        found = own(path)
        return Cost(float(found), compiler=getattr(found, "measured_by", ""))
    made = target.build(path, gpu)
    if not made.built:
        raise BuildError(made.summary)
    estimate = made.estimate()
    moved = made.bytes
    if moved is None or (estimate is None and unit == "time"):
        raise BuildError(
            f"there is no estimate for '{gpu}': its peaks are not known; give cost= a function "
            "that measures"
        )
    value = moved / 1e6 if unit == "bytes" else estimate.microseconds
    layers = [(one.kind, one.reads, one.gives, one.bytes, one.macs) for one in made.kernels]
    digest = hashlib.sha256(repr(layers).encode()).hexdigest()[:16]
    return Cost(value, len(made.kernels), len(made.lost), digest, made.compiler)
