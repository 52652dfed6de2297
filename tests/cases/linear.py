"""Linear layers and kernels of one operation."""

import torch
import torch.nn.functional as F
from torch import nn

from embedl_deploy.patterns import ACTIVATIONS, QDQPoint
from embedl_deploy.tensorrt.fusions.linear import (
    LinearBNPattern,
    LinearBNReLUPattern,
    LinearPattern,
    LinearReLUPattern,
)
from embedl_deploy.tensorrt.fusions.simple import (
    AdaptiveAvgPoolPattern,
    GroupNormPattern,
    InstanceNormPattern,
    LayerNormPattern,
    RMSNormPattern,
)
from embedl_deploy.tensorrt.mixed import FloatAdaptiveAvgPoolPattern
from tests.cases.case import Case, DoubledLinear, Near, hooked, rand
from tests.helpers import net

INPUT = (QDQPoint.INPUT,)
TOKENS = rand((2, 5, 6))
MAP = rand((2, 3, 8, 8))


def weight(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape))


LINEAR = (
    *(
        Case(
            LinearReLUPattern,
            lambda kind=kind: nn.Sequential(nn.Linear(6, 4), kind()),  # type: ignore[misc]
            TOKENS,
            INPUT,
            "FusedLinearReLU",
        )
        for kind in ACTIVATIONS
    ),
    Case(
        LinearReLUPattern,
        lambda: nn.Sequential(nn.Linear(6, 4, bias=False), nn.GELU(), nn.Linear(4, 3), nn.ReLU()),
        rand((7, 6)),
        INPUT,
        "FusedLinearReLU",
        count=2,
        near=(
            Near(lambda: nn.Sequential(nn.Linear(6, 4))),
            Near(lambda: nn.Sequential(nn.Linear(6, 4), nn.Sigmoid())),
            Near(lambda: nn.Sequential(nn.Linear(6, 4), nn.LayerNorm(4), nn.ReLU())),
            Near(lambda: nn.Sequential(DoubledLinear(6, 4), nn.ReLU())),
            Near(lambda: nn.Sequential(hooked(nn.Linear(6, 4)), nn.ReLU()), "'0' has hooks"),
            Near(
                lambda: net(lambda m, x: F.gelu(y := m.linear(x)) * y, linear=nn.Linear(6, 4)),
                "the output of its linear 'linear' is also used by 'mul'",
            ),
        ),
    ),
    Case(
        LinearPattern,
        lambda: net(
            lambda m, x: F.linear(m.linear(x), m.weight).softmax(-1),
            linear=nn.Linear(6, 4),
            weight=weight(3, 4),
        ),
        TOKENS,
        INPUT,
        "FusedLinear",
        count=2,
        near=(
            Near(lambda: nn.Sequential(DoubledLinear(6, 4))),
            Near(lambda: nn.Sequential(nn.Conv1d(5, 4, 1))),
            Near(lambda: net(lambda m, x: x @ m.weight, weight=weight(6, 4))),
            Near(lambda: nn.Sequential(hooked(nn.Linear(6, 4))), "'0' has hooks"),
        ),
    ),
)

_TWO = "pass example inputs"
_FEATURES = "not over the features of the linear layer"

BATCH_NORM = (
    Case(
        LinearBNReLUPattern,
        lambda: nn.Sequential(
            nn.Linear(6, 4, bias=False),
            nn.BatchNorm1d(4, affine=False),
            nn.ReLU(),
            nn.Linear(4, 3),
            nn.BatchNorm1d(3),
            nn.GELU(),
        ),
        rand((7, 6)),
        INPUT,
        "FusedLinearBNReLU",
        count=2,
        near=(
            Near(lambda: nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Tanh())),
            Near(lambda: nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.BatchNorm1d(4))),
            Near(
                lambda: nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU()),
                _FEATURES,
                TOKENS,
            ),
            Near(
                lambda: nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.ReLU()),
                _TWO,
                example=False,
            ),
        ),
    ),
    Case(
        LinearBNPattern,
        lambda: nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Linear(4, 3)),
        rand((7, 6)),
        INPUT,
        "FusedLinearBN",
        near=(
            Near(lambda: nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(5)), _FEATURES, TOKENS),
            Near(
                lambda: net(
                    lambda m, x: m.norm(y := m.linear(x)) * y,
                    linear=nn.Linear(6, 4),
                    norm=nn.BatchNorm1d(4),
                ),
                "the output of its linear 'linear' is also used by 'mul'",
            ),
            Near(lambda: nn.Sequential(nn.Linear(6, 4), nn.LayerNorm(4))),
        ),
    ),
)

