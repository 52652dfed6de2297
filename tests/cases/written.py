"""Activations, norms and what hides them, written out by hand."""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from embedl_deploy.conversions.activations import (
    WrittenGELUPattern,
    WrittenHardsigmoidPattern,
    WrittenHardswishPattern,
    WrittenSiLUPattern,
    WrittenTanhGELUPattern,
)
from embedl_deploy.conversions.cleanup import (
    RemoveAssertionPattern,
    RemoveCopyPattern,
    SoftmaxTypePattern,
)
from embedl_deploy.conversions.norms import (
    NormWeightPattern,
    RowBatchNormPattern,
    WrittenBatchNormPattern,
    WrittenLayerNormPattern,
    WrittenRMSNormPattern,
)
from embedl_deploy.patterns import Pattern
from tests.cases.case import Case, Near, rand
from tests.helpers import net

TOKENS = rand((2, 5, 8))
Function = Callable[[Tensor], Any]
ROOT = math.sqrt(2 / math.pi)


def of(function: Function, **parts: object) -> Callable[[], nn.Module]:
    """A model of a linear layer and a function of its output."""
    return lambda: net(lambda m, x: function(m.linear(x)), linear=nn.Linear(8, 8), **parts)


def written(
    pattern: type[Pattern], becomes: str, *functions: Function, near: tuple[Near, ...]
) -> tuple[Case, ...]:
    """A case for each spelling; the near misses are at the first."""
    return tuple(
        Case(
            pattern,
            of(function),
            TOKENS,
            becomes={becomes: 1, "mul": 0, "add": 0, "truediv": 0},
            near=near if function is functions[0] else (),
            example=function is not functions[-1],
        )
        for function in functions
    )


def miss(function: Function, reason: str | None = None) -> Near:
    return Near(of(function), reason)


ACTIVATIONS = (
    *written(
        WrittenSiLUPattern,
        "SiLU",
        lambda x: x * torch.sigmoid(x),
        lambda x: F.sigmoid(x) * x,
        lambda x: x.mul(x.sigmoid()),
        near=(
            miss(lambda x: x * torch.sigmoid(1.702 * x)),
            miss(lambda x: (x + 1) * torch.sigmoid(x)),
            miss(lambda x: torch.sigmoid(x) * torch.sigmoid(x)),
            miss(lambda x: x * (y := x.sigmoid()) + y, "sigmoid' is also used by 'add'"),
        ),
    ),
    *written(
        WrittenHardsigmoidPattern,
        "Hardsigmoid",
        lambda x: F.relu6(x + 3) / 6,
        lambda x: F.relu6(3.0 + x) * (1 / 6),
        lambda x: torch.clamp(x + 3, 0, 6) / 6,
        near=(
            miss(lambda x: F.relu6(x + 2) / 6),
            miss(lambda x: F.relu6(x + 3) / 5),
            miss(lambda x: F.relu(x + 3) / 6),
            miss(lambda x: torch.clamp(x + 3, 0, 5) / 6),
            miss(lambda x: torch.clamp(x + 3, torch.zeros_like(x), torch.ones_like(x)) / 6),
            Near(
                lambda: net(
                    lambda m, x: torch.clamp(m.linear(x) + 3, m.low, m.high) / 6,
                    linear=nn.Linear(8, 8),
                    low=torch.zeros(8),
                    high=torch.full((8,), 6.0),
                )
            ),
            miss(lambda x: (y := F.relu6(x + 3)) / 6 + y, "relu6' is also used by 'add_1'"),
        ),
    ),
    *written(
        WrittenHardswishPattern,
        "Hardswish",
        lambda x: x * F.relu6(x + 3) / 6,
        lambda x: F.relu6(x + 3.0) * x * (1 / 6),
        lambda x: F.hardsigmoid(x) * x,
        lambda x: x / 6 * F.relu6(x + 3),
        near=(
            miss(lambda x: x * F.relu6(x + 3) / 3),
            miss(lambda x: (x + 3) * F.relu6(x + 3) / 6),
            miss(lambda x: (x + 1) * F.hardsigmoid(x)),
        ),
    ),
    *written(
        WrittenGELUPattern,
        "GELU",
        lambda x: 0.5 * x * (1.0 + torch.erf(x / math.sqrt(2.0))),
        lambda x: x * 0.5 * (1.0 + torch.erf(x / math.sqrt(2.0))),
        lambda x: x * (0.5 * (torch.erf(x * math.sqrt(0.5)) + 1)),
        lambda x: (1 + (x / math.sqrt(2)).erf()) * x / 2,
        near=(
            miss(lambda x: 0.5 * x * (1.0 + torch.erf(x / 1.414))),
            miss(lambda x: x * (1.0 + torch.erf(x / math.sqrt(2.0)))),
            miss(lambda x: 0.5 * (x + 1) * (1.0 + torch.erf(x / math.sqrt(2.0)))),
        ),
    ),
    *written(
        WrittenTanhGELUPattern,
        "GELU",
        lambda x: 0.5 * x * (1.0 + torch.tanh(ROOT * (x + 0.044715 * torch.pow(x, 3.0)))),
        lambda x: x * 0.5 * (1 + (ROOT * (0.044715 * x**3 + x)).tanh()),
        lambda x: x * (0.5 * (1 + torch.tanh(ROOT * (x + 0.044715 * (x * x * x))))),
        lambda x: 0.5 * x * (1 + torch.tanh(x * ROOT * (1 + 0.044715 * x * x))),
        lambda x: 0.5 * x * (1 + torch.tanh(ROOT * x * (1 + 0.044715 * torch.square(x)))),
        near=(
            miss(lambda x: 0.5 * x * (1.0 + torch.tanh(ROOT * (x + 0.0447 * x**3)))),
            miss(lambda x: 0.5 * x * (1.0 + torch.tanh(ROOT * (x + 0.044715 * x**2)))),
            miss(lambda x: 0.5 * x * (1.0 + torch.tanh(0.8 * (x + 0.044715 * x**3)))),
        ),
    ),
)


