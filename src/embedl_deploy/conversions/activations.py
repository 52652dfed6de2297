"""Activations that are written out become the modules they are."""

import math

import torch
from torch import nn

from embedl_deploy.patterns import (
    ADD,
    MUL,
    POW,
    SIGMOID,
    TANH,
    ConversionPattern,
    chain,
    either,
    fork,
    hole,
    op,
    scaled,
)
from embedl_deploy.patterns.tree import Either, Tree

X = hole("x")


_SHIFTED = fork(ADD.named("shifted").taking(3), X)
# relu6(x + 3), also as clamp(x + 3, 0, 6)
_CLIPPED = either(
    chain(_SHIFTED, op("clip", nn.ReLU6)), chain(_SHIFTED, op("clip", torch.clamp).taking(0, 6))
)
_SIXTH = scaled("sixth", 1 / 6)


def _half(phi: Tree) -> Either:
    """`x / 2 · phi` in any order."""
    half = scaled("half", 0.5)
    return either(
        fork(MUL, fork(half, X), phi),
        fork(half, fork(MUL, X, phi)),
        fork(MUL, X, fork(half, phi)),
    )


_SQUARE = either(fork(POW.named("square").taking(2), X), fork(MUL.named("square"), X, X))
_CUBE = either(fork(POW.named("cube").taking(3), X), fork(MUL.named("cube"), _SQUARE, X))
_SMALL = scaled("small", 0.044715)
_ONE_MORE = ADD.named("one_more").taking(1)
_ROOT = scaled("root", math.sqrt(2 / math.pi))
# √(2/π) · (x + 0.044715 x³), also as √(2/π) · x · (1 + 0.044715 x²)
_BENT = either(
    chain(fork(ADD.named("bent"), X, fork(_SMALL, _CUBE)), _ROOT),
    fork(
        MUL.named("bent"),
        fork(_ROOT, X),
        chain(
            either(fork(_SMALL, _SQUARE), fork(MUL.named("square"), fork(_SMALL, X), X)), _ONE_MORE
        ),
    ),
)


class WrittenSiLUPattern(ConversionPattern):
    """`x · sigmoid(x)` becomes `nn.SiLU`."""

    tree = fork(MUL, X, fork(SIGMOID, X))

    def build(self) -> nn.Module:
        return nn.SiLU()


class WrittenHardsigmoidPattern(ConversionPattern):
    """`relu6(x + 3) / 6` becomes `nn.Hardsigmoid`."""

    tree = fork(_SIXTH, _CLIPPED)

    def build(self) -> nn.Module:
        return nn.Hardsigmoid()


class WrittenHardswishPattern(ConversionPattern):
    """`x · relu6(x + 3) / 6` and `x · hardsigmoid(x)` become `nn.Hardswish`."""

    tree = either(
        fork(_SIXTH, fork(MUL, X, _CLIPPED)),
        fork(MUL, X, fork(op("hardsigmoid", nn.Hardsigmoid), X)),
        fork(MUL, fork(_SIXTH, X), _CLIPPED),
    )

    def build(self) -> nn.Module:
        return nn.Hardswish()


class WrittenGELUPattern(ConversionPattern):
    """`x / 2 · (1 + erf(x / √2))` becomes `nn.GELU`."""

    tree = _half(
        chain(
            fork(scaled("inner", 1 / math.sqrt(2)), X),
            op("erf", torch.erf),
            ADD.named("outer").taking(1),
        )
    )

    def build(self) -> nn.Module:
        return nn.GELU()


class WrittenTanhGELUPattern(ConversionPattern):
    """`x / 2 · (1 + tanh(√(2/π) · (x + 0.044715 x³)))` becomes `nn.GELU("tanh")`."""

    tree = _half(chain(_BENT, TANH, ADD.named("outer").taking(1)))

    def build(self) -> nn.Module:
        return nn.GELU("tanh")
