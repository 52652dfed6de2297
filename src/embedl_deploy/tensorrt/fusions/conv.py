"""Convolutions and what TensorRT runs in their kernel.

NVIDIA's guide: quantize the inputs of weighted layers, put nothing between convolution, batch
norm and activation, and quantize the residual input of an addition, so that convolution,
addition and activation become one INT8 kernel (Developer Guide, "Explicit Quantization").
"""

from typing import ClassVar

from torch import nn

from embedl_deploy.modules import (
    FusedConvBN,
    FusedConvBNAddReLU,
    FusedConvBNReLU,
    FusedConvBNReLUMaxPool,
)
from embedl_deploy.patterns import (
    ACTIVATION,
    ADD,
    BATCH_NORM2D,
    CONV2D,
    MAX_POOL2D,
    QDQPoint,
    Site,
    chain,
    fork,
    hole,
    optional,
)
from embedl_deploy.tensorrt.fusions.groups import ConvolutionPattern, no_statistics
from embedl_deploy.tensorrt.fusions.residual import no_residual

_STEM_CONV = CONV2D.where(lambda conv: conv.in_channels == 3 and conv.kernel_size == (7, 7))


class StemConvBNReLUMaxPoolPattern(ConvolutionPattern):
    """The stem of a network: 7×7 convolution of an image, batch norm, activation, max pooling."""

    tree = chain(_STEM_CONV, optional(BATCH_NORM2D), ACTIVATION, MAX_POOL2D)
    qdq_points: ClassVar[tuple[QDQPoint, ...]] = (QDQPoint.INPUT,)

    def build(
        self,
        conv: nn.Conv2d,
        batch_norm: nn.BatchNorm2d | None,
        activation: nn.Module,
        pool: nn.MaxPool2d,
    ) -> FusedConvBNReLUMaxPool:
        return FusedConvBNReLUMaxPool(conv, batch_norm, activation, pool)


class ConvBNAddReLUPattern(ConvolutionPattern):
    """The end of a residual block: convolution, batch norm, addition, activation."""

    tree = chain(fork(ADD, chain(CONV2D, BATCH_NORM2D), hole("residual")), ACTIVATION)
    qdq_points: ClassVar[tuple[QDQPoint, ...]] = (QDQPoint.INPUT, QDQPoint.RESIDUAL_INPUT)

    def refuse(self, batch_norm: nn.BatchNorm2d, site: Site) -> str | None:
        return no_statistics(batch_norm) or no_residual(site)

    def build(
        self, conv: nn.Conv2d, batch_norm: nn.BatchNorm2d, activation: nn.Module
    ) -> FusedConvBNAddReLU:
        return FusedConvBNAddReLU(conv, batch_norm, activation)


class ConvBNReLUPattern(ConvolutionPattern):
    """Convolution, optional batch norm, activation."""

    tree = chain(CONV2D, optional(BATCH_NORM2D), ACTIVATION)
    qdq_points: ClassVar[tuple[QDQPoint, ...]] = (QDQPoint.INPUT,)

    def build(
        self, conv: nn.Conv2d, batch_norm: nn.BatchNorm2d | None, activation: nn.Module
    ) -> FusedConvBNReLU:
        return FusedConvBNReLU(conv, batch_norm, activation)


_ALONE = (
    "no convolution is before it; TensorRT runs it as a scale layer in floating point, in one "
    "kernel with the activation after it"
)


class ConvBNPattern(ConvolutionPattern):
    """Convolution and optional batch norm."""

    tree = chain(CONV2D, optional(BATCH_NORM2D.escaping(_ALONE)))
    qdq_points: ClassVar[tuple[QDQPoint, ...]] = (QDQPoint.INPUT,)

    def build(self, conv: nn.Conv2d, batch_norm: nn.BatchNorm2d | None) -> FusedConvBN:
        return FusedConvBN(conv, batch_norm)
