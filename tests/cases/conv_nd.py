"""Convolutions in one and three dimensions, and transposed ones."""

from torch import nn

from embedl_deploy.patterns import QDQPoint
from embedl_deploy.tensorrt.fusions.conv_nd import (
    ConvNdBNPattern,
    ConvNdBNReLUPattern,
    ConvTransposeBNPattern,
    ConvTransposeBNReLUPattern,
)
from embedl_deploy.tensorrt.mixed import (
    FloatDepthwiseConvNdBNPattern,
    FloatDepthwiseConvNdBNReLUPattern,
)
from tests.cases.case import Case, Near, hooked, rand
from tests.helpers import net

INPUT = (QDQPoint.INPUT,)
LINE = rand((2, 4, 6))
MAP = rand((2, 4, 5, 5))
CUBE = rand((2, 4, 3, 3, 3))
CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
DIMENSIONS = tuple(zip(CONVS, TRANSPOSED, NORMS, (LINE, MAP, CUBE), strict=True))

_BATCH = "without a batch dimension"

CONV = (
    *(
        Case(
            ConvNdBNReLUPattern,
            lambda conv=conv, norm=norm: nn.Sequential(  # type: ignore[misc]
                conv(4, 6, 3, padding=1), norm(6), nn.GELU(), conv(6, 3, 2, bias=False), nn.ReLU()
            ),
            inputs,
            INPUT,
            "FusedConvBNReLU",
            count=2,
        )
        for conv, _, norm, inputs in DIMENSIONS
    ),
    *(
        Case(
            ConvNdBNPattern,
            lambda conv=conv, norm=norm: nn.Sequential(  # type: ignore[misc]
                conv(4, 8, 3, padding="same"), norm(8, affine=False), conv(8, 8, 2, groups=2)
            ),
            inputs,
            INPUT,
            "FusedConvBN",
            count=2,
        )
        for conv, _, norm, inputs in DIMENSIONS
    ),
    Case(
        ConvNdBNReLUPattern,
        lambda: nn.Sequential(
            nn.Conv1d(4, 4, 3, padding=1, padding_mode="circular"), nn.BatchNorm1d(4), nn.SiLU()
        ),
        LINE,
        INPUT,
        "FusedConvBNReLU",
        example=False,
        near=(
            Near(
                lambda: nn.Sequential(nn.Conv1d(4, 6, 1), nn.BatchNorm1d(6), nn.ReLU()),
                _BATCH,
                rand((4, 6)),
            ),
            Near(
                lambda: nn.Sequential(nn.Conv1d(4, 5, 1), nn.BatchNorm1d(6), nn.ReLU()),
                _BATCH,
                rand((4, 6)),
                example=False,
            ),
            Near(lambda: nn.Sequential(nn.Conv1d(4, 4, 3), nn.Tanh())),
            Near(lambda: nn.Sequential(nn.ConvTranspose1d(4, 4, 3), nn.ReLU())),
        ),
    ),
    Case(
        ConvNdBNPattern,
        lambda: nn.Sequential(nn.Conv1d(4, 4, 1), nn.BatchNorm1d(4)),
        LINE,
        INPUT,
        "FusedConvBN",
        near=(
            Near(lambda: nn.Sequential(nn.ConvTranspose1d(4, 4, 3))),
            Near(lambda: nn.Sequential(hooked(nn.Conv1d(4, 4, 3))), "'0' has hooks"),
            Near(lambda: net(lambda m, x: m.linear(x), linear=nn.Linear(6, 6))),
        ),
    ),
)

UP = (
    *(
        Case(
            ConvTransposeBNReLUPattern,
            lambda up=up, norm=norm: nn.Sequential(  # type: ignore[misc]
                up(4, 6, 2, stride=2), norm(6), nn.ReLU(), up(6, 3, 3, padding=1), nn.GELU()
            ),
            inputs,
            INPUT,
            "FusedConvTransposeBNReLU",
            count=2,
        )
        for _, up, norm, inputs in DIMENSIONS
    ),
    *(
        Case(
            ConvTransposeBNPattern,
            lambda up=up, norm=norm: nn.Sequential(  # type: ignore[misc]
                up(4, 6, 3, 2, 1, 1, bias=False), norm(6), up(6, 3, 2, dilation=2), nn.Tanh()
            ),
            inputs,
            INPUT,
            "FusedConvTransposeBN",
            count=2,
        )
        for _, up, norm, inputs in DIMENSIONS
    ),
    Case(
        ConvTransposeBNReLUPattern,
        lambda: net(
            lambda m, x: m.act(m.up(x, output_size=(2, 3, 9, 8))),
            up=nn.ConvTranspose2d(4, 3, 2, stride=2, padding=1),
            act=nn.ReLU(),
        ),
        MAP,
        INPUT,
        "FusedConvTransposeBNReLU",
        near=(
            Near(
                lambda: nn.Sequential(nn.ConvTranspose2d(4, 6, 2, groups=2), nn.ReLU()),
                "2 groups",
            ),
            Near(
                lambda: nn.Sequential(nn.ConvTranspose1d(4, 6, 1), nn.BatchNorm1d(6), nn.ReLU()),
                _BATCH,
                rand((4, 6)),
            ),
            Near(lambda: nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU())),
        ),
    ),
    Case(
        ConvTransposeBNPattern,
        lambda: net(
            lambda m, x: (m.up(x), m.sized(x, [9, 8])),
            up=nn.ConvTranspose2d(4, 3, 2, stride=2, padding=1),
            sized=nn.ConvTranspose2d(4, 3, 2, stride=2, padding=1),
        ),
        MAP,
        INPUT,
        "FusedConvTransposeBN",
        count=2,
        near=(
            Near(lambda: nn.Sequential(nn.ConvTranspose2d(4, 4, 2, groups=4)), "4 groups"),
            Near(lambda: nn.Sequential(hooked(nn.ConvTranspose2d(4, 4, 2))), "'0' has hooks"),
            Near(lambda: nn.Sequential(nn.Conv2d(4, 4, 2))),
        ),
    ),
)

DEPTHWISE = (
    Case(
        FloatDepthwiseConvNdBNReLUPattern,
        lambda: nn.Sequential(nn.Conv1d(4, 4, 3, groups=4), nn.BatchNorm1d(4), nn.SiLU()),
        LINE,
        (),
        "FusedConvBNReLU",
        near=(Near(lambda: nn.Sequential(nn.Conv1d(4, 4, 3, groups=2), nn.SiLU())),),
    ),
    Case(
        FloatDepthwiseConvNdBNPattern,
        lambda: nn.Sequential(nn.Conv3d(4, 8, 2, groups=4), nn.BatchNorm3d(8)),
        CUBE,
        (),
        "FusedConvBN",
        near=(Near(lambda: nn.Sequential(nn.Conv3d(4, 4, 2))),),
    ),
)

CASES = (*CONV, *UP, *DEPTHWISE)
