"""NVIDIA TensorRT: which operations it runs as one kernel, and where it wants Q/DQ.

The tuples are priority lists: an earlier pattern wins, so longer trees stand first.
"""

from embedl_deploy.patterns import Pattern
from embedl_deploy.tensorrt.conversions.attention import DecomposeMultiheadAttentionPattern
from embedl_deploy.tensorrt.conversions.pooling import (
    FlattenLinearToConv1x1Pattern,
    RemoveIdentityAdaptiveAvgPoolPattern,
)
from embedl_deploy.tensorrt.conversions.window import DecomposeShiftedWindowAttentionPattern
from embedl_deploy.tensorrt.fusions.attention import (
    MHAInProjectionPattern,
    ScaledDotProductAttentionPattern,
)
from embedl_deploy.tensorrt.fusions.conv import (
    ConvBNAddReLUPattern,
    ConvBNPattern,
    ConvBNReLUPattern,
    StemConvBNReLUMaxPoolPattern,
)
from embedl_deploy.tensorrt.fusions.linear import LinearPattern, LinearReLUPattern
from embedl_deploy.tensorrt.fusions.simple import AdaptiveAvgPoolPattern, LayerNormPattern
from embedl_deploy.tensorrt.precision import (
    MIXED,
    SMART,
    FloatAdaptiveAvgPoolPattern,
    FloatDepthwiseConvBNAddReLUPattern,
    FloatDepthwiseConvBNPattern,
    FloatDepthwiseConvBNReLUPattern,
)
from embedl_deploy.tensorrt.rules import Finding, Report, Severity, Unjudged, check_onnx

__all__ = [
    "TENSORRT_CONVERSION_PATTERNS",
    "TENSORRT_FUSION_PATTERNS",
    "TENSORRT_MIXED_PRECISION_PATTERNS",
    "TENSORRT_PATTERNS",
    "TENSORRT_SMART_PATTERNS",
    "AdaptiveAvgPoolPattern",
    "ConvBNAddReLUPattern",
    "ConvBNPattern",
    "ConvBNReLUPattern",
    "DecomposeMultiheadAttentionPattern",
    "DecomposeShiftedWindowAttentionPattern",
    "Finding",
    "FlattenLinearToConv1x1Pattern",
    "FloatAdaptiveAvgPoolPattern",
    "FloatDepthwiseConvBNAddReLUPattern",
    "FloatDepthwiseConvBNPattern",
    "FloatDepthwiseConvBNReLUPattern",
    "LayerNormPattern",
    "LinearPattern",
    "LinearReLUPattern",
    "MHAInProjectionPattern",
    "RemoveIdentityAdaptiveAvgPoolPattern",
    "Report",
    "ScaledDotProductAttentionPattern",
    "Severity",
    "StemConvBNReLUMaxPoolPattern",
    "Unjudged",
    "check_onnx",
]

TENSORRT_CONVERSION_PATTERNS: tuple[type[Pattern], ...] = (
    RemoveIdentityAdaptiveAvgPoolPattern,
    FlattenLinearToConv1x1Pattern,
    DecomposeMultiheadAttentionPattern,
    DecomposeShiftedWindowAttentionPattern,
)

TENSORRT_FUSION_PATTERNS: tuple[type[Pattern], ...] = (
    StemConvBNReLUMaxPoolPattern,
    ConvBNAddReLUPattern,
    ConvBNReLUPattern,
    ConvBNPattern,
    LinearReLUPattern,
    LinearPattern,
    LayerNormPattern,
    MHAInProjectionPattern,
    ScaledDotProductAttentionPattern,
    AdaptiveAvgPoolPattern,
)

TENSORRT_PATTERNS = TENSORRT_CONVERSION_PATTERNS + TENSORRT_FUSION_PATTERNS

# No stubs at global pooling.
TENSORRT_SMART_PATTERNS = TENSORRT_CONVERSION_PATTERNS + SMART + TENSORRT_FUSION_PATTERNS

# Nor at depthwise convolutions.
TENSORRT_MIXED_PRECISION_PATTERNS = TENSORRT_CONVERSION_PATTERNS + MIXED + TENSORRT_FUSION_PATTERNS
