"""Which of the two nearest integers each weight takes: learned by gradient descent.

Nagel et al., "Up or Down? Adaptive Rounding for Post-Training Quantization", 2020 (arXiv
2004.10568). A weight is `scale · (floor(w/scale) + h(v))` with the rectified sigmoid
`h(v) = clip(1.2·σ(v) − 0.1, 0, 1)`. What is minimized is the squared error of the layer's results
plus `λ · mean(1 − |2h − 1|^β)`, where β falls from 20 to 2 and so drives each h to 0 or 1.
"""

import math
from dataclasses import dataclass
from typing import Self

import torch
from torch import Generator, Tensor

from embedl_deploy.quantize.correcting.adaround.regression import Regression

_STRETCH, _SHIFT = 1.2, -0.1
_WARM_UP = 0.2
"""Share of the iterations without λ."""

_LAMBDA = 5.0
"""For the error in units of that of rounding to nearest, and the mean over all weights."""

_ON_INTEGER = 1e-3
"""How near to an integer a weight has no choice. So the weight that gave a range keeps it."""


@dataclass(frozen=True)
class Settings:
    """How to learn.

    Attributes:
        iterations: Steps of Adam.
        learning_rate: Its largest step in `v`.
        batch: Rows in a step.
    """

    iterations: int
    learning_rate: float
    batch: int


@dataclass(frozen=True)
class Choice:
    """The two integers that each weight may take, as matrices (groups, channels, inputs).

    Attributes:
        low: The lower one; the nearest where a weight has no choice.
        gap: How much higher the other one is: 1, or 0 where a weight has no choice.
        fraction: How far the weight lies above the lower one.
        scale: What the integers are multiplied by.
    """

    low: Tensor
    gap: Tensor
    fraction: Tensor
    scale: Tensor

    @classmethod
    def of(cls, steps: Tensor, scale: Tensor, highest: int) -> Self:
        """That of weights in units of their scales."""
        nearest = steps.round().clamp(-highest, highest)
        free = ((steps - nearest).abs() > _ON_INTEGER) & (steps.abs() < highest)
        low = torch.where(free, steps.floor(), nearest)
        return cls(low, free.to(steps.dtype), steps - low, scale)

    @property
    def nearest(self) -> Tensor:
        """The weights rounded to nearest, ties to even."""
        return self.low + self.gap * self.fraction.round()


@dataclass(frozen=True)
class Learned:
    """What came out for one matrix.

    Attributes:
        integers: The learned ones where they are better on the held-out rows, else the nearest.
        before: Squared error of these rows with the nearest integers.
        after: That with the learned ones.
    """

    integers: Tensor
    before: float
    after: float

    @property
    def better(self) -> bool:
        """Whether the learned integers are taken."""
        return self.after < self.before


def learned(regression: Regression, choice: Choice, settings: Settings, draw: Generator) -> Learned:
    """Learn on three quarters of the rows, judge on the last quarter."""
    count = len(regression.wanted)
    train = count - count // 4
    held_out = slice(train, count)
    before = _error(regression, choice, choice.nearest, held_out)
    if not before > 0:
        return Learned(choice.nearest, before, before)
    integers = choice.low + choice.gap * _descended(regression, choice, settings, train, draw)
    after = _error(regression, choice, integers, held_out)
    return Learned(integers if after < before else choice.nearest, before, after)


def _error(regression: Regression, choice: Choice, integers: Tensor, rows: slice) -> float:
    return float(regression.errors(integers * choice.scale, rows).double().square().sum())


def _descended(
    regression: Regression, choice: Choice, settings: Settings, train: int, draw: Generator
) -> Tensor:
    """Whether each weight takes the higher integer, as zeros and ones."""
    usual = _error(regression, choice, choice.nearest, slice(train)) / train
    v = torch.logit((choice.fraction - _SHIFT) / _STRETCH).contiguous()
    optimizer = torch.optim.Adam([v], lr=settings.learning_rate, fused=True)
    lowest, gap = choice.low * choice.scale, choice.gap * choice.scale
    for step in range(settings.iterations):
        rows = torch.randint(train, (min(settings.batch, train),), generator=draw).to(v.device)
        soft = v.sigmoid().mul_(_STRETCH).add_(_SHIFT)
        h = soft.clamp(0, 1)
        weight = torch.addcmul(lowest, gap, h)
        slope = _slope(regression, weight, rows).mul_(gap / usual)
        slope += _pull(h, step / settings.iterations)
        inside = (soft > 0) & (soft < 1)
        v.grad = slope * inside * (soft - _SHIFT) * (1 - (soft - _SHIFT) / _STRETCH)
        optimizer.step()
    return (v >= 0).to(v.dtype)


def _slope(regression: Regression, weight: Tensor, rows: Tensor) -> Tensor:
    """The gradient of the mean squared error of some rows by the weights."""
    weight = weight.requires_grad_()
    with torch.enable_grad():
        error = regression.errors(weight, rows).square().sum() / len(rows)
    # A fused optimizer (torch 2.13) reads memory in order, whatever the strides of a gradient.
    return torch.autograd.grad(error, weight)[0].contiguous()


def _pull(h: Tensor, done: float) -> Tensor:
    """The gradient of `λ · mean(1 − |2h − 1|^β)` by h."""
    if done < _WARM_UP:
        return torch.zeros_like(h)
    share = (done - _WARM_UP) / (1 - _WARM_UP)
    beta = 2 + 9 * (1 + math.cos(share * math.pi))
    away = 2 * h - 1
    return away.abs().pow(beta - 1).mul_(away.sign()).mul_(-2 * beta * _LAMBDA / h.numel())