NORM = (
    Case(
        LayerNormPattern,
        lambda: net(
            lambda m, x: F.layer_norm(m.norm(x), (6,), m.weight, m.shift),
            norm=nn.LayerNorm((5, 6), eps=0.1),
            weight=weight(6),
            shift=weight(6),
        ),
        TOKENS,
        (),
        "FusedLayerNorm",
        count=2,
        near=(
            Near(lambda: nn.Sequential(nn.GroupNorm(5, 5))),
            Near(lambda: nn.Sequential(nn.RMSNorm(6))),
            Near(lambda: net(lambda m, x: F.layer_norm(x, (6,), m.weight * 2), weight=weight(6))),
            Near(lambda: net(lambda m, x: F.layer_norm(x, (6,), None, m.shift), shift=weight(6))),
        ),
    ),
    Case(
        LayerNormPattern,
        lambda: nn.Sequential(
            nn.LayerNorm(6, elementwise_affine=False), nn.LayerNorm(6, bias=False)
        ),
        TOKENS,
        (),
        "FusedLayerNorm",
        count=2,
    ),
)

OTHER_NORMS = (
    Case(
        GroupNormPattern,
        lambda: nn.Sequential(nn.GroupNorm(3, 6), nn.Tanh(), nn.GroupNorm(1, 6, affine=False)),
        rand((2, 6, 4, 4)),
        (),
        "FusedGroupNorm",
        count=2,
        near=(Near(lambda: nn.Sequential(hooked(nn.GroupNorm(3, 6))), "'0' has hooks"),),
    ),
    *(
        Case(
            InstanceNormPattern,
            lambda kind=kind, options=options: nn.Sequential(kind(3, **options)),  # type: ignore[misc]
            inputs,
            (),
            "FusedInstanceNorm",
            near=(Near(lambda: nn.Sequential(nn.GroupNorm(3, 3))),),
        )
        for kind, inputs in (
            (nn.InstanceNorm1d, rand((2, 3, 6))),
            (nn.InstanceNorm2d, MAP),
            (nn.InstanceNorm3d, rand((2, 3, 4, 4, 4))),
        )
        for options in ({}, {"affine": True, "track_running_stats": True})
    ),
    Case(
        RMSNormPattern,
        lambda: nn.Sequential(
            nn.RMSNorm(6), nn.Tanh(), nn.RMSNorm((5, 6), elementwise_affine=False)
        ),
        TOKENS,
        (),
        "FusedRMSNorm",
        count=2,
        near=(Near(lambda: nn.Sequential(nn.LayerNorm(6))),),
    ),
)

POOL = (
    Case(
        AdaptiveAvgPoolPattern,
        lambda: net(
            lambda m, x: (
                m.pool(x),
                F.adaptive_avg_pool2d(x, 2),
                F.adaptive_avg_pool2d(x, (None, 3)),
            ),
            pool=nn.AdaptiveAvgPool2d((1, 2)),
        ),
        MAP,
        (QDQPoint.INPUT, QDQPoint.OUTPUT),
        "FusedAdaptiveAvgPool2d",
        count=3,
        near=(
            Near(lambda: nn.Sequential(nn.AdaptiveMaxPool2d(1))),
            Near(lambda: nn.Sequential(nn.AvgPool2d(8))),
            Near(lambda: nn.Sequential(nn.AdaptiveAvgPool1d(1)), inputs=rand((2, 3, 8))),
            Near(lambda: net(lambda _, x: F.adaptive_avg_pool2d(x, x.shape[2] // 2))),
        ),
    ),
    Case(
        FloatAdaptiveAvgPoolPattern,
        lambda: nn.Sequential(nn.AdaptiveAvgPool2d(1)),
        MAP,
        (),
        "FusedAdaptiveAvgPool2d",
    ),
)

CASES = (*LINEAR, *BATCH_NORM, *NORM, *OTHER_NORMS, *POOL)
