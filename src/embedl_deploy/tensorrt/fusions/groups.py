"""Grouped convolutions that have no INT8 kernel."""

from embedl_deploy.modules.conv import Convolution
from embedl_deploy.patterns import Pattern

_MULTIPLE = 4


class ConvolutionPattern(Pattern):
    """A pattern around a convolution, which stays in floating point where its groups are too small.

    An INT8 convolution needs a multiple of 4 input and output channels in each group
    (`IConvolutionLayer::setNbGroups` in NvInfer.h, 11.1). A depthwise convolution has one, and is
    reported to run in INT8 all the same; the mixed-precision list leaves it out.
    """

    def keep_float(self, conv: Convolution) -> str | None:
        inside = conv.in_channels // conv.groups, conv.out_channels // conv.groups
        if conv.groups in {1, conv.in_channels} or not any(one % _MULTIPLE for one in inside):
            return None
        return (
            f"its groups have {inside[0]} input and {inside[1]} output channels; INT8 kernels take "
            f"multiples of {_MULTIPLE}"
        )