def centred(x: Tensor) -> Tensor:
    return x - x.mean(-1, keepdim=True)


def normed(x: Tensor) -> Tensor:
    return (y := centred(x)) / torch.sqrt(y.pow(2).mean(-1, keepdim=True) + 1e-6)


def variance(x: Tensor) -> Tensor:
    return x.var(-1, unbiased=False, keepdim=True)


def root_mean_square(x: Tensor) -> Tensor:
    return torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)


UNKNOWN = "the size of the last dimension is not known; pass example inputs"

LAYER_NORMS: tuple[Function, ...] = (
    lambda x: (x - x.mean(2, keepdim=True)) * (variance(x) + 1e-5).rsqrt(),
    lambda x: centred(x) / (variance(x) + 1e-5) ** 0.5,
    lambda x: (
        (x - (u := x.mean(-1, keepdim=True)))
        / ((x - u).pow(2).mean(-1, keepdim=True) + 1e-6).sqrt()
    ),
    lambda x: (y := centred(x)) / torch.sqrt((y * y).mean(-1, keepdim=True) + 1e-6),
)

NORMS = (
    *(
        Case(WrittenLayerNormPattern, of(function), TOKENS, becomes={"LayerNorm": 1, "mean": 0})
        for function in LAYER_NORMS
    ),
    Case(
        WrittenLayerNormPattern,
        of(normed),
        TOKENS,
        becomes={"LayerNorm": 1, "mean": 0, "sub": 0},
        near=(
            miss(lambda x: centred(x) / (x.var(-1, keepdim=True) + 1e-6).sqrt()),
            miss(lambda x: (x - x.mean(1, keepdim=True)) / (variance(x) + 1e-6).sqrt()),
            miss(lambda x: centred(x) / (variance(x).sqrt() + 1e-6)),
            miss(lambda x: centred(x) / (variance(x * 2) + 1e-6).sqrt()),
            miss(
                lambda x: (
                    (y := centred(x)) / torch.sqrt(y.pow(2).mean(-1, keepdim=True) + 1e-6),
                    y,
                ),
                "'sub' is also used by 'output'",
            ),
            Near(lambda: net(lambda _, x: normed(x)), UNKNOWN, example=False),
        ),
    ),
    *(
        Case(WrittenRMSNormPattern, of(function), TOKENS, becomes={"RMSNorm": 1, "mean": 0})
        for function in (
            lambda x: x / torch.sqrt((x * x).mean(-1, keepdim=True) + 1e-6),
            lambda x: (torch.square(x).mean(2, keepdim=True) + 1e-5) ** -0.5 * x,
        )
    ),
    Case(
        WrittenRMSNormPattern,
        of(lambda x: x * root_mean_square(x)),
        TOKENS,
        becomes={"RMSNorm": 1, "mean": 0},
        near=(
            miss(lambda x: x * torch.rsqrt(x.pow(2).mean(1, keepdim=True) + 1e-6)),
            miss(lambda x: x * (torch.mean(x**2, -1, True, dtype=torch.float64) + 1e-6).rsqrt()),
            miss(lambda x: x * torch.rsqrt(x.pow(2).sum(-1, keepdim=True) + 1e-6)),
            miss(lambda x: x * torch.rsqrt(x.pow(4).mean(-1, keepdim=True) + 1e-6)),
            miss(lambda x: (x + 1) * root_mean_square(x)),
            miss(lambda x: (y := root_mean_square(x)) * x + y, "rsqrt' is also used by 'add_1'"),
            Near(lambda: net(lambda _, x: x * root_mean_square(x)), UNKNOWN, example=False),
        ),
    ),
)


