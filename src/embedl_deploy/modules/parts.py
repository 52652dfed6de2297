"""Weighted products of fused modules: what later stages ask of a weight.

A part is a value of the module's class. It names the layer, and works on any instance, so it
survives copies and does not refer to a tensor.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Part:
    """A weight of a fused module that may be quantized.

    This base says where the weight is, and no more. One of its subclasses also says how the
    weight is multiplied, which everything that corrects rounding needs.

    Attributes:
        layer: The child that holds the weight.
        parameter: The weight's name in it.
        argument: The argument of the module's `forward` that the weight is multiplied with.
    """

    layer: str
    parameter: str = "weight"
    argument: str = "input"

    computes = False
    """Whether the part says how it is multiplied."""

    axis = 0
    """The dimension of the weight that holds the output channels."""

    bias = "bias"
    """The name of the bias in the layer."""

    @property
    def weight(self) -> str:
        """The path of the weight in the module."""
        return f"{self.layer}.{self.parameter}"

    @property
    def bias_path(self) -> str:
        """The path of the bias in the module, which may be `None` there."""
        return f"{self.layer}.{self.bias}"

    def of(self, module: nn.Module) -> Any:
        """The layer."""
        return getattr(module, self.layer)

    def tensor(self, module: nn.Module) -> Tensor:
        """The weight, without rounding."""
        tensor: Tensor = getattr(self.of(module), self.parameter)
        return tensor

    def quantizable(self, module: nn.Module) -> bool:
        """Whether one scale per output channel exists along `axis`."""
        del module
        return True

    def share(self, tensor: Tensor) -> Tensor:
        """What belongs to this part of a weight or bias that several parts share."""
        return tensor

    def bias_of(self, module: nn.Module) -> Tensor | None:
        """The bias, shape (channels)."""
        bias = getattr(self.of(module), self.bias, None)
        return None if bias is None else self.share(bias)

    def shifts(self, module: nn.Module) -> bool:
        """Whether the bias is added to the product."""
        return self.bias_of(module) is not None


@dataclass(frozen=True)
class LinearPart(Part):
    """The product of a linear layer: `input @ weightᵀ + bias`."""

    computes = True

    def spatial(self, module: nn.Module) -> int:
        """How many dimensions come after the channels, in the input and in the product."""
        del module
        return 0

    def matrix(self, module: nn.Module, weight: Tensor) -> Tensor:
        """The weight, or a tensor of its shape, as a view (groups, outputs, inputs, …)."""
        del module
        return self.share(weight)[None]

    def compute(self, module: Any, input: Tensor) -> Tensor:  # noqa: A002 - torch's name for it
        """The product, with its weight rounded where it is quantized, and the bias."""
        weight, bias = module.weight(self.weight), self.bias_of(module)
        return F.linear(input, self.share(weight), bias)

    def product(self, module: Any, given: Mapping[str, Any]) -> Tensor:
        """The product of a call, shape (…, outputs), from its arguments by name."""
        return self.compute(module, given[self.argument])

    def channels_last(self, module: nn.Module, tensor: Tensor) -> Tensor:
        """A tensor in the layout of the product, with its channels in the last dimension."""
        return tensor.movedim(-1 - self.spatial(module), -1)

    def laid_out(self, module: Any, channels: Tensor) -> Tensor:
        """A vector over the channels, shaped to broadcast against the module's result."""
        return channels.view(-1, *(1,) * self.spatial(module))

    def rows(self, module: Any, given: Mapping[str, Any], product: Tensor, drawn: Tensor) -> Tensor:
        """What the matrix is multiplied with at some positions: (groups, positions, inputs).

        Args:
            module: The fused module.
            given: The arguments of a call, by name.
            product: Of that call, channels last; its shape counts.
            drawn: Indices of positions of the product, in row-major order.
        """
        del module, product
        rows: Tensor = given[self.argument].flatten(0, -2)[drawn][None]
        return rows


@dataclass(frozen=True)
class ProjectionPart(LinearPart):
    """One of the products of an attention's input projection.

    Attributes:
        place: Which of them it is.
        parts: How many there are.
        packed: Whether one weight holds all.
    """

    place: int = 0
    parts: int = 3
    packed: bool = True

    bias = "in_proj_bias"

    def share(self, tensor: Tensor) -> Tensor:
        """Its rows of a bias, or of a packed weight."""
        shared = self.packed or tensor.dim() == 1
        return tensor.chunk(self.parts)[self.place] if shared else tensor

    def shifts(self, module: nn.Module) -> bool:
        """Whether the bias is added: the keys may have none."""
        added = self.argument != "key" or self.of(module).key_bias
        return added and super().shifts(module)

    def compute(self, module: Any, input: Tensor) -> Tensor:  # noqa: A002 - torch's name for it
        bias = self.bias_of(module) if self.shifts(module) else None
        return F.linear(input, self.share(module.weight(self.weight)), bias)

    def product(self, module: Any, given: Mapping[str, Any]) -> Tensor:
        return self.compute(module, self._batch_first(module, given))

    def laid_out(self, module: Any, channels: Tensor) -> Tensor:
        return channels.view(self.of(module).num_heads, 1, -1)

    def rows(self, module: Any, given: Mapping[str, Any], product: Tensor, drawn: Tensor) -> Tensor:
        return self._batch_first(module, given).flatten(0, -2)[drawn][None]

    def _batch_first(self, module: Any, given: Mapping[str, Any]) -> Tensor:
        tensor: Tensor = given[self.argument]
        turned = tensor.dim() == 3 and not self.of(module).batch_first
        return tensor.transpose(0, 1) if turned else tensor


