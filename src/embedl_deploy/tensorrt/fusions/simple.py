"""Kernels of one operation."""

from typing import ClassVar

from torch import nn

from embedl_deploy.modules import FusedAdaptiveAvgPool2d, FusedLayerNorm
from embedl_deploy.patterns import ADAPTIVE_AVG_POOL2D, LAYER_NORM, Pattern, QDQPoint


class LayerNormPattern(Pattern):
    """Layer norm; element-wise, fast in floating point, and INT8 would cost accuracy."""

    tree = LAYER_NORM

    def build(self, layer_norm: nn.LayerNorm) -> FusedLayerNorm:
        return FusedLayerNorm(layer_norm)


class AdaptiveAvgPoolPattern(Pattern):
    """Average pooling; a layer without weights needs INT8 output for INT8 input."""

    tree = ADAPTIVE_AVG_POOL2D
    qdq_points: ClassVar[tuple[QDQPoint, ...]] = (QDQPoint.INPUT, QDQPoint.OUTPUT)

    def build(self, pool: nn.AdaptiveAvgPool2d) -> FusedAdaptiveAvgPool2d:
        return FusedAdaptiveAvgPool2d(pool)