def weighted(forward: Callable[..., Any], *shape: int, **parts: object) -> nn.Module:
    sizes = shape or (8,)
    parameters = {name: nn.Parameter(torch.randn(sizes)) for name in ("weight", "bias")}
    return net(forward, **parameters, **parts)


def linear() -> nn.Linear:
    return nn.Linear(8, 8)


def full() -> nn.LayerNorm:
    return nn.LayerNorm(8)


def bare() -> nn.LayerNorm:
    return nn.LayerNorm(8, elementwise_affine=False)


WEIGHTS = (
    Case(
        NormWeightPattern,
        lambda: weighted(lambda m, x: m.weight * normed(m.linear(x)) + m.bias, linear=linear()),
        TOKENS,
        count=2,
        first=(WrittenLayerNormPattern,),
        becomes={"LayerNorm": 1, "mul": 0, "add": 0},
    ),
    Case(
        NormWeightPattern,
        lambda: weighted(
            lambda m, x: m.weight * ((y := m.linear(x)) * root_mean_square(y)) + m.bias,
            linear=linear(),
        ),
        TOKENS,
        first=(WrittenRMSNormPattern,),
        becomes={"RMSNorm": 1, "mul": 0, "add": 1},
    ),
    Case(
        NormWeightPattern,
        lambda: weighted(lambda m, x: m.norm(x) * m.weight + m.bias, norm=bare()),
        TOKENS,
        count=2,
        becomes={"LayerNorm": 1, "mul": 0, "add": 0},
        example=False,
        near=(
            Near(
                lambda: weighted(lambda m, x: m.norm(x) * m.weight + m.bias, 5, 8, norm=bare()),
                "the parameter has shape (5, 8), not (8,)",
            ),
            Near(lambda: net(lambda m, x: m.norm(x) * m.fixed, norm=bare(), fixed=torch.randn(8))),
            Near(lambda: weighted(lambda m, x: m.norm(x) * m.weight + m.bias, norm=full())),
            Near(
                lambda: weighted(lambda m, x: (y := m.norm(x)) * m.weight + y, norm=bare()),
                "'norm' is also used by 'add'",
            ),
        ),
    ),
)


def checked(x: Tensor) -> Tensor:
    torch._assert(x.shape[0] == 2, "two of them")
    return x * 2


CLEANUP = (
    Case(
        RemoveAssertionPattern,
        of(checked),
        TOKENS,
        becomes={"_assert": 0, "mul": 1},
        traced=True,
        near=(miss(lambda x: x * 2),),
    ),
    Case(
        RemoveCopyPattern,
        of(lambda x: x.to(torch.float32).transpose(1, 2).contiguous().float() * 2),
        TOKENS,
        count=3,
        becomes={"to": 0, "contiguous": 0, "mul": 1},
        traced=True,
        near=(
            miss(lambda x: x.to(torch.float64).tanh()),
            miss(lambda x: x.to(torch.float64).float()),
            Near(of(lambda x: x.float().tanh()), example=False),
        ),
    ),
    Case(
        RemoveCopyPattern,
        of(lambda x: x.to(x.dtype).tanh()),
        TOKENS,
        becomes={"to": 0},
        near=(miss(lambda x: x.contiguous(memory_format=torch.contiguous_format)),),
        traced=True,
    ),
    *(
        Case(
            SoftmaxTypePattern,
            of(function),
            TOKENS,
            becomes={"Softmax": 1, "softmax": 0, "to": 1},
            near=(miss(lambda x: x.softmax(-1)), miss(lambda x: x.log_softmax(-1, torch.float64))),
        )
        for function in (
            lambda x: F.softmax(x, dim=-1, dtype=torch.float64),
            lambda x: torch.softmax(x, 1, torch.float32),
            lambda x: x.softmax(-1, dtype=torch.float32),
        )
    ),
)


