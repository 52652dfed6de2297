"""Simulated quantization.

`q = clamp(round(x / scale))` with ties to even and zero-point 0, the formula of
`IQuantizeLayer` (TensorRT) and `QuantizeLinear` (ONNX); the simulation returns `q · scale`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

_FLOAT8 = torch.float8_e4m3fn


@dataclass(frozen=True)
class Grid:
    """The numbers that are multiplied by a scale: integers, or FP8 (E4M3).

    Attributes:
        lowest: Smallest of them.
        highest: Largest of them.
        float8: Whether they are FP8 numbers, which are finer near zero.
    """

    lowest: int
    highest: int
    float8: bool = False

    def round(self, steps: Tensor) -> Tensor:
        """The nearest of them, ties to even, for steps in the range."""
        return steps.to(_FLOAT8).to(steps.dtype) if self.float8 else steps.round()


INT8 = Grid(-128, 127)
FLOAT8 = Grid(-448, 448, float8=True)


def fake_quantize(
    tensor: Tensor,
    scale: Tensor,
    lowest: int,
    highest: int,
    rounding: Callable[[Tensor], Tensor] = torch.round,
) -> Tensor:
    """Round `tensor` to multiples of `scale` between `lowest` and `highest` of them.

    The gradient passes straight through the rounding (Bengio et al., 2013) and is zero where
    the value was clamped.

    Args:
        tensor: Any shape.
        scale: Positive; broadcasts against `tensor`.
        lowest: Smallest multiple.
        highest: Largest multiple.
        rounding: Which multiples there are in between; the integers, or a `Grid`'s.
    """
    steps = in_steps(tensor, scale).clamp(lowest, highest)
    rounded = rounding(steps)
    if torch.is_grad_enabled():
        rounded = steps + (rounded - steps).detach()
    return (rounded * scale).to(tensor.dtype)


def in_steps(tensor: Tensor, scale: Tensor) -> Tensor:
    """`tensor / scale`, at least in float32: a quotient in half precision rounds twice."""
    return tensor.to(torch.promote_types(tensor.dtype, scale.dtype)) / scale


def scale_of(largest: Tensor, highest: int) -> Tensor:
    """The scale whose `highest` multiple is `largest`; 1 where `largest` is 0."""
    scale = (largest / highest).clamp(min=torch.finfo(largest.dtype).tiny)
    return torch.where(largest > 0, scale, torch.ones_like(scale))


def per_channel(values: Tensor, weight: Tensor, axis: int) -> Tensor:
    """One value for each index of a weight's dimension, shaped to broadcast against it."""
    sizes = [1] * weight.dim()
    sizes[axis] = -1
    return values.view(sizes)
