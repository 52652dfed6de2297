"""Ready-made choices of what stays in floating point: patterns that declare no Q/DQ points.

They are what a user would write: the tree of a built-in pattern, perhaps under one more
condition, an empty `qdq_points`, and a place before the pattern they take over from.
"""

from torch import nn

from embedl_deploy.patterns import (
    ACTIVATION,
    ADD,
    BATCH_NORM2D,
    CONV2D,
    Pattern,
    chain,
    fork,
    hole,
    optional,
)
from embedl_deploy.tensorrt.fusions.conv import (
    ConvBNAddReLUPattern,
    ConvBNPattern,
    ConvBNReLUPattern,
)
from embedl_deploy.tensorrt.fusions.simple import AdaptiveAvgPoolPattern


def is_depthwise(conv: nn.Conv2d) -> bool:
    """Whether every input channel has filters of its own: bound by memory, not arithmetic."""
    return conv.groups == conv.in_channels > 1


DEPTHWISE = CONV2D.where(is_depthwise)


class FloatAdaptiveAvgPoolPattern(AdaptiveAvgPoolPattern):
    """Average pooling in floating point: it is bound by memory, and Q/DQ costs reformatting."""

    qdq_points = ()


class FloatDepthwiseConvBNAddReLUPattern(ConvBNAddReLUPattern):
    """The end of a residual block in floating point where its convolution is depthwise."""

    tree = chain(fork(ADD, chain(DEPTHWISE, BATCH_NORM2D), hole("residual")), ACTIVATION)
    qdq_points = ()


class FloatDepthwiseConvBNReLUPattern(ConvBNReLUPattern):
    """A depthwise convolution with activation in floating point."""

    tree = chain(DEPTHWISE, optional(BATCH_NORM2D), ACTIVATION)
    qdq_points = ()


class FloatDepthwiseConvBNPattern(ConvBNPattern):
    """A depthwise convolution in floating point."""

    tree = chain(DEPTHWISE, optional(BATCH_NORM2D))
    qdq_points = ()


SMART: tuple[type[Pattern], ...] = (FloatAdaptiveAvgPoolPattern,)

MIXED: tuple[type[Pattern], ...] = (
    FloatDepthwiseConvBNAddReLUPattern,
    FloatDepthwiseConvBNReLUPattern,
    FloatDepthwiseConvBNPattern,
    *SMART,
)
