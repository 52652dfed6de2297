"""NVIDIA TensorRT: which operations it runs as one kernel, and where it wants Q/DQ.

What judges files needs no torch; patterns and targets are imported when first asked for.
"""

from typing import TYPE_CHECKING, Any

from embedl_deploy.tensorrt.engine import (
    GPUS,
    Comparison,
    Compilation,
    CompiledAttention,
    Estimate,
    Fate,
    Gpu,
    Held,
    Latency,
    Layer,
    LayerTensor,
    Outcome,
    Product,
    Remark,
    ShapeRange,
    TrtexecLatency,
    compare_layers,
    compile_onnx,
    read_layers,
    trtexec_command,
)
from embedl_deploy.tensorrt.prediction import Aside, Basis, Explanation, Kernel, explain_onnx
from embedl_deploy.tensorrt.rules import Finding, Report, Severity, Unjudged, check_onnx

if TYPE_CHECKING:
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
    from embedl_deploy.tensorrt.targets import (
        TENSORRT,
        TENSORRT_CONVERSION_PATTERNS,
        TENSORRT_FUSION_PATTERNS,
        TENSORRT_MIXED_PRECISION_PATTERNS,
        TENSORRT_PATTERNS,
        TENSORRT_RTX,
        TENSORRT_SMART_PATTERNS,
    )

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
    "Latency",
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
    "TrtexecLatency",
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

if not TYPE_CHECKING:  # or every name would be one for a type checker

    def __getattr__(name: str) -> Any:
        """A pattern or a target."""
        if name not in __all__:
            raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
        from embedl_deploy.tensorrt import targets

        return targets.named(name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
