"""Simulated quantization.

`q = clamp(round(x / scale))` with ties to even and zero-point 0, the formula of
`IQuantizeLayer` (TensorRT) and `QuantizeLinear` (ONNX); the simulation returns `q · scale`.
"""

from dataclasses import dataclass
from typing import Any

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

    @property
    def symmetric(self) -> "Grid":
        """Those of them whose negatives are there too."""
        return Grid(-self.highest, self.highest, self.float8)

    @property
    def dtype(self) -> torch.dtype:
        """What they are stored as."""
        if self.float8:
            return _FLOAT8
        return torch.int8 if self.lowest < 0 else torch.uint8

    def spacing(self, numbers: Tensor) -> Tensor:
        """How far the next larger one is from numbers that are not negative."""
        if not self.float8:
            return torch.ones_like(numbers)
        return numbers.clamp(min=2.0**-6).log2().floor().sub(3).exp2()

    def round(self, steps: Tensor) -> Tensor:
        """The nearest of them, ties to even, for steps in the range."""
        return steps.to(_FLOAT8).to(steps.dtype) if self.float8 else steps.round()


INT8 = Grid(-128, 127)
FLOAT8 = Grid(-448, 448, float8=True)


def fake_quantize(tensor: Tensor, scale: Tensor, grid: Grid, *, sharing: int = 1) -> Tensor:
    """The nearest multiples of `scale` that are on a grid, in the type of the tensor.

    The gradient of the tensor passes straight through the rounding (Bengio et al., 2013) and is
    zero where the value was clamped. That of the scale is the learned step size's (Esser et al.,
    2020): rounded less exact steps inside the range, the limit outside; its sum is divided by
    `sqrt(sharing · highest)`.

    Args:
        tensor: Any shape.
        scale: Positive; broadcasts against `tensor`.
        grid: Which multiples there are.
        sharing: How many values share a scale, for the gradient of a scale that is learned.
    """
    if not torch.is_grad_enabled():
        return _multiples(_clamp_(in_steps(tensor, scale), grid), scale, grid, tensor.dtype)
    return _FakeQuantize.apply(tensor, scale, grid, sharing)  # type: ignore[no-untyped-call]


class _FakeQuantize(torch.autograd.Function):
    """Keeps a byte a value for the backward pass, or the tensor where the scale is learned."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, scale: Tensor, grid: Grid, sharing: int) -> Tensor:
        ctx.grid, ctx.sharing = grid, sharing
        steps = in_steps(tensor, scale)
        if ctx.needs_input_grad[1]:
            ctx.save_for_backward(tensor, scale)
            clamped = _clamp_(steps, grid)
        else:
            clamped = _clamped(steps, grid)
            ctx.save_for_backward(clamped == steps)
        return _multiples(clamped, scale, grid, tensor.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        saved, grid = ctx.saved_tensors, ctx.grid  # once: checkpointing gives them out once
        if len(saved) == 1:
            return torch.where(saved[0], gradient, 0.0), None, None, None
        tensor, scale = saved
        steps = in_steps(tensor, scale)
        clamped = _clamped(steps, grid)
        inside = clamped == steps
        errors = grid.round(clamped).sub_(torch.where(inside, clamped, 0.0))
        summed = errors.mul_(gradient).sum_to_size(scale.shape)
        factor = (ctx.sharing * grid.highest) ** -0.5
        return torch.where(inside, gradient, 0.0), summed.to(scale.dtype) * factor, None, None


def _clamped(steps: Tensor, grid: Grid) -> Tensor:
    """Steps in the range, to which one belongs that is beyond it by rounding alone."""
    return steps.clamp(*_limits(grid))


def _clamp_(steps: Tensor, grid: Grid) -> Tensor:
    """The same in place."""
    return steps.clamp_(*_limits(grid))


def _limits(grid: Grid) -> tuple[float, float]:
    # How far `largest / (largest / highest)` may be from `highest`, in float32; it rounds to it. No
    # global: `torch.compile(dynamic=True)` takes one for a number that may vary.
    beyond = 1 + 2.0**-22
    return grid.lowest * beyond, grid.highest * beyond


def _multiples(clamped: Tensor, scale: Tensor, grid: Grid, dtype: torch.dtype) -> Tensor:
    """Clamped steps as multiples of the scale in a type; overwrites them.

    Compiled, the last operation gives a tensor of its own: where it gives back what it was given
    (`mul_()`, `to()` the same type), torch 2.11 loses the gradient of a function of autograd.
    """
    rounded = grid.round(clamped) if grid.float8 else clamped.round_()
    multiples = rounded * scale if torch.compiler.is_compiling() else rounded.mul_(scale)
    return multiples if multiples.dtype == dtype else multiples.to(dtype)


def in_steps(tensor: Tensor, scale: Tensor) -> Tensor:
    """`tensor / scale`, at least in float32: a quotient in half precision rounds twice."""
    return tensor.to(torch.promote_types(tensor.dtype, scale.dtype)) / scale


def scale_of(largest: Tensor, highest: int) -> Tensor:
    """The scale whose `highest` multiple is `largest`; 1 where `largest` is 0."""
    scale = (largest / highest).clamp(min=torch.finfo(largest.dtype).tiny)
    return torch.where(largest > 0, scale, 1.0)


def per_channel(values: Tensor, weight: Tensor, axis: int) -> Tensor:
    """One value for each index of a weight's dimension, shaped to broadcast against it.

    Values of two dimensions have one for each block of a row as well.
    """
    if values.dim() > 1:
        return values.repeat_interleave(weight.shape[-1] // values.shape[-1], -1)
    sizes = [1] * weight.dim()
    sizes[axis] = -1
    return values.view(sizes)