def affine(
    forward: Callable[..., Any],
    conv: nn.Module | None = None,
    shape: tuple[int, ...] = (8, 1, 1),
    **parts: Any,
) -> Callable[[], nn.Module]:
    """A convolution, and what is fixed to multiply and to add."""
    return lambda: net(
        forward,
        conv=conv or nn.Conv2d(8, 8, 1),
        scale=torch.rand(shape) + 0.5,
        shift=torch.randn(shape),
        **parts,
    )


TAUGHT = nn.Parameter(torch.randn(8, 1, 1))
IMAGE = rand((2, 8, 6, 6))

FROZEN = (
    *(
        Case(WrittenBatchNormPattern, make, inputs, becomes={kind: 1, "add": 0, "mul": 0})
        for make, inputs, kind in (
            (
                affine(lambda m, x: m.conv(x) * m.scale + m.shift),
                IMAGE,
                "FrozenBatchNorm2d",
            ),
            (
                affine(lambda m, x: m.shift.sqrt().nan_to_num() + m.scale.rsqrt() * m.conv(x)),
                IMAGE,
                "FrozenBatchNorm2d",
            ),
            (
                affine(lambda m, x: m.conv(x) * m.scale[0, 0, 0] + m.shift[None]),
                IMAGE,
                "FrozenBatchNorm2d",
            ),
            (
                affine(lambda m, x: m.conv(x) * m.scale + m.shift, nn.Conv1d(8, 8, 1), (8, 1)),
                rand((2, 8, 6)),
                "FrozenBatchNorm1d",
            ),
        )
    ),
    Case(
        WrittenBatchNormPattern,
        affine(lambda m, x: m.conv(x) * m.scale + m.shift, nn.ConvTranspose2d(8, 8, 2)),
        IMAGE,
        becomes={"FrozenBatchNorm2d": 1, "add": 0, "mul": 0},
        near=(
            Near(affine(lambda m, x: m.conv(x) * m.taught + m.shift, taught=TAUGHT)),
            Near(affine(lambda m, x: m.conv(x) * m.scale + m.taught, taught=TAUGHT)),
            Near(affine(lambda m, x: m.conv(x) * m.scale + x)),
            Near(affine(lambda m, x: x * m.scale + m.shift)),
            Near(affine(lambda m, x: (y := m.conv(x)) * m.scale + m.shift + y), "is also used by"),
            Near(
                affine(lambda m, x: m.conv(x) * m.scale + m.shift, shape=(1, 6)),
                "has not one value for each channel",
            ),
            Near(
                affine(lambda m, x: m.conv(x) * m.scale + m.shift.double()),
                "is of type torch.float64",
            ),
        ),
    ),
)


def rows(forward: Callable[..., Any]) -> Callable[[], nn.Module]:
    """A linear layer and a batch norm, as LeViT has them."""
    return lambda: net(forward, linear=nn.Linear(8, 6, bias=False), norm=nn.BatchNorm1d(6))


ROWS = (
    Case(
        RowBatchNormPattern,
        rows(lambda m, x: m.norm((y := m.linear(x)).flatten(0, 1)).reshape_as(y)),
        TOKENS,
        becomes={"reshape_as": 0, "Linear": 1, "BatchNorm1d": 1},
        near=(
            Near(rows(lambda m, x: m.norm((y := m.linear(x)).mT).mT.reshape_as(y))),
            Near(rows(lambda m, x: m.norm(m.linear(x).flatten(0, 1)).reshape_as(x[:, :, :6]))),
            Near(
                rows(lambda m, x: m.norm((y := m.linear(x)).flatten(0, 1)).reshape_as(y) + y),
                "'linear' is also used by 'add'",
            ),
        ),
    ),
)

CASES = (*ACTIVATIONS, *NORMS, *WEIGHTS, *CLEANUP, *FROZEN, *ROWS)
