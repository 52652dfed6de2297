"""NVIDIA TensorRT: which operations it runs as one kernel, and where it wants Q/DQ.

The tuples are priority lists: an earlier pattern wins, so longer trees stand first.
"""

from dataclasses import replace
from functools import partial

from embedl_deploy.conversions.activations import (
    WrittenGELUPattern,
    WrittenHardsigmoidPattern,
    WrittenHardswishPattern,
    WrittenSiLUPattern,
    WrittenTanhGELUPattern,
)
from embedl_deploy.conversions.attention import DecomposeMultiheadAttentionPattern
from embedl_deploy.conversions.cleanup import (
    RemoveAssertionPattern,
    RemoveCopyPattern,
    SoftmaxTypePattern,
)
from embedl_deploy.conversions.einsum import EinsumPattern
from embedl_deploy.conversions.fills import FillNumberPattern
from embedl_deploy.conversions.norms import (
    NormWeightPattern,
    RowBatchNormPattern,
    WrittenBatchNormPattern,
    WrittenLayerNormPattern,
    WrittenRMSNormPattern,
)
from embedl_deploy.conversions.pooling import (
    FlattenLinearToConv1x1Pattern,
    MeanToAdaptiveAvgPoolPattern,
    RemoveIdentityAdaptiveAvgPoolPattern,
)
from embedl_deploy.conversions.projection import (
    ComputedBiasPattern,
    PackedProjectionPattern,
    SplitProjectionPattern,
)
from embedl_deploy.conversions.window import DecomposeShiftedWindowAttentionPattern
from embedl_deploy.conversions.written_attention import WrittenAttentionPattern
from embedl_deploy.patterns import Pattern
from embedl_deploy.quantize import QuantConfig
from embedl_deploy.target import Lowering, Target
from embedl_deploy.tensorrt.engine import (
    GPUS,
    Comparison,
    Compilation,
    CompiledAttention,
    Estimate,
    Fate,
    Gpu,
    Held,
    Layer,
    LayerTensor,
    Outcome,
    Product,
    Remark,
    ShapeRange,
    compare_layers,
    compile_onnx,
    read_layers,
    trtexec_command,
)
from embedl_deploy.tensorrt.fp8 import TENSORRT_FP8_CONFIG, lacks_fp8_kernel
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
from embedl_deploy.tensorrt.fusions.conv_nd import (
    ConvNdBNPattern,
    ConvNdBNReLUPattern,
    ConvTransposeBNPattern,
    ConvTransposeBNReLUPattern,
)
from embedl_deploy.tensorrt.fusions.linear import (
    LinearBNPattern,
    LinearBNReLUPattern,
    LinearPattern,
    LinearReLUPattern,
)
from embedl_deploy.tensorrt.fusions.residual import (
    ConvAddReLUPattern,
    ConvBNAddPattern,
    ConvBNReLUAddPattern,
    LinearAddPattern,
)
from embedl_deploy.tensorrt.fusions.simple import (
    AdaptiveAvgPoolPattern,
    GroupNormPattern,
    InstanceNormPattern,
    LayerNormPattern,
    RMSNormPattern,
)
from embedl_deploy.tensorrt.mixed import (
    MIXED,
    SMART,
    FloatAdaptiveAvgPoolPattern,
    FloatDepthwiseConvAddReLUPattern,
    FloatDepthwiseConvBNAddPattern,
    FloatDepthwiseConvBNAddReLUPattern,
    FloatDepthwiseConvBNPattern,
    FloatDepthwiseConvBNReLUAddPattern,
    FloatDepthwiseConvBNReLUPattern,
    FloatDepthwiseConvNdBNPattern,
    FloatDepthwiseConvNdBNReLUPattern,
)
from embedl_deploy.tensorrt.prediction import Aside, Basis, Explanation, Kernel, explain_onnx
from embedl_deploy.tensorrt.rules import Finding, Report, Severity, Unjudged, check_onnx

__all__ = [
    "GPUS",
    "TENSORRT",
    "TENSORRT_CONVERSION_PATTERNS",
    "TENSORRT_FP8_CONFIG",
    "TENSORRT_FUSION_PATTERNS",
    "TENSORRT_MIXED_PRECISION_PATTERNS",
    "TENSORRT_PATTERNS",
    "TENSORRT_RTX",
    "TENSORRT_SMART_PATTERNS",
    "AdaptiveAvgPoolPattern",
    "Aside",
    "Basis",
    "Comparison",
    "Compilation",
    "CompiledAttention",
    "ComputedBiasPattern",
    "ConvAddReLUPattern",
    "ConvBNAddPattern",
    "ConvBNAddReLUPattern",
    "ConvBNPattern",
    "ConvBNReLUAddPattern",
    "ConvBNReLUPattern",
    "ConvNdBNPattern",
    "ConvNdBNReLUPattern",
    "ConvTransposeBNPattern",
    "ConvTransposeBNReLUPattern",
    "DecomposeMultiheadAttentionPattern",
    "DecomposeShiftedWindowAttentionPattern",
    "EinsumPattern",
    "Estimate",
    "Explanation",
    "Fate",
    "FillNumberPattern",
    "Finding",
    "FlattenLinearToConv1x1Pattern",
    "FloatAdaptiveAvgPoolPattern",
    "FloatDepthwiseConvAddReLUPattern",
    "FloatDepthwiseConvBNAddPattern",
    "FloatDepthwiseConvBNAddReLUPattern",
    "FloatDepthwiseConvBNPattern",
    "FloatDepthwiseConvBNReLUAddPattern",
    "FloatDepthwiseConvBNReLUPattern",
    "FloatDepthwiseConvNdBNPattern",
    "FloatDepthwiseConvNdBNReLUPattern",
    "Gpu",
    "GroupNormPattern",
    "Held",
    "InstanceNormPattern",
    "Kernel",
    "Layer",
    "LayerNormPattern",
    "LayerTensor",
    "LinearAddPattern",
    "LinearBNPattern",
    "LinearBNReLUPattern",
    "LinearPattern",
    "LinearReLUPattern",
    "MHAInProjectionPattern",
    "MeanToAdaptiveAvgPoolPattern",
    "NormWeightPattern",
    "Outcome",
    "PackedProjectionPattern",
    "Product",
    "RMSNormPattern",
    "Remark",
    "RemoveAssertionPattern",
    "RemoveCopyPattern",
    "RemoveIdentityAdaptiveAvgPoolPattern",
    "Report",
    "RowBatchNormPattern",
    "ScaledDotProductAttentionPattern",
    "Severity",
    "ShapeRange",
    "SoftmaxTypePattern",
    "SplitProjectionPattern",
    "StemConvBNReLUMaxPoolPattern",
    "Unjudged",
    "WrittenAttentionPattern",
    "WrittenBatchNormPattern",
    "WrittenGELUPattern",
    "WrittenHardsigmoidPattern",
    "WrittenHardswishPattern",
    "WrittenLayerNormPattern",
    "WrittenRMSNormPattern",
    "WrittenSiLUPattern",
    "WrittenTanhGELUPattern",
    "check_onnx",
    "compare_layers",
    "compile_onnx",
    "explain_onnx",
    "lacks_fp8_kernel",
    "read_layers",
    "trtexec_command",
]

