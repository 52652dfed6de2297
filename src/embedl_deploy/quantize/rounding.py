"""Simulated quantization.

`q = clamp(round(x / scale))` with ties to even and zero-point 0, the formula of
`IQuantizeLayer` (TensorRT) and `QuantizeLinear` (ONNX); the simulation returns `q · scale`.
"""

import torch
from torch import Tensor


def fake_quantize(tensor: Tensor, scale: Tensor, lowest: int, highest: int) -> Tensor:
    """Round `tensor` to multiples of `scale` between `lowest` and `highest` of them.

    The gradient passes straight through the rounding (Bengio et al., 2013) and is zero where
    the value was clamped.

    Args:
        tensor: Any shape.
        scale: Positive; broadcasts against `tensor`.
        lowest: Smallest integer.
        highest: Largest integer.
    """
    steps = in_steps(tensor, scale).clamp(lowest, highest)
    rounded = steps.round()
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
