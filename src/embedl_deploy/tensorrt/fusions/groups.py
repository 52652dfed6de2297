"""What patterns of convolutions refuse, and what they leave in floating point."""

from collections.abc import Callable
from typing import ClassVar

from torch.nn.modules.batchnorm import _BatchNorm

from embedl_deploy.modules.conv import Convolution
from embedl_deploy.patterns import Pattern

_MULTIPLE = 4


def no_statistics(batch_norm: _BatchNorm | None) -> str | None:
    """Why a batch norm cannot be folded into the weight before it, if it cannot."""
    if batch_norm is None or batch_norm.running_mean is not None:
        return None
    return (
        "its batch norm keeps no running statistics, so it cannot be folded and is computed in "
        "floating point; build it with track_running_stats=True"
    )


class ConvolutionPattern(Pattern):
    """A pattern around a convolution, which stays in floating point where its groups are too small.

    An INT8 convolution needs a multiple of 4 input and output channels in each group
    (`IConvolutionLayer::setNbGroups` in NvInfer.h, 11.1). A depthwise convolution has one, and is
    reported to run in INT8 all the same; the mixed-precision list leaves it out.
    """

    refuse: ClassVar[Callable[..., str | None]] = lambda self, batch_norm: (  # noqa: ARG005
        no_statistics(batch_norm)
    )

    def keep_float(self, conv: Convolution) -> str | None:
        inside = conv.in_channels // conv.groups, conv.out_channels // conv.groups
        if conv.groups in {1, conv.in_channels} or not any(one % _MULTIPLE for one in inside):
            return None
        return (
            f"its groups have {inside[0]} input and {inside[1]} output channels; INT8 kernels take "
            f"multiples of {_MULTIPLE}"
        )
