"""The kernels of attention."""

from typing import ClassVar

from embedl_deploy.modules import (
    FusedMHAInProjection,
    FusedScaledDotProductAttention,
    MHAInProjection,
    ScaledDotProductAttention,
)
from embedl_deploy.patterns import (
    MHA_IN_PROJECTION,
    SCALED_DOT_PRODUCT_ATTENTION,
    Pattern,
    QDQPoint,
)


class MHAInProjectionPattern(Pattern):
    """The input projections of multi-head attention."""

    tree = MHA_IN_PROJECTION
    qdq_points: ClassVar[tuple[QDQPoint, ...]] = (QDQPoint.INPUT,)

    def build(self, projection: MHAInProjection) -> FusedMHAInProjection:
        return FusedMHAInProjection(projection)


class ScaledDotProductAttentionPattern(Pattern):
    """Attention; query, key and value are quantized each on its own."""

    tree = SCALED_DOT_PRODUCT_ATTENTION
    qdq_points: ClassVar[tuple[QDQPoint, ...]] = (
        QDQPoint.INPUT,
        QDQPoint.KEY_INPUT,
        QDQPoint.VALUE_INPUT,
    )

    def keep_float(self, attention: ScaledDotProductAttention) -> str | None:
        if attention.scale is None or attention.scale > 0:
            return None
        return (
            f"its scale is {attention.scale:g}, and the kernel takes one above zero before the "
            "query is quantized"
        )

    def build(self, attention: ScaledDotProductAttention) -> FusedScaledDotProductAttention:
        return FusedScaledDotProductAttention(attention)
