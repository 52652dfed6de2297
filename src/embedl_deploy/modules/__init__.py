"""The modules that patterns build. Each is a plain `torch.nn.Module`."""

from embedl_deploy.modules.attention import (
    AttentionMask,
    FusedMHAInProjection,
    FusedScaledDotProductAttention,
    MHAInProjection,
    ScaledDotProductAttention,
)
from embedl_deploy.modules.base import FusedModule, LeafModule
from embedl_deploy.modules.conv import (
    FusedConvBN,
    FusedConvBNAddReLU,
    FusedConvBNReLU,
    FusedConvBNReLUMaxPool,
)
from embedl_deploy.modules.linear import FusedLinear, FusedLinearReLU
from embedl_deploy.modules.points import QDQPoint
from embedl_deploy.modules.simple import FusedAdaptiveAvgPool2d, FusedLayerNorm

__all__ = [
    "AttentionMask",
    "FusedAdaptiveAvgPool2d",
    "FusedConvBN",
    "FusedConvBNAddReLU",
    "FusedConvBNReLU",
    "FusedConvBNReLUMaxPool",
    "FusedLayerNorm",
    "FusedLinear",
    "FusedLinearReLU",
    "FusedMHAInProjection",
    "FusedModule",
    "FusedScaledDotProductAttention",
    "LeafModule",
    "MHAInProjection",
    "QDQPoint",
    "ScaledDotProductAttention",
]
