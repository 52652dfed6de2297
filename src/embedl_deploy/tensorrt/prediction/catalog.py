"""All rules of fusion, in the order in which they take operators."""

from embedl_deploy.tensorrt.prediction import (
    attention,
    copies,
    merging,
    pointwise,
    quantizers,
    simple,
    weighted,
)
from embedl_deploy.tensorrt.prediction.fusion import Fusion

FUSIONS: tuple[Fusion, ...] = (
    simple.CONSTANTS, simple.REFUSED_ONE,
    attention.ATTENTION, attention.SOFTMAX, attention.OPERATOR,
    weighted.RESIDUAL, weighted.CONVOLUTION, weighted.PAD, weighted.POOL, weighted.PRODUCT,
    simple.WRITTEN_OUT, simple.NORM, simple.POOLING,
    pointwise.QUANTIZED, pointwise.FLOAT,
    copies.IN_PLACE, copies.CONCAT, copies.SHUFFLE, copies.VIEW, copies.MOVE,
    simple.CAST, simple.OTHER,
    quantizers.WEIGHTS, quantizers.FIXED, quantizers.PRODUCER, quantizers.CANCELLED,
    quantizers.QUANTIZER, quantizers.READER, quantizers.DEQUANTIZER,
    merging.QUANTIZED_AFTER, merging.COPIED_BEFORE, merging.COMPUTED_BEFORE, merging.COPIED_AFTER,
)  # fmt: skip
