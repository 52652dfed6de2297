"""Conversions around pooling and flattening."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from embedl_deploy.conversions.pooling import (
    FlattenLinearToConv1x1Pattern,
    MeanToAdaptiveAvgPoolPattern,
    RemoveIdentityAdaptiveAvgPoolPattern,
)
from tests.cases.case import Case, DoubledLinear, Near, hooked, rand
from tests.helpers import net

IMAGE = rand((2, 3, 6, 6))
PIXEL = rand((2, 4, 1, 1))
CONVERTED = {"Conv2d": 2, "Linear": 0}


def pooled(*head: nn.Module) -> nn.Sequential:
    """A convolution, a pooling to 1×1, and a head."""
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), *head)


def unpooled(*head: nn.Module) -> nn.Sequential:
    """A convolution that leaves only its channels, which only its weight tells."""
    return nn.Sequential(nn.Conv2d(3, 4, 6), nn.BatchNorm2d(4), *head)


def flat(linear: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), linear)


def shared() -> nn.Module:
    forward = lambda m, x: m.linear(m.pool(x).flatten(1)) + m.linear(x.mean((2, 3)))  # noqa: E731
    return net(forward, pool=nn.AdaptiveAvgPool2d(1), linear=nn.Linear(3, 5))


def read() -> nn.Module:
    forward = lambda m, x: m.linear(m.pool(x).flatten(1)) * m.linear.weight.mean()  # noqa: E731
    return net(forward, pool=nn.AdaptiveAvgPool2d(1), linear=nn.Linear(3, 5))


FLATTEN = (
    *(
        Case(
            FlattenLinearToConv1x1Pattern,
            model,
            IMAGE,
            becomes={"Conv2d": 2, "Linear": 0, "flatten": 1},
            example=example,
        )
        for example in (True, False)
        for model in (
            lambda: pooled(nn.Flatten(), nn.Linear(4, 5)),
            lambda: pooled(nn.Flatten(1, 3), nn.Linear(4, 5, bias=False)),
            lambda: pooled(nn.Flatten(), nn.Dropout(0.0), nn.Hardswish(), nn.Linear(4, 5)),
            lambda: unpooled(nn.Flatten(), nn.Linear(4, 5)),
            lambda: unpooled(nn.GELU(), nn.Dropout(0.0), nn.Flatten(), nn.SiLU(), nn.Linear(4, 5)),
            lambda: net(
                lambda m, x: m.linear(torch.flatten(F.adaptive_avg_pool2d(m.conv(x) + 1, 1), 1)),
                conv=nn.Conv2d(3, 4, 3),
                linear=nn.Linear(4, 5),
            ),
        )
    ),
    Case(
        FlattenLinearToConv1x1Pattern,
        lambda: pooled(
            nn.Flatten(), nn.Linear(4, 6), nn.ReLU(), nn.Dropout(0.0), nn.Linear(6, 5), nn.Tanh()
        ),
        IMAGE,
        count=2,
        becomes={"Conv2d": 3, "Linear": 0, "flatten": 1, "ReLU": 2, "Dropout": 1},
        example=False,
    ),
    Case(
        FlattenLinearToConv1x1Pattern,
        lambda: flat(nn.Linear(4, 3)),
        PIXEL,
        becomes={"Conv2d": 1, "Linear": 0},
        near=(
            Near(lambda: flat(nn.Linear(4, 3)), "is not known", example=False),
            Near(
                lambda: flat(nn.Linear(3 * 7 * 7, 5)),
                "the flattened height and width are 7×7, not 1×1",
                rand((2, 3, 7, 7)),
            ),
            Near(lambda: flat(nn.Linear(12, 5)), "has 3 dimensions, not 4", rand((2, 3, 4))),
            Near(
                lambda: nn.Sequential(nn.Conv2d(4, 3, 1), nn.Flatten(), nn.Linear(27, 5)),
                "the flattened size ?×3×?×? is not known to be 1×1; pass example inputs",
                rand((2, 4, 3, 3)),
                example=False,
            ),
            Near(shared, "used elsewhere", IMAGE),
            Near(read, "used elsewhere", IMAGE),
            Near(  # an image without a batch, whose channels are rows
                lambda: pooled(nn.Flatten(), nn.Linear(1, 3)),
                "?×4×1×1 is flattened, and the layer takes 1 features",
                rand((3, 6, 6)),
                example=False,
            ),
            Near(lambda: flat(DoubledLinear(4, 3))),
            Near(lambda: flat(hooked(nn.Linear(4, 3))), "'1' has hooks"),
            *(
                Near(
                    lambda squeeze=squeeze: net(
                        lambda m, x: m.linear(squeeze(x)), linear=nn.Linear(1, 3)
                    ),  # type: ignore[misc]
                    "2×4×1×1 is flattened, and the layer takes 1 features",
                )
                for squeeze in (
                    lambda x: x.squeeze(-1).squeeze(-2),
                    lambda x: x.squeeze(-2).squeeze(-2),
                )
            ),
            Near(
                lambda: net(
                    lambda m, x: m.linear(torch.reshape(x, x[:, :, 0, 0].shape)),
                    linear=nn.Linear(4, 3),
                ),
                example=False,
            ),
            Near(lambda: nn.Sequential(nn.Flatten(2), nn.Linear(1, 3))),
            Near(lambda: nn.Sequential(nn.Flatten(0), nn.Linear(8, 3))),
            Near(lambda: nn.Sequential(nn.Flatten(), nn.LayerNorm(4), nn.Linear(4, 3))),
            Near(lambda: nn.Sequential(nn.Flatten(), nn.Softmax(1), nn.Linear(4, 3))),
            Near(
                lambda: net(lambda m, x: (m.linear(y := x.flatten(1)), y), linear=nn.Linear(4, 3)),
                "the output of its flatten 'flatten' is also used by 'output'",
            ),
        ),
    ),
    Case(
        FlattenLinearToConv1x1Pattern,
        lambda: nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(4, 3)),
        PIXEL,
        becomes={"Conv2d": 1, "Linear": 0, "Dropout": 1},
        random=True,
    ),
)

IDENTITY = (
    Case(
        RemoveIdentityAdaptiveAvgPoolPattern,
        lambda: nn.Sequential(
            nn.Conv2d(3, 4, 3),
            nn.AdaptiveAvgPool2d(4),
            nn.AdaptiveAvgPool2d((None, 4)),
            nn.AdaptiveAvgPool2d((2, 2)),
            nn.AdaptiveAvgPool2d((2, None)),
        ),
        IMAGE,
        count=3,
        becomes={"AdaptiveAvgPool2d": 1},
        near=(
            Near(
                lambda: nn.Sequential(nn.AdaptiveAvgPool2d(6)), "pass example inputs", example=False
            ),
            Near(lambda: nn.Sequential(nn.AdaptiveAvgPool2d((6, 5))), "2×3×6×6 to (6, 5)"),
            Near(lambda: nn.Sequential(nn.AdaptiveAvgPool2d(1)), "2×3×6×6 to (1, 1)"),
            Near(lambda: nn.Sequential(nn.AdaptiveMaxPool2d(6))),
        ),
    ),
    Case(
        RemoveIdentityAdaptiveAvgPoolPattern,
        lambda: nn.Sequential(nn.AdaptiveAvgPool2d((6, 6)), nn.Tanh()),
        rand((3, 6, 6)),
        becomes={"AdaptiveAvgPool2d": 0},
    ),
    Case(
        RemoveIdentityAdaptiveAvgPoolPattern,
        lambda: net(
            lambda _, x: F.adaptive_avg_pool2d(F.adaptive_avg_pool2d(x, 3), 3),
        ),
        IMAGE,
        becomes={"AdaptiveAvgPool2d": 1},
    ),
)


def headed(flatten: Callable[..., Any]) -> nn.Module:
    """A pooling to 1×1, a flattening, and a linear layer."""
    forward = lambda m, x: m.linear(m.drop(flatten(m.pool(m.conv(x)))))  # noqa: E731
    parts = {"conv": nn.Conv2d(3, 4, 3), "drop": nn.Dropout(0.0), "linear": nn.Linear(4, 5)}
    return net(forward, pool=nn.AdaptiveAvgPool2d(1), **parts)


def near(flatten: Callable[..., Any], reason: str | None, features: int = 4) -> Near:
    model = lambda: net(lambda m, x: m.linear(flatten(x)), linear=nn.Linear(features, 5))  # noqa: E731
    return Near(model, reason)


SPELLINGS = (
    *(
        Case(
            FlattenLinearToConv1x1Pattern,
            lambda flatten=flatten: headed(flatten),  # type: ignore[misc]
            IMAGE,
            becomes={"Conv2d": 2, "Linear": 0, "flatten": 1, "reshape": 0, "squeeze": 0},
            example=example,
        )
        for example in (True, False)
        for flatten in (
            lambda x: x.view(x.size(0), -1),
            lambda x: x.reshape(-1, 4),
            lambda x: torch.reshape(x, (x.shape[0], 4)),
            lambda x: x.squeeze(-1).squeeze(-1),
            lambda x: x.squeeze(3).squeeze(2),
            lambda x: x.squeeze((2, 3)),
            lambda x: x[:, :, 0, 0],
            lambda x: x.squeeze(-1)[:, :, 0],
        )
    ),
    Case(
        FlattenLinearToConv1x1Pattern,
        lambda: headed(lambda x: x.view(x.size(0), -1)),
        IMAGE,
        becomes={"Conv2d": 2, "Linear": 0},
        near=(
            near(lambda x: x.view(x.size(0), -1), "6×6, not 1×1", 3 * 6 * 6),
            near(
                lambda x: x.mean((2, 3), keepdim=True).view(1, -1),
                "2×3×1×1 is flattened, and the layer takes 6 features",
                6,
            ),
            near(lambda x: x[:, :, 0, 0], "6×6, not 1×1", 3),
            near(lambda x: x[:, :, 0], None, 6),
            near(lambda x: x[:, 0, 0], None, 6),
            near(lambda x: x.mean((2, 3), keepdim=True).squeeze(), None, 3),
            near(lambda x: x.mean((0, 1)).view(6, 6), "has 2 dimensions, not 4", 6),
        ),
    ),
    Case(
        FlattenLinearToConv1x1Pattern,
        lambda: net(lambda m, x: m.linear(x.mean([2, 3])), linear=nn.Linear(3, 5)),
        IMAGE,
        first=(MeanToAdaptiveAvgPoolPattern,),
        becomes={"Conv2d": 1, "AdaptiveAvgPool2d": 1, "flatten": 1, "mean": 0},
    ),
)

MEAN = (
    *(
        Case(
            MeanToAdaptiveAvgPoolPattern,
            lambda mean=mean: net(lambda m, x: mean(m.conv(x)), conv=nn.Conv2d(3, 4, 3)),  # type: ignore[misc]
            IMAGE,
            becomes={"AdaptiveAvgPool2d": 1, "mean": 0, "flatten": int(not kept)},
            example=example,
        )
        for example in (True, False)
        for kept, mean in (
            (False, lambda x: x.mean((2, 3))),
            (False, lambda x: torch.mean(x, dim=[-1, -2])),
            (True, lambda x: x.mean([2, 3], keepdim=True)),
            (True, lambda x: x.mean((-2, -1), True)),
        )
    ),
    Case(
        MeanToAdaptiveAvgPoolPattern,
        lambda: net(lambda _, x: x.mean((2, 3))),
        IMAGE,
        becomes={"AdaptiveAvgPool2d": 1},
        near=(
            Near(lambda: net(lambda _, x: torch.mean(x, (2, 3), True, dtype=torch.float64))),
            Near(lambda: net(lambda _, x: x.mean((2, 3))), "pass example inputs", example=False),
            Near(
                lambda: net(lambda _, x: x.mean((-2, -1))),
                "its input has 3 dimensions, not 4",
                rand((3, 6, 6)),
            ),
            Near(lambda: net(lambda _, x: x.mean((1, 2)))),
            Near(lambda: net(lambda _, x: x.mean(3))),
            Near(lambda: net(lambda _, x: x.exp() / x.exp().mean())),
            Near(lambda: net(lambda _, x: x.mean((2, 3), dtype=torch.float64))),
        ),
    ),
)

CASES = (*FLATTEN, *IDENTITY, *SPELLINGS, *MEAN)
