"""A pattern of your own: depthwise convolutions stay in floating point.

A depthwise convolution moves much memory for little arithmetic, so INT8 gains little there. Run
`python -m examples.write_your_own_pattern` to see what the pattern changes on a mobile network.
"""

from __future__ import annotations

import torch
from torch import nn

from embedl_deploy import Result, transform
from embedl_deploy.patterns import ACTIVATION, BATCH_NORM2D, CONV2D, Pattern, chain, optional
from embedl_deploy.quantize import QuantStub, insert_qdq
from embedl_deploy.tensorrt import TENSORRT_PATTERNS, ConvBNReLUPattern
from examples.digits.models import MobileNet

DEPTHWISE = CONV2D.where(lambda conv: conv.groups == conv.in_channels > 1)


class FloatDepthwisePattern(ConvBNReLUPattern):
    """The same tree where the convolution is depthwise; fused as ever, and not quantized."""

    tree = chain(DEPTHWISE, optional(BATCH_NORM2D), ACTIVATION)
    qdq_points = ()


MY_PATTERNS: tuple[type[Pattern], ...] = (FloatDepthwisePattern, *TENSORRT_PATTERNS)
"""The first pattern that fits wins, so yours stands before the one it takes over from."""


def main() -> None:
    """Print what the pattern matched and which Q/DQ points are gone."""
    model, example = MobileNet().eval(), torch.zeros(1, 1, 16, 16)
    before = transform(model, (example,))
    after = transform(model, (example,), patterns=MY_PATTERNS)
    print(after)
    print(f"\nQ/DQ points: {len(points(before))}, with FloatDepthwisePattern {len(points(after))}")
    for point in sorted(points(before) - points(after)):
        print(f"  no longer quantized: {point}")


def points(result: Result) -> set[str]:
    """Where the stubs of a result are put, as text such as `"features.0 INPUT"`."""
    modules: list[nn.Module] = list(insert_qdq(result).modules())
    return {point for one in modules if isinstance(one, QuantStub) for point in one.points}


if __name__ == "__main__":
    main()
