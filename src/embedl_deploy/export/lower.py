"""From the simulation to the operators of the file.

Folding a batch norm into a quantized convolution or linear layer is exact. The batch norm
multiplies output channel c by g = γ/σ; the weight's scale s is per output channel; so `round(w/s)`
gives the numbers of `w·g` at scale `s·|g|` as well, negated where g < 0. That holds for any grid
with a sign, FP8's among them, since the steps `w/s` are the same. The numbers simulated are the
numbers written, and only scale and bias change.
"""

import copy
from collections import Counter
from typing import Any

import torch
from torch import Tensor, fx, nn

from embedl_deploy.batches import device_of
from embedl_deploy.errors import ExportError
from embedl_deploy.export.attention import lower_attention
from embedl_deploy.export.even import even_scales
from embedl_deploy.export.extremes import DROPPED
from embedl_deploy.export.host import on_host
from embedl_deploy.export.operators import (
    DequantizedWeight,
    GlobalAveragePool,
    GlobalMaxPool,
    GridAveragePool,
    QuantizeDequantize,
    QuantizedWeight,
    SmallEpsRMSNorm,
)
from embedl_deploy.modules import FusedModule, Part
from embedl_deploy.modules.conv import with_norm
from embedl_deploy.modules.frozen import FROZEN
from embedl_deploy.quantize import QuantStub, WeightFakeQuantize
from embedl_deploy.quantize.rounding import per_channel
from embedl_deploy.quantize.stubs import quantizers_of
from embedl_deploy.target import Lowering

_NORMS = {*FROZEN, *FROZEN.values()}


def fold(model: fx.GraphModule) -> fx.GraphModule:
    """A copy of a model with stored numbers for quantized weights and norms folded; it still runs.

    It is on the CPU, wherever the model is, and shares the tensors that stay as they are.

    Raises:
        DeviceError: The model is spread over devices.
        ExportError: A stub has no scale, a quantizer is switched off, a batch norm has no
            statistics to fold, or a quantized model computes in another type than float32.
    """
    device_of(model)
    check_calibrated(model)
    _check_type(model)
    _check_quantizers(model)
    folded = on_host(model).eval()
    for quantizer in quantizers_of(folded):
        quantizer.fix()
    for node in folded.graph.nodes:  # torch.export would name the file's nodes by it
        node.meta.pop("nn_module_stack", None)
    _take_in_norms(folded)
    for path, module in list(folded.named_modules()):
        if isinstance(module, FusedModule):
            _fold_weights(path, module)
    return folded


def to_operators(folded: fx.GraphModule, lowering: Lowering) -> fx.GraphModule:
    """Put the operators of the file into a folded model, in place.

    Args:
        folded: From `fold`, with the factors of its attention set.
        lowering: How the target wants them.
    """
    lower_attention(folded, lowering)
    if lowering.one_weight_scale:
        even_scales(folded)
    if lowering.separate_projections:
        _unpack(folded)
    float_weights, pooling = lowering.quantized_weights == "float", lowering.plain_pooling
    for path, module in list(folded.named_modules()):
        match module:
            case QuantStub():
                folded.set_submodule(path, QuantizeDequantize(module))
            case DequantizedWeight() if float_weights:
                folded.set_submodule(path, QuantizedWeight(module))
            case nn.RMSNorm() if module.eps is not None and module.eps <= DROPPED:
                folded.set_submodule(path, SmallEpsRMSNorm(module))
            case nn.AdaptiveAvgPool2d(output_size=1 | (1, 1)) if pooling:
                folded.set_submodule(path, GlobalAveragePool())
            case nn.AdaptiveMaxPool2d(output_size=1 | (1, 1), return_indices=False) if path:
                folded.set_submodule(path, GlobalMaxPool())
            case nn.AdaptiveAvgPool2d() if pooling:
                folded.set_submodule(path, GridAveragePool(module))
    return folded


def _unpack(folded: fx.GraphModule) -> None:
    """Give each product of a quantized projection a weight of its own."""
    for path, module in list(folded.named_modules()):
        if isinstance(module, FusedModule) and module.weight_quantizers:
            whole = module.unpacked(_share)
            if whole is not module:
                folded.set_submodule(path, whole)


def _share(quantizer: Any, part: Part) -> DequantizedWeight:
    """What belongs to a part of a stored weight."""
    return DequantizedWeight(
        part.share(quantizer.stored), part.share(quantizer.scale), quantizer.axis
    )


