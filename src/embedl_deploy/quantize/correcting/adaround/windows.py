"""Convolutions as products of a matrix with the windows of their input."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from embedl_deploy.modules.conv import FusedConvTransposeBN


def window_rows(module: Any, input: Tensor, product: Tensor, drawn: Tensor) -> Tensor:  # noqa: A002 - torch's name for it
    """The windows of some positions, shape (groups, positions, inputs of a group).

    Args:
        module: A fused convolution, transposed or not.
        input: Its input.
        product: Its product, channels last; for its shape.
        drawn: Indices of positions, row by row of the product.
    """
    conv, dims = module.conv, len(module.conv.kernel_size)
    if input.dim() == dims + 1:
        input, product = input[None], product[None]  # noqa: A001 - likewise
    if isinstance(module, FusedConvTransposeBN):
        windows = _windows(_spread(conv, input, product), conv, stride=(1,) * dims)
    else:
        mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
        padded = F.pad(input, _padding(conv), mode)
        windows = _windows(padded, conv, stride=conv.stride)
    chosen = windows[torch.unravel_index(drawn, product.shape[:-1])]
    return chosen.unflatten(1, (conv.groups, -1)).flatten(2).transpose(0, 1).contiguous()


def flipped(weight: Tensor) -> Tensor:
    """The weight of a transposed convolution as what its windows are multiplied by, and back."""
    return weight.flip(tuple(range(2, weight.dim()))).transpose(0, 1)


def _padding(conv: Any) -> list[int]:
    """What its forward pads: in mode zeros what its padding is now, which may have been set."""
    if conv.padding_mode == "zeros" and not isinstance(conv.padding, str):
        return [size for size in reversed(conv.padding) for _ in range(2)]
    repeated: list[int] = conv._reversed_padding_repeated_twice  # noqa: SLF001 - likewise
    return repeated


def _windows(padded: Tensor, conv: Any, stride: tuple[int, ...]) -> Tensor:
    """A view of the windows, shape (N, positions…, channels, kernel…)."""
    dims = len(conv.kernel_size)
    for axis, (size, step, gap) in enumerate(
        zip(conv.kernel_size, stride, conv.dilation, strict=True), 2
    ):
        padded = padded.unfold(axis, (size - 1) * gap + 1, step)[..., ::gap]
    return padded.movedim(1, dims + 1)


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
