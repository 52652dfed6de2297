"""Kernels of one operation.

Norms stay in floating point: they are bound by memory, and INT8 would cost accuracy.
"""

from typing import ClassVar

from torch import nn

from embedl_deploy.modules import (
    FusedAdaptiveAvgPool2d,
    FusedGroupNorm,
    FusedInstanceNorm,
    FusedLayerNorm,
    FusedRMSNorm,
)
from embedl_deploy.patterns import (
    ADAPTIVE_AVG_POOL2D,
    GROUP_NORM,
    INSTANCE_NORM,
    LAYER_NORM,
    RMS_NORM,
    Pattern,
    QDQPoint,
)


class LayerNormPattern(Pattern):
    """Layer norm; element-wise, fast in floating point, and INT8 would cost accuracy."""

    tree = LAYER_NORM

    def build(self, layer_norm: nn.LayerNorm) -> FusedLayerNorm:
        return FusedLayerNorm(layer_norm)


class GroupNormPattern(Pattern):
    """Group norm, in floating point."""

    tree = GROUP_NORM

    def build(self, group_norm: nn.GroupNorm) -> FusedGroupNorm:
        return FusedGroupNorm(group_norm)


class InstanceNormPattern(Pattern):
    """Instance norm, in floating point; NVIDIA's own tool leaves it unquantized."""

    tree = INSTANCE_NORM

    def build(self, instance_norm: nn.Module) -> FusedInstanceNorm:
        return FusedInstanceNorm(instance_norm)


class RMSNormPattern(Pattern):
    """Root-mean-square norm, in floating point."""

    tree = RMS_NORM

    def build(self, rms_norm: nn.RMSNorm) -> FusedRMSNorm:
        return FusedRMSNorm(rms_norm)


class AdaptiveAvgPoolPattern(Pattern):
    """Average pooling; a layer without weights needs INT8 output for INT8 input."""

    tree = ADAPTIVE_AVG_POOL2D
    qdq_points: ClassVar[tuple[QDQPoint, ...]] = (QDQPoint.INPUT, QDQPoint.OUTPUT)

    def build(self, pool: nn.AdaptiveAvgPool2d) -> FusedAdaptiveAvgPool2d:
        return FusedAdaptiveAvgPool2d(pool)