def check_calibrated(model: fx.GraphModule) -> None:
    """Raise unless every stub has a scale.

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
    if not quantizers_of(model):
        return
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point() and parameter.dtype != torch.float32:
            raise ExportError(
                f"'{name}' is of type {parameter.dtype}; a quantized model is exported in "
                "float32, so call .float() on it first"
            )


def _check_quantizers(model: fx.GraphModule) -> None:
    for path, module in model.named_modules():
        if not isinstance(module, QuantStub | WeightFakeQuantize):
            continue
        if not module.enabled:
            raise ExportError(
                f"'{path}' is switched off, and the file would quantize there; set its enabled to "
                "True, or leave the layer out with QuantConfig(skip=[…])"
            )


def _take_in_norms(model: fx.GraphModule) -> None:
    """Fuse norms with convolutions that no pattern took: else the exporter folds them its way."""
    modules = dict(model.named_modules(remove_duplicate=False))
    calls = Counter(str(node.target) for node in model.graph.nodes if node.op == "call_module")
    for node in list(model.graph.nodes):
        norm: Any = modules.get(str(node.target)) if node.op == "call_module" else None
        source = node.args[0] if node.args else None
        if type(norm) not in _NORMS or not isinstance(source, fx.Node) or len(source.users) > 1:
            continue
        if norm.running_mean is None:
            continue
        conv = modules.get(str(source.target)) if source.op == "call_module" else None
        fused = with_norm(conv, norm)
        if fused is None or calls[str(node.target)] > 1 or calls[str(source.target)] > 1:
            continue
        model.set_submodule(str(source.target), fused)
        node.replace_all_uses_with(source)
        model.graph.erase_node(node)
    model.recompile()


def _fold_weights(path: str, module: FusedModule) -> None:
    factor = _fold(path, module)
    for weight_path in module.weights():
        owner, _, name = weight_path.rpartition(".")
        weight, quantizer = module.unrounded(weight_path), module.quantizer(weight_path)
        if isinstance(quantizer, WeightFakeQuantize):
            module.set_quantizer(weight_path, _stored(quantizer, weight, factor))
        elif factor is not None:
            scaled = weight.detach().double()
            matrix = module.products[0].matrix(module, scaled)
            matrix.mul_(factor.view(*matrix.shape[:2], *[1] * (matrix.dim() - 2)))
            parameter = nn.Parameter(scaled.to(weight.dtype), requires_grad=False)
            setattr(module.get_submodule(owner), name, parameter)


def _stored(
    quantizer: WeightFakeQuantize, weight: Tensor, factor: Tensor | None
) -> DequantizedWeight:
    stored, scale, axis = quantizer.stored(weight), quantizer.scale, quantizer.axis
    if factor is None:
        return DequantizedWeight(stored, scale, axis)
    sign = per_channel(factor.sign().to(scale.dtype), weight, axis)
    size = factor.abs().view(-1, *[1] * (scale.dim() - 1))
    folded = (scale.double() * size).clamp(min=torch.finfo(scale.dtype).tiny)
    folded = torch.where(size == 0, 1.0, folded)
    signed = (stored.to(scale.dtype) * sign).to(stored.dtype)
    return DequantizedWeight(signed, folded.to(scale.dtype), axis)


def _fold(path: str, module: Any) -> Tensor | None:
    """Take the batch norm out; its shift goes to the bias, its factor per channel is returned."""
    norm = module.norm
    if norm is None:
        return None
    if norm.running_mean is None or norm.running_var is None:
        raise ExportError(
            f"the batch norm in '{path}' keeps no running statistics "
            "(track_running_stats=False), so it cannot be folded; refuse it in the pattern"
        )
    (part,) = module.products
    mean, variance = norm.running_mean.double(), norm.running_var.double()
    factor = (variance + norm.eps).rsqrt()
    if norm.weight is not None:
        factor = factor * norm.weight.detach().double()
    layer, bias = part.of(module), part.bias_of(module)
    shift = -mean if bias is None else bias.detach().double() - mean
    folded = shift * factor
    if norm.bias is not None:
        folded = folded + norm.bias.detach().double()
    own = _own(layer, bias=nn.Parameter(folded.to(layer.weight.dtype), requires_grad=False))
    setattr(module, part.layer, own)
    module.batch_norm = None
    return factor


def _own(layer: nn.Module, **parameters: nn.Parameter) -> nn.Module:
    """The layer with other parameters; one that is shared with other modules stays as it is."""
    own = copy.copy(layer)
    own._parameters = {**layer._parameters, **parameters}  # noqa: SLF001 - a copy shares the slots
    return own


def drop_rounded(model: nn.Module) -> None:
    """Put stand-ins without memory in place of weights whose rounded numbers are in the file.

    Nothing reads them, and the exporter would keep the weights of the model it was given last.
    """
    fused = [one for one in model.modules() if isinstance(one, FusedModule)]
    for module in fused:
        for path in module.weights():
            if isinstance(module.quantizer(path), DequantizedWeight | QuantizedWeight):
                owner, _, name = path.rpartition(".")
                weight = module.unrounded(path)
                empty = weight.new_zeros(()).expand_as(weight)
                stand_in = nn.Parameter(empty, requires_grad=False)
                if owner:
                    own = _own(module.get_submodule(owner), **{name: stand_in})
                    module.set_submodule(owner, own)
                else:
                    setattr(module, name, stand_in)
