"""Ready-made choices of what stays in floating point: patterns that declare no Q/DQ points.

They are what a user would write: the tree of a built-in pattern, perhaps under one more
condition, an empty `qdq_points`, and a place before the pattern they take over from.
"""

from embedl_deploy.modules.conv import Convolution
from embedl_deploy.patterns import Pattern, narrow
from embedl_deploy.tensorrt.fusions.conv import (
    ConvBNAddReLUPattern,
    ConvBNPattern,
    ConvBNReLUPattern,
)
from embedl_deploy.tensorrt.fusions.conv_nd import ConvNdBNPattern, ConvNdBNReLUPattern
from embedl_deploy.tensorrt.fusions.residual import (
    ConvAddReLUPattern,
    ConvBNAddPattern,
    ConvBNReLUAddPattern,
)
from embedl_deploy.tensorrt.fusions.simple import AdaptiveAvgPoolPattern


def is_depthwise(conv: Convolution) -> bool:
    """Whether every input channel has filters of its own: bound by memory, not arithmetic."""
    return conv.groups == conv.in_channels > 1


class FloatAdaptiveAvgPoolPattern(AdaptiveAvgPoolPattern):
    """Average pooling in floating point: it is bound by memory, and Q/DQ costs reformatting."""

    qdq_points = ()


class FloatDepthwiseConvBNAddReLUPattern(ConvBNAddReLUPattern):
    """The end of a residual block in floating point where its convolution is depthwise."""

    tree = narrow(ConvBNAddReLUPattern.tree, "conv", is_depthwise)
    qdq_points = ()


class FloatDepthwiseConvAddReLUPattern(ConvAddReLUPattern):
    """The same without batch norm, or not in two dimensions."""

    tree = narrow(ConvAddReLUPattern.tree, "conv", is_depthwise)
    qdq_points = ()


class FloatDepthwiseConvBNReLUPattern(ConvBNReLUPattern):
    """A depthwise convolution with activation in floating point."""

    tree = narrow(ConvBNReLUPattern.tree, "conv", is_depthwise)
    qdq_points = ()


class FloatDepthwiseConvNdBNReLUPattern(ConvNdBNReLUPattern):
    """The same in any number of dimensions."""

    tree = narrow(ConvNdBNReLUPattern.tree, "conv", is_depthwise)
    qdq_points = ()


class FloatDepthwiseConvBNAddPattern(ConvBNAddPattern):
    """A depthwise convolution with a residual in floating point."""

    tree = narrow(ConvBNAddPattern.tree, "conv", is_depthwise)
    qdq_points = ()


class FloatDepthwiseConvBNReLUAddPattern(ConvBNReLUAddPattern):
    """A depthwise convolution with activation and residual in floating point."""

    tree = narrow(ConvBNReLUAddPattern.tree, "conv", is_depthwise)
    qdq_points = ()


class FloatDepthwiseConvBNPattern(ConvBNPattern):
    """A depthwise convolution in floating point."""

    tree = narrow(ConvBNPattern.tree, "conv", is_depthwise)
    qdq_points = ()


class FloatDepthwiseConvNdBNPattern(ConvNdBNPattern):
    """The same in any number of dimensions."""

    tree = narrow(ConvNdBNPattern.tree, "conv", is_depthwise)
    qdq_points = ()


SMART: tuple[type[Pattern], ...] = (FloatAdaptiveAvgPoolPattern,)

MIXED: tuple[type[Pattern], ...] = (
    FloatDepthwiseConvBNAddReLUPattern,
    FloatDepthwiseConvAddReLUPattern,
    FloatDepthwiseConvBNReLUAddPattern,
    FloatDepthwiseConvBNReLUPattern,
    FloatDepthwiseConvNdBNReLUPattern,
    FloatDepthwiseConvBNAddPattern,
    FloatDepthwiseConvBNPattern,
    FloatDepthwiseConvNdBNPattern,
    *SMART,
)
