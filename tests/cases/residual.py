"""Convolutions and linear layers with the addition of a residual."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers.drop import DropPath
from torch import nn
from torchvision.ops import StochasticDepth

from embedl_deploy.patterns import QDQPoint
from embedl_deploy.tensorrt.fusions.residual import (
    ConvAddReLUPattern,
    ConvBNAddPattern,
    ConvBNReLUAddPattern,
    LinearAddPattern,
)
from embedl_deploy.tensorrt.mixed import (
    FloatDepthwiseConvAddReLUPattern,
    FloatDepthwiseConvBNAddPattern,
    FloatDepthwiseConvBNReLUAddPattern,
)
from tests.cases.case import Case, DoubledConv, DoubledLinear, Near, hooked, rand
from tests.helpers import net

BOTH = (QDQPoint.INPUT, QDQPoint.RESIDUAL_INPUT)
MAP = rand((2, 4, 6, 6))
LINE = rand((2, 4, 6))
CUBE = rand((2, 4, 3, 3, 3))
TOKENS = rand((2, 5, 6))


def plain(forward: Callable[..., Any], dims: int = 2, groups: int = 1, **parts: Any) -> nn.Module:
    """A convolution that keeps sizes, and the given parts."""
    conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1](4, 4, 3, padding=1, groups=groups)
    return net(forward, conv=conv, act=nn.ReLU(), **parts)


def block(forward: Callable[..., Any], dims: int = 2, groups: int = 1, **parts: Any) -> nn.Module:
    """The same with a batch norm."""
    norm = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[dims - 1](4)
    return plain(forward, dims, groups, bn=norm, **parts)


def add(m: Any, x: torch.Tensor) -> torch.Tensor:
    return m.bn(m.conv(x)) + x


def add_relu(m: Any, x: torch.Tensor) -> torch.Tensor:
    return m.act(m.conv(x) + x)


def noisy(noise: nn.Module) -> nn.Module:
    return block(lambda m, x: m.noise(m.bn(m.conv(x))) + x, noise=noise)


def scaled(
    *shape: int,
    view: tuple[int, ...] | None = None,
    dims: int = 2,
    scale: Callable[..., Any] = lambda m, x, gamma: m.bn(m.conv(x)) * gamma,
    **parts: Any,
) -> nn.Module:
    """A block whose branch is multiplied by parameters."""

    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = scale(m, x, m.gamma if view is None else m.gamma.reshape(view)) + x
        return out

    return block(forward, dims, gamma=nn.Parameter(torch.randn(shape)), **parts)


def times(scale: Callable[..., Any]) -> nn.Module:
    """A block whose branch is multiplied by what does not train."""
    return block(lambda m, x: scale(m, m.bn(m.conv(x))) + x, fixed=torch.rand(4, 1, 1))


_OWN = "a tensor of the model"
_SPREAD = "no kernel spreads a residual"
_FACTOR = "not by a factor for each channel"

ADD = (
    Case(
        ConvBNAddPattern,
        lambda: block(add),
        MAP,
        BOTH,
        "FusedConvBNAdd",
        near=(
            Near(
                lambda: block(lambda m, x: (y := m.bn(m.conv(x))) + y),
                "the output of its batch_norm 'bn' is used twice",
            ),
            Near(
                lambda: block(lambda m, x: ((y := m.conv(x)) + x) * y),
                "the output of its conv 'conv' is also used by 'mul'",
            ),
            Near(lambda: block(lambda m, x: m.conv(x) + m.bn.bias.view(-1, 1, 1)), _OWN),
            Near(
                lambda: block(lambda m, x: m.conv(x) + m.place, place=torch.randn(1, 4, 6, 6)),
                "a tensor of the model",
            ),
            Near(lambda: block(lambda m, x: m.conv(x) + x.mean((2, 3), keepdim=True)), _SPREAD),
            Near(lambda: block(lambda m, x: m.conv(x) + x[0]), _SPREAD),
            Near(lambda: block(lambda m, x: m.conv(x) + 1.0)),
            Near(lambda: block(lambda m, x: m.conv(x) - x)),
            Near(lambda: block(lambda m, x: torch.add(m.conv(x), x, alpha=2))),
            Near(lambda: block(lambda m, x: m.act(m.conv(x)) + x)),
            Near(lambda: net(lambda m, x: m.conv(x) + x, conv=DoubledConv(4, 4, 1))),
            Near(
                lambda: net(lambda m, x: m.conv(x) + x, conv=hooked(nn.Conv2d(4, 4, 1))),
                "'conv' has hooks",
            ),
        ),
    ),
    *(
        Case(ConvBNAddPattern, make, inputs, BOTH, "FusedConvBNAdd")
        for make, inputs in (
            (lambda: block(lambda m, x: x + m.bn(m.conv(x))), MAP),
            (lambda: plain(lambda m, x: m.conv(x).add_(x)), MAP),
            (lambda: plain(lambda m, x: m.conv(x) + x[:1]), MAP),
            (lambda: block(add, dims=1), LINE),
            (lambda: plain(lambda m, x: x + m.conv(x), dims=3), CUBE),
        )
    ),
    Case(
        ConvBNAddPattern,
        lambda: net(
            lambda m, x: m.conv(x) + m.again(torch.tanh(m.first(x))) + m.one(x),
            conv=nn.Conv2d(4, 4, 1),
            first=nn.Conv2d(4, 4, 1),
            again=nn.Conv2d(4, 4, 1),
            one=nn.Conv2d(4, 4, 1),
        ),
        MAP,
        BOTH,
        "FusedConvBNAdd",
        count=2,
    ),
    *(
        Case(
            ConvBNAddPattern,
            lambda make=make: noisy(make()),  # type: ignore[misc]
            MAP,
            BOTH,
            "FusedConvBNAdd",
            random=True,
        )
        for make in (
            lambda: StochasticDepth(0.5, "batch"),
            lambda: DropPath(0.5),
            lambda: nn.Dropout(0.5),
            lambda: nn.Dropout2d(0.5),
        )
    ),
)

LAYER_SCALE = (
    *(
        Case(ConvBNAddPattern, make, inputs, BOTH, "FusedConvBNAdd", random=random)
        for make, inputs, random in (
            (lambda: scaled(4, 1, 1), MAP, False),
            (lambda: scaled(1, 4, 1, 1), MAP, False),
            (lambda: scaled(4, view=(1, -1, 1, 1)), MAP, False),
            (lambda: scaled(4, 1, scale=lambda m, x, g: g * m.bn(m.conv(x)), dims=1), LINE, False),
            (lambda: scaled(1), MAP, False),
            *(
                (lambda scale=scale: times(scale), MAP, False)
                for scale in (
                    lambda _, y: y * 0.17,
                    lambda _, y: y / 6,
                    lambda _, y: 2 * y,
                    lambda _, y: y.mul(-0.2),
                    lambda m, y: y * m.fixed,
                    lambda m, y: m.fixed.exp() * y,
                )
            ),
            (scaled, MAP, False),
            (
                lambda: scaled(
                    4,
                    view=(4, 1, 1),
                    scale=lambda m, x, g: m.path(m.noise(m.bn(m.conv(x))) * g),
                    noise=nn.Dropout(0.5),
                    path=DropPath(0.5),
                ),
                MAP,
                True,
            ),
        )
    ),
    Case(
        ConvAddReLUPattern,
        lambda: plain(
            lambda m, x: m.act(m.conv(x) * m.gamma + x), gamma=nn.Parameter(torch.randn(4, 1, 1))
        ),
        MAP,
        BOTH,
        "FusedConvBNAddReLU",
    ),
    Case(
        ConvBNAddPattern,
        lambda: scaled(4, 1, 1, scale=lambda m, x, g: g * m.bn(m.conv(x))),
        MAP,
        BOTH,
        "FusedConvBNAdd",
        near=(
            Near(lambda: scaled(6), _FACTOR),
            Near(lambda: scaled(1, 6, 6), _FACTOR),
            Near(lambda: scaled(2, 4, 1, 1), _FACTOR),
            Near(lambda: scaled(4, 1, 1, scale=lambda m, x, g: m.conv(x) * g * g)),
            Near(lambda: scaled(4, 1, 1, scale=lambda m, x, g: m.conv(x) / g)),
            Near(
                lambda: scaled(4, scale=lambda m, x, g: m.conv(x) * g.reshape(1, x.size(1), 1, 1))
            ),
            Near(lambda: scaled(4, 1, 1, scale=lambda m, x, g: m.conv(x) * g.exp())),
            Near(
                lambda: scaled(4, 1, 1, scale=lambda m, x, g: (y := m.conv(x)) * g + y),
                "the output of its conv 'conv' is",
            ),
        ),
    ),
)

ACTIVATION_ADD = (
    *(
        Case(ConvBNReLUAddPattern, make, inputs, BOTH, "FusedConvBNReLUAdd", random=random)
        for make, inputs, random in (
            (lambda: block(lambda m, x: x + F.silu(m.bn(m.conv(x)))), MAP, False),
            (lambda: plain(lambda m, x: m.act(m.conv(x)) + x, dims=3), CUBE, False),
            (
                lambda: block(
                    lambda m, x: m.noise(m.act(m.bn(m.conv(x)))) + x, noise=DropPath(0.5)
                ),
                MAP,
                True,
            ),
        )
    ),
    Case(
        ConvBNReLUAddPattern,
        lambda: block(lambda m, x: m.act(m.bn(m.conv(x))) + x),
        MAP,
        BOTH,
        "FusedConvBNReLUAdd",
        near=(
            Near(lambda: block(add)),
            Near(lambda: block(lambda m, x: torch.tanh(m.conv(x)) + x)),
            Near(
                lambda: block(lambda m, x: (y := m.act(m.conv(x))) + y),
                "the output of its activation 'act' is used twice",
            ),
            Near(lambda: block(lambda m, x: m.act(m.conv(x)) + x[:, :1]), _SPREAD),
            Near(lambda: block(lambda m, x: m.act(m.conv(x)) - x)),
            Near(
                lambda: block(
                    lambda m, x: m.act(m.conv(x)) + m.place, place=torch.randn(1, 4, 6, 6)
                ),
                "a tensor of the model",
            ),
        ),
    ),
)

ADD_ACTIVATION = (
    *(
        Case(ConvAddReLUPattern, make, inputs, BOTH, "FusedConvBNAddReLU", random=random)
        for make, inputs, random in (
            (lambda: block(lambda m, x: m.act(x + m.bn(m.conv(x))), dims=1), LINE, False),
            (lambda: plain(add_relu, dims=3), CUBE, False),
            (
                lambda: block(
                    lambda m, x: m.act(m.noise(m.bn(m.conv(x))) + x), noise=DropPath(0.5)
                ),
                MAP,
                True,
            ),
        )
    ),
    Case(
        ConvAddReLUPattern,
        lambda: plain(add_relu),
        MAP,
        BOTH,
        "FusedConvBNAddReLU",
        near=(
            Near(lambda: block(add)),
            Near(lambda: block(lambda m, x: torch.tanh(m.conv(x) + x))),
            Near(
                lambda: block(lambda m, x: (m.act(y := m.conv(x) + x), y)),
                "the output of its add 'add' is also used by 'output'",
            ),
            Near(lambda: block(lambda m, x: m.act(m.conv(x) + x[:, :1])), _SPREAD),
        ),
    ),
)

DEPTHWISE = (
    Case(
        FloatDepthwiseConvBNAddPattern,
        lambda: block(add, groups=4),
        MAP,
        (),
        "FusedConvBNAdd",
        near=(Near(lambda: block(add, groups=2)),),
    ),
    Case(
        FloatDepthwiseConvBNReLUAddPattern,
        lambda: block(lambda m, x: m.act(m.bn(m.conv(x))) + x, groups=4),
        MAP,
        (),
        "FusedConvBNReLUAdd",
        near=(Near(lambda: block(lambda m, x: m.act(m.bn(m.conv(x))) + x)),),
    ),
    Case(
        FloatDepthwiseConvAddReLUPattern,
        lambda: plain(add_relu, groups=4),
        MAP,
        (),
        "FusedConvBNAddReLU",
        near=(Near(lambda: plain(add_relu)),),
    ),
)


def linear(forward: Callable[..., Any], **parts: Any) -> nn.Module:
    return net(forward, linear=nn.Linear(6, 6), **parts)


LINEAR = (
    Case(
        LinearAddPattern,
        lambda: linear(lambda m, x: x + m.linear(x)),
        TOKENS,
        (QDQPoint.INPUT,),
        "FusedLinearAdd",
        near=(
            Near(lambda: linear(lambda m, x: m.drop(m.linear(x)) + x, drop=nn.Dropout(0.0))),
            Near(lambda: linear(lambda m, x: torch.relu(m.linear(x)) + x)),
            Near(
                lambda: linear(lambda m, x: m.linear(x) + m.place, place=torch.randn(5, 6)),
                "a tensor of the model",
            ),
            Near(lambda: linear(lambda m, x: m.linear(x) + x[:, :1]), _SPREAD),
            Near(lambda: net(lambda m, x: m.linear(x) + x, linear=DoubledLinear(6, 6))),
            Near(
                lambda: linear(lambda m, x: (y := m.linear(x)) + y.tanh()),
                "the output of its linear 'linear' is also used by 'tanh'",
            ),
        ),
    ),
    Case(
        LinearAddPattern,
        lambda: linear(lambda m, x: m.linear(x) + torch.tanh(x)),
        rand((7, 6)),
        (QDQPoint.INPUT,),
        "FusedLinearAdd",
        example=False,
    ),
)

CASES = (*ADD, *LAYER_SCALE, *ACTIVATION_ADD, *ADD_ACTIVATION, *DEPTHWISE, *LINEAR)
