"""Putting random factors wherever they may go: nothing may change in floating point."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

from embedl_deploy.batches import inferring
from embedl_deploy.quantize.correcting.rescale.channels import Channels
from embedl_deploy.quantize.correcting.rescale.factors import put_in
from embedl_deploy.quantize.correcting.rescale.observe import _Shaped
from embedl_deploy.quantize.correcting.rescale.walk import walk


def rescaled(model: fx.GraphModule, args: Sequence[Any]) -> tuple[Channels, Tensor]:
    """Scale every set of channels that may have a factor by one of its own, from 1/4 to 4."""
    shapes: dict[fx.Node, Any] = {}
    with inferring(model):
        _Shaped(model, shapes).run(*args)
    channels = walk(model, shapes)
    roots, signs = channels.classes.roots()
    factors = 4 ** (2 * torch.rand(len(roots), dtype=torch.float64) - 1)
    factors[channels.classes.pinned()] = 1.0
    factors = factors[roots] ** signs
    put_in(channels, factors)
    return channels, factors
