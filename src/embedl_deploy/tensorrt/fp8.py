"""FP8 where TensorRT has kernels for it."""

import math
from dataclasses import replace
from functools import partial

from torch import nn

from embedl_deploy.modules.conv import Convolution, TransposedConvolution
from embedl_deploy.quantize import FixedObserver, QuantConfig, TensorQuantConfig


def lacks_fp8_kernel(_: str, module: nn.Module) -> bool:
    """Whether no fast FP8 kernel is known for a fused module; a choice for `QuantConfig.skip`.

    There are kernels for matrix products, additions to them, and convolutions in one group with
    more than 16 channels on both sides and a window of at most 32 (rule P20; release notes of
    TensorRT 10.12, and Model Optimizer). Pooling and transposed convolutions are not among them.
    """
    return any(map(_lacks, module.modules()))


def _lacks(operation: nn.Module) -> bool:
    if isinstance(operation, nn.AdaptiveAvgPool2d | TransposedConvolution):
        return True
    if not isinstance(operation, Convolution):
        return False
    narrow = min(operation.in_channels, operation.out_channels) <= 16
    return operation.groups > 1 or narrow or math.prod(operation.kernel_size) > 32


_E4M3 = TensorQuantConfig(format="float8_e4m3")

TENSORRT_FP8_CONFIG = QuantConfig(
    _E4M3,
    _E4M3,
    skip=(lacks_fp8_kernel,),
    attention="full",
    probabilities=replace(_E4M3, observer=partial(FixedObserver, 1.0)),
)
"""FP8 attention is recognised by a range of its probabilities up to 1 (rule P19)."""