@dataclass(frozen=True)
class ConvPart(LinearPart):
    """The product of a convolution."""

    def spatial(self, module: nn.Module) -> int:
        return len(self.of(module).kernel_size)

    def matrix(self, module: nn.Module, weight: Tensor) -> Tensor:
        return weight.unflatten(0, (self.of(module).groups, -1))

    def compute(self, module: Any, input: Tensor) -> Tensor:  # noqa: A002 - torch's name for it
        conv = self.of(module)
        return conv._conv_forward(input, module.weight(self.weight), conv.bias)  # noqa: SLF001 - applies the padding mode

    def product(self, module: Any, given: Mapping[str, Any]) -> Tensor:
        return self.channels_last(module, super().product(module, given))

    def rows(self, module: Any, given: Mapping[str, Any], product: Tensor, drawn: Tensor) -> Tensor:
        conv, tensor = self.of(module), given[self.argument]
        if tensor.dim() == self.spatial(module) + 1:
            tensor, product = tensor[None], product[None]
        windows = self._windows(conv, tensor, product)
        chosen = windows[torch.unravel_index(drawn, product.shape[:-1])]
        return chosen.unflatten(1, (conv.groups, -1)).flatten(2).transpose(0, 1).contiguous()

    def _windows(self, conv: Any, tensor: Tensor, product: Tensor) -> Tensor:
        del product
        mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
        return _unfolded(F.pad(tensor, _padding(conv), mode), conv, conv.stride)


@dataclass(frozen=True)
class ConvTransposePart(ConvPart):
    """The product of a transposed convolution, whose weight is (inputs, outputs/groups, …)."""

    axis = 1

    def quantizable(self, module: nn.Module) -> bool:
        """Only with one group: otherwise an index of dimension 1 is a channel of each group."""
        return bool(self.of(module).groups == 1)

    def matrix(self, module: nn.Module, weight: Tensor) -> Tensor:
        return super().matrix(module, weight).transpose(1, 2)

    def compute(self, module: Any, input: Tensor, output_size: Any = None) -> Tensor:  # noqa: A002 - torch's name for it
        conv = self.of(module)
        dimensions = len(conv.kernel_size)
        sizes: Any = (conv.stride, conv.padding, conv.kernel_size, dimensions, conv.dilation)
        padding = conv._output_padding(input, output_size, *sizes)  # noqa: SLF001 - as the module's own forward
        options: Any = (conv.stride, conv.padding, padding, conv.groups, conv.dilation)
        function = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[dimensions - 1]
        return function(input, module.weight(self.weight), conv.bias, *options)

    def product(self, module: Any, given: Mapping[str, Any]) -> Tensor:
        result = self.compute(module, given[self.argument], given.get("output_size"))
        return self.channels_last(module, result)

    def _windows(self, conv: Any, tensor: Tensor, product: Tensor) -> Tensor:
        dimensions = len(conv.kernel_size)
        windows = _unfolded(_spread(conv, tensor, product), conv, (1,) * dimensions)
        return windows.flip(tuple(range(-dimensions, 0)))


def _padding(conv: Any) -> list[int]:
    """What its forward pads: in mode zeros what its padding is now, which may have been set."""
    if conv.padding_mode == "zeros" and not isinstance(conv.padding, str):
        return [size for size in reversed(conv.padding) for _ in range(2)]
    repeated: list[int] = conv._reversed_padding_repeated_twice  # noqa: SLF001 - likewise
    return repeated


def _unfolded(padded: Tensor, conv: Any, stride: tuple[int, ...]) -> Tensor:
    """A view of the windows, shape (N, positions…, channels, kernel…)."""
    dimensions = len(conv.kernel_size)
    for axis, (size, step, gap) in enumerate(
        zip(conv.kernel_size, stride, conv.dilation, strict=True), 2
    ):
        padded = padded.unfold(axis, (size - 1) * gap + 1, step)[..., ::gap]
    return padded.movedim(1, dimensions + 1)


def _spread(conv: Any, input: Tensor, product: Tensor) -> Tensor:  # noqa: A002 - torch's name for it
    """The input with zeros between its values and around, so that a stride of 1 is left."""
    sizes = [(size - 1) * step + 1 for size, step in zip(input.shape[2:], conv.stride, strict=True)]
    spread = input.new_zeros(*input.shape[:2], *sizes)
    places: Any = (..., *(slice(None, None, step) for step in conv.stride))
    spread[places] = input
    pads: list[int] = []
    for axis, size in enumerate(sizes):
        reach = (conv.kernel_size[axis] - 1) * conv.dilation[axis]
        before = reach - conv.padding[axis]
        pads = [before, product.shape[1 + axis] + reach - before - size, *pads]
    return F.pad(spread, pads)
