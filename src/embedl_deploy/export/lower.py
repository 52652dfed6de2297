"""From the simulation to the operators of the file.

Folding a batch norm into a quantized convolution or linear layer is exact. The batch norm
multiplies output channel c by g = γ/σ; the weight's scale s is per output channel; so `round(w/s)`
gives the integers of `w·g` at scale `s·|g|` as well, negated where g < 0. The integers simulated
are the integers written, and only scale and bias change.
"""

import copy
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from embedl_deploy.errors import ExportError
from embedl_deploy.modules import FusedModule
from embedl_deploy.modules.conv import ConvKernel, FusedConvTransposeBN
from embedl_deploy.modules.linear import FusedLinearBN
from embedl_deploy.quantize import QuantStub, WeightFakeQuantize
from embedl_deploy.quantize.rounding import per_channel

_WITH_NORM = (ConvKernel, FusedConvTransposeBN, FusedLinearBN)


def lower(model: fx.GraphModule) -> fx.GraphModule:
    """A copy of a model in the operators of the file: integers, explicit Q/DQ, norms folded.

    Raises:
        ExportError: A stub has no scale, a batch norm has no statistics to fold, or a quantized
            model computes in another type than float32.
    """
    check_calibrated(model)
    _check_type(model)
    _check_numbers(model)
    lowered = copy.deepcopy(model).eval()
    for path, module in list(lowered.named_modules()):
        match module:
            case FusedModule():
                _lower_weights(path, module)
            case QuantStub():
                lowered.set_submodule(path, QuantizeDequantize(module))
            case nn.AdaptiveAvgPool2d(output_size=1 | (1, 1)):
                lowered.set_submodule(path, GlobalAveragePool())
    return lowered


def check_calibrated(model: fx.GraphModule) -> None:
    """Hold that every stub has a scale.

    Raises:
        ExportError: One has none.
    """
    stubs = [(path, one) for path, one in model.named_modules() if isinstance(one, QuantStub)]
    open_ = [path for path, stub in stubs if not stub.calibrated]
    if open_:
        raise ExportError(
            f"{len(open_)} of {len(stubs)} stubs have no scale, the first is '{open_[0]}'; run "
            "calibrate() or quantize() before export"
        )


def _check_type(model: fx.GraphModule) -> None:
    if not any(isinstance(module, QuantStub) for module in model.modules()):
        return
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point() and parameter.dtype != torch.float32:
            raise ExportError(
                f"'{name}' is of type {parameter.dtype}; a quantized model is exported in "
                "float32, so call .float() on it first"
            )


def _check_numbers(model: fx.GraphModule) -> None:
    for path, module in model.named_modules():
        if not isinstance(module, QuantStub | WeightFakeQuantize):
            continue
        if module.config.format != "int":
            raise ExportError(
                f"'{path}' simulates {module.config.format}, which is not exported; quantize to "
                "integers"
            )
        if isinstance(module, QuantStub) and not module.signed:
            raise ExportError(
                f"'{path}' simulates unsigned integers, and TensorRT takes signed ones alone; "
                "quantize with signed=True"
            )


class QuantizeDequantize(nn.Module):
    """A stub as the pair of ONNX operators."""

    scale: Tensor
    zero_point: Tensor

    def __init__(self, stub: QuantStub) -> None:
        super().__init__()
        self.register_buffer("scale", stub.scale)
        self.register_buffer("zero_point", torch.zeros_like(stub.scale, dtype=torch.int8))
        self.limits = (stub.lowest, stub.highest) if stub.config.bits < 8 else None

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name for it
        """Quantize and dequantize; any shape, unchanged."""
        if self.limits is not None:
            lowest, highest = (limit * self.scale for limit in self.limits)
            input = input.clamp(lowest, highest)  # noqa: A001
        quantized = torch.onnx.ops.symbolic(
            "QuantizeLinear",
            (input, self.scale, self.zero_point),
            dtype=torch.int8,
            shape=input.shape,
        )
        return dequantize(quantized, self.scale, self.zero_point, input)


