"""The ready-made lists fuse the same, and leave some of it in floating point."""

from collections import Counter

import pytest
import torch
from torch import nn
from torchvision.models import mobilenet_v2

from embedl_deploy import Result, transform
from embedl_deploy.patterns import FusedModule, Pattern
from embedl_deploy.tensorrt import (
    TENSORRT_MIXED_PRECISION_PATTERNS,
    TENSORRT_PATTERNS,
    TENSORRT_SMART_PATTERNS,
)
from tests.helpers import assert_same_eval, net, warm


def net_of_all() -> nn.Module:
    """Depthwise, grouped and full convolutions in all fused forms, and a global pool."""

    def conv(groups: int) -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, groups=groups), nn.BatchNorm2d(8))

    def forward(m: nn.Module, x: torch.Tensor) -> torch.Tensor:
        for block in m.blocks:  # type: ignore[union-attr]
            x = torch.relu(block[0](x) + x)
            x = torch.relu(block[1](x))
            x = block[2](x)
        return m.head(m.pool(x).flatten(1))  # type: ignore[operator]

    blocks = nn.ModuleList(nn.ModuleList(conv(groups) for _ in range(3)) for groups in (1, 2, 8))
    made: nn.Module = net(
        forward, blocks=blocks, pool=nn.AdaptiveAvgPool2d(1), head=nn.Linear(8, 3)
    )
    return warm(made).eval()


def points(result: Result) -> Counter[tuple[str, bool, int]]:
    """Fused modules by name, whether they are depthwise, and number of points."""
    found: Counter[tuple[str, bool, int]] = Counter()
    for module in result.model.modules():
        if isinstance(module, FusedModule):
            conv = getattr(module, "conv", None)
            depthwise = isinstance(conv, nn.Conv2d) and conv.groups == conv.in_channels
            found[type(module).__name__, depthwise, len(module.qdq_points)] += 1
    return found


FULL = {
    ("FusedConvBNAddReLU", False, 2): 2,
    ("FusedConvBNReLU", False, 1): 2,
    ("FusedConvBN", False, 1): 3,
}
QUANTIZED_DEPTHWISE = {
    ("FusedConvBNAddReLU", True, 2): 1,
    ("FusedConvBNReLU", True, 1): 1,
    ("FusedConvBN", True, 1): 1,
}
FLOAT_DEPTHWISE = {(name, deep, 0): count for (name, deep, _), count in QUANTIZED_DEPTHWISE.items()}
POOL = "FusedAdaptiveAvgPool2d"


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (TENSORRT_PATTERNS, {**FULL, **QUANTIZED_DEPTHWISE, (POOL, False, 2): 1}),
        (TENSORRT_SMART_PATTERNS, {**FULL, **QUANTIZED_DEPTHWISE, (POOL, False, 0): 1}),
        (TENSORRT_MIXED_PRECISION_PATTERNS, {**FULL, **FLOAT_DEPTHWISE, (POOL, False, 0): 1}),
    ],
)
def test_what_stays_in_floating_point(
    patterns: tuple[type[Pattern], ...], expected: dict[tuple[str, bool, int], int]
) -> None:
    model = net_of_all()
    args = (torch.randn(2, 8, 8, 8),)
    result = transform(model, args, patterns=patterns)
    assert points(result) == expected
    assert_same_eval(model, result, args)


def test_no_depthwise_convolution_of_mobilenet_is_quantized() -> None:
    result = transform(mobilenet_v2(), patterns=TENSORRT_MIXED_PRECISION_PATTERNS)
    found = points(result)
    assert sum(count for (_, depthwise, _), count in found.items() if depthwise) == 17
    floating = {(name, depthwise) for name, depthwise, number in found if not number}
    assert floating == {("FusedConvBNReLU", True), (POOL, False)}
