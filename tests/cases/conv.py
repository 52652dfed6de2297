"""Convolutions."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from embedl_deploy.patterns import ACTIVATIONS, QDQPoint
from embedl_deploy.tensorrt.fusions.conv import (
    ConvBNAddReLUPattern,
    ConvBNPattern,
    ConvBNReLUPattern,
    StemConvBNReLUMaxPoolPattern,
)
from embedl_deploy.tensorrt.mixed import (
    FloatDepthwiseConvBNAddReLUPattern,
    FloatDepthwiseConvBNPattern,
    FloatDepthwiseConvBNReLUPattern,
)
from tests.cases.case import Case, DoubledConv, Near, hooked, rand
from tests.helpers import net

INPUT = (QDQPoint.INPUT,)
IMAGE = rand((2, 3, 12, 12))
MAP = rand((2, 4, 6, 6))


def conv(in_channels: int = 4, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, 4, 3, padding=1, groups=groups)


def chain(*middle: nn.Module, channels: int = 4) -> nn.Sequential:
    return nn.Sequential(conv(channels), *middle)


def stem(first: nn.Module, *rest: nn.Module) -> nn.Sequential:
    return nn.Sequential(first, *(rest or (nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(3, 2, 1))))


def seven(channels: int = 3) -> nn.Conv2d:
    return nn.Conv2d(channels, 4, 7, stride=2, padding=3, bias=False)


STEM = (
    Case(
        StemConvBNReLUMaxPoolPattern,
        lambda: stem(seven()),
        IMAGE,
        INPUT,
        "FusedConvBNReLUMaxPool",
        near=(
            Near(lambda: stem(seven(4)), inputs=rand((2, 4, 12, 12))),
            Near(lambda: stem(nn.Conv2d(3, 4, 5))),
            Near(lambda: stem(nn.Conv2d(3, 4, (7, 5)))),
            Near(lambda: stem(seven(), nn.BatchNorm2d(4), nn.ReLU(), nn.AvgPool2d(2))),
            Near(lambda: stem(seven(), nn.BatchNorm2d(4), nn.MaxPool2d(2))),
            Near(
                lambda: net(
                    lambda m, x: F.max_pool2d(F.relu(m.conv(x)), 2, return_indices=True)[0],
                    conv=seven(),
                )
            ),
            Near(
                lambda: net(
                    lambda m, x: (F.max_pool2d(y := F.relu(m.conv(x)), 2), y), conv=seven()
                ),
                "the output of its activation 'relu' is also used by 'output'",
            ),
        ),
    ),
    Case(
        StemConvBNReLUMaxPoolPattern,
        lambda: stem(seven(), nn.SiLU(), nn.MaxPool2d(2)),
        IMAGE,
        INPUT,
        "FusedConvBNReLUMaxPool",
    ),
)

SHORT = tuple(
    Case(
        ConvBNReLUPattern,
        lambda kind=kind: chain(nn.BatchNorm2d(4), kind()),  # type: ignore[misc]
        MAP,
        INPUT,
        "FusedConvBNReLU",
    )
    for kind in ACTIVATIONS
)

CONV_ACTIVATION = (
    Case(
        ConvBNReLUPattern,
        lambda: nn.Sequential(*chain(nn.ReLU()), *chain(nn.BatchNorm2d(4), nn.GELU("tanh"))),
        MAP,
        INPUT,
        "FusedConvBNReLU",
        count=2,
        near=(
            *(
                Near(lambda kind=kind: chain(kind()))  # type: ignore[misc]
                for kind in (nn.Tanh, nn.Mish, nn.Softplus, nn.SELU, nn.Hardtanh)
            ),
            Near(lambda: chain(nn.Dropout(0.0), nn.ReLU())),
            Near(lambda: chain(nn.ReLU(), channels=4)[:1]),
            Near(lambda: nn.Sequential(DoubledConv(4, 4, 3), nn.ReLU())),
            Near(lambda: nn.Sequential(hooked(conv()), nn.ReLU()), "'0' has hooks"),
            Near(lambda: nn.Sequential(conv(), hooked(nn.ReLU())), "'1' has hooks"),
            Near(
                lambda: net(lambda m, x: F.relu(y := m.conv(x)) + y, conv=conv()),
                "the output of its conv 'conv' is also used by 'add'",
            ),
            Near(
                lambda: net(lambda m, x: (F.relu(y := m.conv(x)), y), conv=conv()),
                "the output of its conv 'conv' is also used by 'output'",
            ),
        ),
    ),
)

CONV = (
    Case(
        ConvBNPattern,
        lambda: nn.Sequential(conv(), nn.BatchNorm2d(4), conv(), nn.Tanh(), conv()),
        MAP,
        INPUT,
        "FusedConvBN",
        count=3,
        near=(
            Near(lambda: nn.Sequential(nn.Conv1d(4, 4, 3)), inputs=rand((2, 4, 6))),
            Near(
                lambda: nn.Sequential(nn.BatchNorm2d(4), nn.ReLU()),
                "no convolution is before it; TensorRT runs it as a scale layer",
            ),
            Near(lambda: nn.Sequential(nn.ConvTranspose2d(4, 4, 3))),
            Near(lambda: nn.Sequential(nn.Conv3d(4, 4, 3)), inputs=rand((2, 4, 3, 3, 3))),
            Near(lambda: nn.Sequential(DoubledConv(4, 4, 3))),
            Near(lambda: nn.Sequential(hooked(conv())), "'0' has hooks"),
            Near(
                lambda: net(
                    lambda m, x: F.conv2d(x, m.weight * 2),
                    weight=nn.Parameter(torch.randn(4, 4, 3, 3)),
                )
            ),
            Near(lambda: net(lambda _, x: F.conv2d(x, x[:, :, :3, :3])), inputs=rand((4, 4, 6, 6))),
        ),
    ),
    Case(
        ConvBNPattern,
        lambda: nn.Sequential(
            nn.Conv2d(8, 8, 3, 2, "valid", 2, 2, bias=False, padding_mode="circular"),
            nn.BatchNorm2d(8, affine=False),
        ),
        rand((2, 8, 9, 9)),
        INPUT,
        "FusedConvBN",
    ),
    Case(
        ConvBNPattern,
        lambda: nn.Sequential(conv(), nn.BatchNorm2d(4, track_running_stats=False)),
        MAP,
        INPUT,
        "FusedConvBN",
        becomes={"BatchNorm2d": 1},
    ),
)


def residual(forward: object, groups: int = 1) -> nn.Module:
    return net(forward, conv=conv(groups=groups), bn=nn.BatchNorm2d(4), act=nn.ReLU())  # type: ignore[arg-type]


def added(add: Callable[..., Any]) -> nn.Module:
    """What is added to a convolution with batch norm, before the activation."""
    return net(
        lambda m, x: m.act(m.bn(m.conv(x)) + add(m, x)),
        conv=conv(),
        bn=nn.BatchNorm2d(4),
        act=nn.ReLU(),
        place=nn.Parameter(torch.randn(1, 4, 6, 6)),
        grid=torch.randn(4, 6, 6),
    )


BOTH = (QDQPoint.INPUT, QDQPoint.RESIDUAL_INPUT)

RESIDUAL = (
    Case(
        ConvBNAddReLUPattern,
        lambda: residual(lambda m, x: m.act(m.bn(m.conv(x)) + x)),
        MAP,
        BOTH,
        "FusedConvBNAddReLU",
        near=(
            Near(
                lambda: residual(lambda m, x: m.act((y := m.bn(m.conv(x))) + y)),
                "the output of its batch_norm 'bn' is used twice",
            ),
            Near(
                lambda: residual(lambda m, x: m.act((y := m.bn(m.conv(x))) + x) * y),
                "the output of its batch_norm 'bn' is also used by 'mul'",
            ),
            Near(
                lambda: residual(lambda m, x: (m.act(y := m.bn(m.conv(x)) + x), y)),
                "the output of its add 'add' is also used by 'output'",
            ),
            Near(lambda: residual(lambda m, x: m.act(m.conv(x) + x))),
            Near(lambda: residual(lambda m, x: m.act(m.bn(m.conv(x)) + 1.0))),
            Near(lambda: residual(lambda m, x: m.act(m.bn(m.conv(x)) - x))),
            Near(lambda: residual(lambda m, x: m.act(m.bn(m.conv(x)) * x))),
            Near(lambda: residual(lambda m, x: m.act(torch.add(m.bn(m.conv(x)), x, alpha=2)))),
            Near(lambda: residual(lambda m, x: m.bn(m.conv(x)) + x)),
            Near(lambda: residual(lambda m, x: m.bn(m.conv(x)) + m.act(x))),
            *(
                Near(lambda add=add: added(add), "no residual")  # type: ignore[misc]
                for add in (
                    lambda m, _: m.place,
                    lambda m, _: m.grid,
                    lambda m, _: m.bn.bias.view(-1, 1, 1),
                    lambda m, _: m.act(m.place * 2),
                    lambda _, x: torch.linspace(0, 1, x.shape[-1]).expand(x.shape),
                    lambda _, x: x.shape[2],
                )
            ),
            *(
                Near(lambda add=add: added(add), "no kernel spreads a residual")  # type: ignore[misc]
                for add in (
                    lambda _, x: x.mean((2, 3), keepdim=True),
                    lambda _, x: x[0].mean((1, 2), keepdim=True),
                    lambda _, x: x[0],
                    lambda _, x: x.mean(1, keepdim=True),
                )
            ),
            Near(lambda: added(lambda _, x: (x > 0).long()), "of type torch.int64"),
            Near(lambda: added(lambda m, _: m.place), "no residual", example=False),
        ),
    ),
    *(
        Case(ConvBNAddReLUPattern, make, MAP, BOTH, "FusedConvBNAddReLU")
        for make in (
            lambda: residual(lambda m, x: m.act(x + m.bn(m.conv(x)))),
            lambda: residual(lambda m, x: m.act(m.bn(m.conv(x)).add(x * 3))),
            lambda: residual(lambda m, x: m.act(m.bn(m.conv(x)).add_(x))),
            lambda: residual(lambda m, x: m.act(torch.add(x[:1], m.bn(m.conv(x))))),
        )
    ),
)

DEPTHWISE = (
    Case(
        FloatDepthwiseConvBNAddReLUPattern,
        lambda: residual(lambda m, x: m.act(m.bn(m.conv(x)) + x), groups=4),
        MAP,
        (),
        "FusedConvBNAddReLU",
        near=(Near(lambda: residual(lambda m, x: m.act(m.bn(m.conv(x)) + x), groups=2)),),
    ),
    Case(
        FloatDepthwiseConvBNReLUPattern,
        lambda: nn.Sequential(conv(groups=4), nn.BatchNorm2d(4), nn.ReLU6()),
        MAP,
        (),
        "FusedConvBNReLU",
        near=(Near(lambda: chain(nn.BatchNorm2d(4), nn.ReLU6())),),
    ),
    Case(
        FloatDepthwiseConvBNPattern,
        lambda: nn.Sequential(conv(groups=4), nn.BatchNorm2d(4), conv(groups=4)),
        MAP,
        (),
        "FusedConvBN",
        count=2,
        near=(
            Near(lambda: chain(nn.BatchNorm2d(4))),
            Near(lambda: nn.Sequential(nn.Conv2d(1, 4, 3)), inputs=rand((2, 1, 6, 6))),
        ),
    ),
)

CASES = (*STEM, *SHORT, *CONV_ACTIVATION, *CONV, *RESIDUAL, *DEPTHWISE)
