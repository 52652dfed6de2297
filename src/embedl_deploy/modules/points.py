"""Where a fused module may be quantized."""

import enum


class QDQPoint(enum.Enum):
    """A place at a fused module for a quantize/dequantize pair.

    The value is the argument of the module's `forward` that is quantized; `INPUT` is the first
    argument, whatever its name, `OUTPUT` the module's result, and `PROBABILITIES` what the
    softmax of an attention gives.
    """

    INPUT = "input"
    RESIDUAL_INPUT = "residual"
    KEY_INPUT = "key"
    VALUE_INPUT = "value"
    PROBABILITIES = "probabilities"
    OUTPUT = "output"
