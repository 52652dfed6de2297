"""What follows a product in the file: a factor for each output channel, and the bias."""

import copy
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn

from embedl_deploy.export.operators import DequantizedWeight
from embedl_deploy.modules import ConvTransposePart, FusedModule, LinearPart
from embedl_deploy.modules.kernel import Kernel

_STEP = "affine"
_LEAST = 2.0**-14
"""The smallest normal number of float16."""
_FAR = 2.0**14
"""Leaves 2**17 of INT32 for the input's scale."""


class Affine(nn.Module):
    """A factor for each output channel of a product, and the bias after it, where there are."""

    factor: Tensor | None
    bias: Tensor | None

    def __init__(self, factor: Tensor | None, bias: Tensor | None) -> None:
        super().__init__()
        self.register_buffer("factor", factor)
        self.register_buffer("bias", bias)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name for it
        """Multiply and add; any shape, unchanged."""
        scaled = input if self.factor is None else input * self.factor
        return scaled if self.bias is None else scaled + self.bias


def even_scales(folded: fx.GraphModule) -> None:
    """Give weights with a scale per channel one scale, in place, where that changes no number.

    The scale is a power of two, so what is left of a channel's own is exact, in half precision
    too: the products are those that were simulated. A weight whose scales lie further apart than
    half precision has normal numbers for keeps them.
    """
    calls = [node for node in folded.graph.nodes if node.op == "call_module"]
    mixed = {one.target for one in calls if len(one.all_input_nodes) > 1}
    for path, module in list(folded.named_modules()):
        match module:
            case Kernel(products=[part]) if not isinstance(part, ConvTransposePart):
                if even := _even(module.quantizer(part.weight)):
                    module.set_quantizer(part.weight, even[0])
                    _follow(module, part, part.laid_out(module, even[1]))
            case FusedModule(parts=[part, _, *_]) if (
                path not in mixed and len(module.weights()) == 1
            ):
                if even := _even(module.quantizer(part.weight)):
                    folded.set_submodule(path, module.packed(even[0], partial(Affine, even[1])))


def _even(weight: nn.Module | None) -> tuple[DequantizedWeight, Tensor] | None:
    """A weight with one scale, and what is left of each channel's own; None to leave it."""
    if not isinstance(weight, DequantizedWeight) or weight.scale.dim() != 1 or weight.axis != 0:
        return None
    used = weight.stored.to(torch.float32).flatten(1).abs().amax(1) > 0
    if not used.any():
        return None
    largest = weight.scale[used].max().log2().ceil().exp2()
    own = torch.where(used, weight.scale, largest)
    factor = own / largest
    if min(factor.min(), own.min()) < _LEAST:
        return None
    return DequantizedWeight(weight.stored, largest, None), factor


def add_biases(folded: fx.GraphModule, *, every: bool) -> None:
    """Add biases after the products of quantized weights, in place.

    ONNX Runtime (1.32, `WeightBiasQuantization`) rounds a bias to INT32 multiples of the scales of
    input and weight, which it computes in the file's type: half precision cannot count so far, and
    INT32 not where a channel's weights are tiny. An addition it leaves alone.

    Args:
        folded: With the operators of the file.
        every: Add all of them, not only those that are large compared with the weight's scale.
    """
    for module in list(folded.modules()):
        if not isinstance(module, Kernel) or len(module.products) != 1:
            continue
        (part,) = module.products
        weight: Any = module.quantizer(part.weight)
        bias = None if weight is None else part.bias_of(module)
        if bias is not None and (every or bias.abs().max() > _FAR * weight.scale.min()):
            _follow(module, part, None)


def _follow(module: FusedModule, part: LinearPart, factor: Tensor | None) -> None:
    """Put a factor and the bias after the product."""
    layer, bias = part.of(module), part.bias_of(module)
    shift = None if bias is None else part.laid_out(module, bias.detach())
    if bias is not None:
        setattr(module, part.layer, _without_bias(layer))
    module.register_module(_STEP, Affine(factor, shift))
    module.steps = (_STEP, *module.steps)  # type: ignore[misc] # of this one alone


def _without_bias(layer: Any) -> Any:
    """The layer without its bias; one that is shared with other modules stays as it is."""
    own = copy.copy(layer)
    own._parameters = {**layer._parameters, "bias": None}  # noqa: SLF001 - a copy shares the slots
    return own
