"""The modules that patterns build. Each is a plain `torch.nn.Module`."""

from embedl_deploy.modules.attention import (
    AttentionMask,
    FusedScaledDotProductAttention,
    ScaledDotProductAttention,
)
from embedl_deploy.modules.base import FusedModule, LeafModule
from embedl_deploy.modules.conv import (
    FusedConvBN,
    FusedConvBNAdd,
    FusedConvBNAddReLU,
    FusedConvBNReLU,
    FusedConvBNReLUAdd,
    FusedConvBNReLUMaxPool,
    FusedConvTransposeBN,
    FusedConvTransposeBNReLU,
)
from embedl_deploy.modules.kernel import Kernel, ResidualKernel
from embedl_deploy.modules.linear import (
    FusedLinear,
    FusedLinearAdd,
    FusedLinearBN,
    FusedLinearBNReLU,
    FusedLinearReLU,
)
from embedl_deploy.modules.parts import ConvPart, ConvTransposePart, LinearPart, Part
from embedl_deploy.modules.points import QDQPoint
from embedl_deploy.modules.projection import FusedMHAInProjection, MHAInProjection
from embedl_deploy.modules.simple import (
    FusedAdaptiveAvgPool2d,
    FusedGroupNorm,
    FusedInstanceNorm,
    FusedLayerNorm,
    FusedRMSNorm,
)

__all__ = [
    "AttentionMask",
    "ConvPart",
    "ConvTransposePart",
    "FusedAdaptiveAvgPool2d",
    "FusedConvBN",
    "FusedConvBNAdd",
    "FusedConvBNAddReLU",
    "FusedConvBNReLU",
    "FusedConvBNReLUAdd",
    "FusedConvBNReLUMaxPool",
    "FusedConvTransposeBN",
    "FusedConvTransposeBNReLU",
    "FusedGroupNorm",
    "FusedInstanceNorm",
    "FusedLayerNorm",
    "FusedLinear",
    "FusedLinearAdd",
    "FusedLinearBN",
    "FusedLinearBNReLU",
    "FusedLinearReLU",
    "FusedMHAInProjection",
    "FusedModule",
    "FusedRMSNorm",
    "FusedScaledDotProductAttention",
    "Kernel",
    "LeafModule",
    "LinearPart",
    "MHAInProjection",
    "Part",
    "QDQPoint",
    "ResidualKernel",
    "ScaledDotProductAttention",
]