TENSORRT_CONVERSION_PATTERNS: tuple[type[Pattern], ...] = (
    RemoveAssertionPattern,
    RemoveCopyPattern,
    RemoveIdentityAdaptiveAvgPoolPattern,
    MeanToAdaptiveAvgPoolPattern,
    FlattenLinearToConv1x1Pattern,
    WrittenSiLUPattern,
    WrittenHardswishPattern,
    WrittenHardsigmoidPattern,
    WrittenGELUPattern,
    WrittenTanhGELUPattern,
    WrittenLayerNormPattern,
    WrittenRMSNormPattern,
    WrittenBatchNormPattern,
    NormWeightPattern,
    RowBatchNormPattern,
    DecomposeMultiheadAttentionPattern,
    DecomposeShiftedWindowAttentionPattern,
    EinsumPattern,
    SoftmaxTypePattern,
    FillNumberPattern,
    WrittenAttentionPattern,
    ComputedBiasPattern,
    PackedProjectionPattern,
    SplitProjectionPattern,
)

TENSORRT_FUSION_PATTERNS: tuple[type[Pattern], ...] = (
    StemConvBNReLUMaxPoolPattern,
    ConvBNAddReLUPattern,
    ConvAddReLUPattern,
    ConvBNAddPattern,
    ConvBNReLUAddPattern,
    ConvBNReLUPattern,
    ConvNdBNReLUPattern,
    ConvBNPattern,
    ConvNdBNPattern,
    ConvTransposeBNReLUPattern,
    ConvTransposeBNPattern,
    LinearBNReLUPattern,
    LinearReLUPattern,
    LinearBNPattern,
    LinearAddPattern,
    LinearPattern,
    LayerNormPattern,
    GroupNormPattern,
    InstanceNormPattern,
    RMSNormPattern,
    MHAInProjectionPattern,
    ScaledDotProductAttentionPattern,
    AdaptiveAvgPoolPattern,
)

TENSORRT_PATTERNS = TENSORRT_CONVERSION_PATTERNS + TENSORRT_FUSION_PATTERNS

# No stubs at global pooling.
TENSORRT_SMART_PATTERNS = TENSORRT_CONVERSION_PATTERNS + SMART + TENSORRT_FUSION_PATTERNS

# Nor at depthwise convolutions.
TENSORRT_MIXED_PRECISION_PATTERNS = TENSORRT_CONVERSION_PATTERNS + MIXED + TENSORRT_FUSION_PATTERNS

TENSORRT = Target(
    name="TensorRT",
    patterns=TENSORRT_PATTERNS,
    lists={
        "smart": TENSORRT_SMART_PATTERNS,
        "mixed": TENSORRT_MIXED_PRECISION_PATTERNS,
        "fusions": TENSORRT_FUSION_PATTERNS,
    },
    config=QuantConfig(),
    lowering=Lowering(
        whole_attention=False,
        factor_first=True,
        key_first=True,
        separate_projections=True,
        plain_pooling=True,
        normal_scales=True,
    ),
    numbers=frozenset({"int8", "float8_e4m3", "int4"}),
    check=check_onnx,
    explain=explain_onnx,
    build=compile_onnx,
)

# A classifier as a convolution, and depthwise convolutions in INT8, cost this compiler more.
_RTX_CONVERSIONS = tuple(
    one for one in TENSORRT_CONVERSION_PATTERNS if one is not FlattenLinearToConv1x1Pattern
)

TENSORRT_RTX = replace(
    TENSORRT,
    name="TensorRT for RTX",
    patterns=_RTX_CONVERSIONS + MIXED + TENSORRT_FUSION_PATTERNS,
    lists={
        "smart": _RTX_CONVERSIONS + SMART + TENSORRT_FUSION_PATTERNS,
        "mixed": _RTX_CONVERSIONS + MIXED + TENSORRT_FUSION_PATTERNS,
        "fusions": TENSORRT_FUSION_PATTERNS,
    },
    lowering=replace(TENSORRT.lowering, key_first=False, one_weight_scale=True),
    build=partial(compile_onnx, compiler="rtx"),
)
