"""Weights whose scales half precision does not hold as normal numbers."""

import logging

import torch
from torch import nn

from embedl_deploy.export.operators import DequantizedWeight
from embedl_deploy.quantize.rounding import FLOAT8, INT8, per_channel

_logger = logging.getLogger(__name__)


def raise_scales(module: nn.Module, dtype: torch.dtype, path: str) -> None:
    """Raise the scales of the weights in a module to what half precision holds, in place."""
    for one in module.modules():
        if isinstance(one, DequantizedWeight):
            _raise_scale(one, dtype, path)


def _raise_scale(weight: DequantizedWeight, dtype: torch.dtype, path: str) -> None:
    """No scale below the smallest normal number: a compiler may take it for zero.

    A channel with one has tiny weights alone, and its numbers are rounded anew: integers to a
    step of 6e-5 in float16. An FP8 scale is raised by a power of two, which most FP8 numbers
    give back exactly in their exponent.
    """
    least = torch.finfo(dtype).smallest_normal
    low = weight.scale < least
    if not low.any():
        return
    _logger.info("%d channels of '%s' have their scale raised to %.1e", low.sum(), path, least)
    raised = weight.scale.clamp(min=least)
    grid = INT8
    if weight.stored.dtype == FLOAT8.dtype:
        grid = FLOAT8
        raised = weight.scale * (raised / weight.scale).log2().ceil().exp2()
    numbers = weight.stored.double()
    share = weight.scale.double() / raised
    if weight.axis is not None:
        share = per_channel(share, numbers, weight.axis)
    weight.stored = grid.round(numbers * share).to(grid.dtype)
    weight.scale = raised
