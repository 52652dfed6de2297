"""What the weights of fused modules give, before anything else in the kernel: bias and all."""

from typing import Any

from torch import Tensor

from embedl_deploy.modules import FusedMHAInProjection
from embedl_deploy.modules.linear import FusedLinear
from embedl_deploy.quantize.measuring.sidebyside import Given


def products(module: Any, given: Given) -> tuple[Tensor, ...]:
    """The products of a call, each of shape (…, output channels).

    An in-projection has three, whose channels are those of its packed bias, in order.
    """
    if isinstance(module, FusedMHAInProjection):
        return tuple(one.transpose(-3, -2).flatten(-2) for one in module(**given))
    arguments = {name: one for name, one in given.items() if name != "residual"}
    return (channels_last(module, module.product(**arguments)),)


def channels_last(module: Any, tensor: Tensor) -> Tensor:
    """A product or result of a module with its channels in the last dimension."""
    return tensor.movedim(-1 - dimensions(module), -1)


def dimensions(module: Any) -> int:
    """How many dimensions come after the channels in a module's product."""
    return 0 if isinstance(module, FusedLinear) else len(module.conv.kernel_size)