class DequantizedWeight(nn.Module):
    """A stored integer weight and its `DequantizeLinear`; stands in for the weight's quantizer."""

    integers: Tensor
    scale: Tensor
    zero_point: Tensor

    def __init__(self, integers: Tensor, scale: Tensor, axis: int) -> None:
        super().__init__()
        self.axis = axis
        self.register_buffer("integers", integers)
        self.register_buffer("scale", scale)
        self.register_buffer("zero_point", torch.zeros_like(scale, dtype=torch.int8))

    def forward(self, weight: Tensor) -> Tensor:
        """The weight, per output channel; the argument gives dtype and shape alone."""
        return dequantize(self.integers, self.scale, self.zero_point, weight, axis=self.axis)


def dequantize(
    integers: Tensor, scale: Tensor, zero_point: Tensor, like: Tensor, axis: int | None = None
) -> Tensor:
    """The ONNX operator; `axis` is always written where there is one scale per channel."""
    attributes: dict[str, Any] = {} if axis is None else {"axis": axis}
    return torch.onnx.ops.symbolic(
        "DequantizeLinear",
        (integers, scale, zero_point),
        attrs=attributes,
        dtype=like.dtype,
        shape=like.shape,
    )


class GlobalAveragePool(nn.Module):
    """Average over height and width as the one ONNX operator that TensorRT has a kernel for."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name for it
        """Pool. Shapes: (N, C, H, W) to (N, C, 1, 1); without N, the operator would read it."""
        if input.dim() != 4:
            return F.adaptive_avg_pool2d(input, 1)
        shape = (*input.shape[:-2], 1, 1)
        return torch.onnx.ops.symbolic(
            "GlobalAveragePool", (input,), dtype=input.dtype, shape=shape
        )


def _lower_weights(path: str, module: FusedModule) -> None:
    factor = _fold(path, module)
    for weight_path in module.quantizable_weights():
        key = weight_path.replace(".", "_")
        owner, _, name = weight_path.rpartition(".")
        holder = module.get_submodule(owner)
        weight: Tensor = getattr(holder, name)
        if key in module.weight_quantizers:
            quantizer = cast("WeightFakeQuantize", module.weight_quantizers[key])
            module.weight_quantizers[key] = _integers(quantizer, weight, factor)
        elif factor is not None:
            scaled = weight.double() * per_channel(factor, weight, module.channel_axis)
            setattr(holder, name, nn.Parameter(scaled.to(weight.dtype), requires_grad=False))


def _integers(
    quantizer: WeightFakeQuantize, weight: Tensor, factor: Tensor | None
) -> DequantizedWeight:
    integers, scale, axis = quantizer.integers(weight), quantizer.scale, quantizer.axis
    if factor is None:
        return DequantizedWeight(integers, scale, axis)
    sign = per_channel(factor.sign().to(torch.int8), weight, axis)
    folded = (scale.double() * factor.abs()).clamp(min=torch.finfo(scale.dtype).tiny)
    folded = torch.where(factor == 0, 1.0, folded)
    return DequantizedWeight(integers * sign, folded.to(scale.dtype), axis)


def _fold(path: str, module: Any) -> Tensor | None:
    """Take the batch norm out; its shift goes to the bias, its factor per channel is returned.

    Behind a weight that can not have a factor per channel the norm stays.
    """
    norm = module.batch_norm if isinstance(module, _WITH_NORM) else None
    if norm is None or not module.quantizable_weights():
        return None
    if norm.running_mean is None or norm.running_var is None:
        raise ExportError(
            f"the batch norm in '{path}' keeps no running statistics "
            "(track_running_stats=False), so it can not be folded"
        )
    mean, variance = norm.running_mean.double(), norm.running_var.double()
    factor = (variance + norm.eps).rsqrt()
    if norm.weight is not None:
        factor = factor * norm.weight.detach().double()
    name = module.weights[0].partition(".")[0]
    layer = getattr(module, name)
    shift = -mean if layer.bias is None else layer.bias.detach().double() - mean
    bias = shift * factor
    if norm.bias is not None:
        bias = bias + norm.bias.detach().double()
    dtype = layer.weight.dtype
    setattr(module, name, _own(layer, nn.Parameter(bias.to(dtype), requires_grad=False)))
    module.batch_norm = None
    return factor


def _own(layer: nn.Module, bias: nn.Parameter) -> nn.Module:
    """The layer with another bias; one that is shared with other modules stays as it is."""
    own = copy.copy(layer)
    own._parameters = {**layer._parameters, "bias": bias}  # noqa: SLF001 - a copy shares the slots
    return own
