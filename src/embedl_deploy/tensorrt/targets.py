"""The lists of patterns, and the targets.

The tuples are priority lists: an earlier pattern wins, so longer trees stand first.
"""

from dataclasses import replace
from functools import partial
from typing import Any

from embedl_deploy.conversions import activations, cleanup, norms, pooling, projection
from embedl_deploy.conversions.attention import DecomposeMultiheadAttentionPattern
from embedl_deploy.conversions.einsum import EinsumPattern
from embedl_deploy.conversions.fills import FillNumberPattern
from embedl_deploy.conversions.window import DecomposeShiftedWindowAttentionPattern
from embedl_deploy.conversions.written_attention import WrittenAttentionPattern
from embedl_deploy.patterns import Pattern
from embedl_deploy.quantize import QuantConfig
from embedl_deploy.target import Lowering, Target
from embedl_deploy.tensorrt import fp8
from embedl_deploy.tensorrt.engine import compile_onnx
from embedl_deploy.tensorrt.fusions import conv, conv_nd, linear, residual, simple
from embedl_deploy.tensorrt.fusions.attention import (
    MHAInProjectionPattern,
    ScaledDotProductAttentionPattern,
)
from embedl_deploy.tensorrt.mixed import MIXED, SMART
from embedl_deploy.tensorrt.prediction import explain_onnx
from embedl_deploy.tensorrt.rows import half_at_one_row
from embedl_deploy.tensorrt.rules import check_onnx

TENSORRT_CONVERSION_PATTERNS: tuple[type[Pattern], ...] = (
    cleanup.RemoveAssertionPattern,
    cleanup.RemoveCopyPattern,
    pooling.RemoveIdentityAdaptiveAvgPoolPattern,
    pooling.MeanToAdaptiveAvgPoolPattern,
    pooling.FlattenLinearToConv1x1Pattern,
    activations.WrittenSiLUPattern,
    activations.WrittenHardswishPattern,
    activations.WrittenHardsigmoidPattern,
    activations.WrittenGELUPattern,
    activations.WrittenTanhGELUPattern,
    norms.WrittenLayerNormPattern,
    norms.WrittenRMSNormPattern,
    norms.WrittenBatchNormPattern,
    norms.NormWeightPattern,
    norms.RowBatchNormPattern,
    DecomposeMultiheadAttentionPattern,
    DecomposeShiftedWindowAttentionPattern,
    EinsumPattern,
    cleanup.SoftmaxTypePattern,
    FillNumberPattern,
    WrittenAttentionPattern,
    projection.ComputedBiasPattern,
    projection.PackedProjectionPattern,
    projection.SplitProjectionPattern,
)

TENSORRT_FUSION_PATTERNS: tuple[type[Pattern], ...] = (
    conv.StemConvBNReLUMaxPoolPattern,
    conv.ConvBNAddReLUPattern,
    residual.ConvAddReLUPattern,
    residual.ConvBNAddPattern,
    residual.ConvBNReLUAddPattern,
    conv.ConvBNReLUPattern,
    conv_nd.ConvNdBNReLUPattern,
    conv.ConvBNPattern,
    conv_nd.ConvNdBNPattern,
    conv_nd.ConvTransposeBNReLUPattern,
    conv_nd.ConvTransposeBNPattern,
    linear.LinearBNReLUPattern,
    linear.LinearReLUPattern,
    linear.LinearBNPattern,
    residual.LinearAddPattern,
    linear.LinearPattern,
    simple.LayerNormPattern,
    simple.GroupNormPattern,
    simple.InstanceNormPattern,
    simple.RMSNormPattern,
    MHAInProjectionPattern,
    ScaledDotProductAttentionPattern,
    simple.AdaptiveAvgPoolPattern,
)

TENSORRT_PATTERNS = TENSORRT_CONVERSION_PATTERNS + TENSORRT_FUSION_PATTERNS

# No stubs at global pooling.
TENSORRT_SMART_PATTERNS = TENSORRT_CONVERSION_PATTERNS + SMART + TENSORRT_FUSION_PATTERNS

# Nor at depthwise convolutions.
TENSORRT_MIXED_PRECISION_PATTERNS = TENSORRT_CONVERSION_PATTERNS + MIXED + TENSORRT_FUSION_PATTERNS

TENSORRT: Target = Target(
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
        vectors_as_rows=True,
    ),
    numbers=frozenset({"int8", "float8_e4m3", "int4"}),
    check=check_onnx,
    explain=explain_onnx,
    build=compile_onnx,
)

# A classifier as a convolution, and depthwise convolutions and single rows in INT8, cost this
# compiler more.
_RTX_CONVERSIONS = tuple(
    one for one in TENSORRT_CONVERSION_PATTERNS if one is not pooling.FlattenLinearToConv1x1Pattern
)
_RTX_FUSIONS = tuple(half_at_one_row(one) for one in TENSORRT_FUSION_PATTERNS)

TENSORRT_RTX: Target = replace(
    TENSORRT,
    name="TensorRT for RTX",
    patterns=_RTX_CONVERSIONS + MIXED + _RTX_FUSIONS,
    lists={
        "smart": _RTX_CONVERSIONS + SMART + _RTX_FUSIONS,
        "mixed": _RTX_CONVERSIONS + MIXED + _RTX_FUSIONS,
        "fusions": _RTX_FUSIONS,
    },
    lowering=replace(TENSORRT.lowering, key_first=False, one_weight_scale=True),
    build=partial(compile_onnx, compiler="rtx"),
)


_PATTERNS = {one.__name__: one for one in (*TENSORRT_PATTERNS, *MIXED)}


def named(name: str) -> Any:
    """What `embedl_deploy.tensorrt` gives under a name."""
    return _PATTERNS.get(name) or getattr(fp8, name, None) or globals()[name]
