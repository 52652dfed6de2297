"""Convolutions in other than two dimensions, and transposed ones.

They are weighted layers like the convolution of two dimensions: input and weight are quantized,
and nothing is between them, batch norm and activation.
"""

from typing import ClassVar

from torch import nn

from embedl_deploy.modules import (
    FusedConvBN,
    FusedConvBNReLU,
    FusedConvTransposeBN,
    FusedConvTransposeBNReLU,
)
from embedl_deploy.modules.conv import BatchNorm, Convolution, TransposedConvolution
from embedl_deploy.patterns import (
    ACTIVATION,
    BATCH_NORM,
    CONV,
    CONV_TRANSPOSE,
    Pattern,
    QDQPoint,
    Site,
    chain,
    optional,
)
from embedl_deploy.tensorrt.fusions.groups import ConvolutionPattern, no_statistics


def _unbatched(
    conv: Convolution | TransposedConvolution, batch_norm: BatchNorm | None, site: Site
) -> str | None:
    """`BatchNorm1d` takes two dimensions as batch and channels, `Conv1d` as channels and length."""
    if batch_norm is None:
        return None
    shape = site.input_shape("batch_norm")
    if conv.out_channels == batch_norm.num_features and (shape is None or len(shape) > 2):
        return None
    return "without a batch dimension the norm is not over the channels of the convolution"


class ConvNdBNReLUPattern(ConvolutionPattern):
    """Convolution in any number of dimensions, optional batch norm, activation."""

    tree = chain(CONV, optional(BATCH_NORM), ACTIVATION)
    qdq_points: ClassVar[tuple[QDQPoint, ...]] = (QDQPoint.INPUT,)

    def refuse(self, conv: Convolution, batch_norm: BatchNorm | None, site: Site) -> str | None:
        return no_statistics(batch_norm) or _unbatched(conv, batch_norm, site)

    def build(
        self, conv: Convolution, batch_norm: BatchNorm | None, activation: nn.Module
    ) -> FusedConvBNReLU:
        return FusedConvBNReLU(conv, batch_norm, activation)


class ConvNdBNPattern(ConvolutionPattern):
    """Convolution in any number of dimensions and optional batch norm."""

    tree = chain(CONV, optional(BATCH_NORM))
    qdq_points: ClassVar[tuple[QDQPoint, ...]] = (QDQPoint.INPUT,)

    def refuse(self, conv: Convolution, batch_norm: BatchNorm | None, site: Site) -> str | None:
        return no_statistics(batch_norm) or _unbatched(conv, batch_norm, site)

    def build(self, conv: Convolution, batch_norm: BatchNorm | None) -> FusedConvBN:
        return FusedConvBN(conv, batch_norm)


def _grouped(conv: TransposedConvolution) -> str | None:
    if conv.groups == 1:
        return None
    return (
        f"a transposed convolution with {conv.groups} groups has no weight scale for each output "
        "channel: NVIDIA documents scales along dimension 1, which the groups share"
    )


class ConvTransposeBNReLUPattern(Pattern):
    """Transposed convolution, optional batch norm, activation."""

    tree = chain(CONV_TRANSPOSE, optional(BATCH_NORM), ACTIVATION)
    qdq_points: ClassVar[tuple[QDQPoint, ...]] = (QDQPoint.INPUT,)

    def refuse(
        self, conv: TransposedConvolution, batch_norm: BatchNorm | None, site: Site
    ) -> str | None:
        return _grouped(conv) or no_statistics(batch_norm) or _unbatched(conv, batch_norm, site)

    def build(
        self, conv: TransposedConvolution, batch_norm: BatchNorm | None, activation: nn.Module
    ) -> FusedConvTransposeBNReLU:
        return FusedConvTransposeBNReLU(conv, batch_norm, activation)


class ConvTransposeBNPattern(Pattern):
    """Transposed convolution and optional batch norm."""

    tree = chain(CONV_TRANSPOSE, optional(BATCH_NORM))
    qdq_points: ClassVar[tuple[QDQPoint, ...]] = (QDQPoint.INPUT,)

    def refuse(
        self, conv: TransposedConvolution, batch_norm: BatchNorm | None, site: Site
    ) -> str | None:
        return _grouped(conv) or no_statistics(batch_norm) or _unbatched(conv, batch_norm, site)

    def build(
        self, conv: TransposedConvolution, batch_norm: BatchNorm | None
    ) -> FusedConvTransposeBN:
        return FusedConvTransposeBN(conv, batch_norm)
