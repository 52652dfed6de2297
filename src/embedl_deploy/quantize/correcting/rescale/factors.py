"""The factors of channels: chosen from ranges, and put into the parameters."""

from collections.abc import Callable
from copy import deepcopy

import torch
from torch import Tensor

from embedl_deploy.quantize.correcting.rescale.channels import Channels
from embedl_deploy.quantize.correcting.rescale.sites import Reading

Ranges = Callable[[Reading, Tensor], Tensor]
"""The largest magnitude of each channel of a tensor, from the reading and its labels."""


def chosen(channels: Channels, ranges: Ranges, alpha: float) -> Tensor:
    """A factor for every label, that makes the ranges of channels alike.

    With the range A of a channel and the share W that it has of the weights' range it is
    `W^(1-α) / A^α`. Where no weight has a range at stake it is `1 / A`: a depthwise convolution
    has one scale for each channel, so its weights round alike with any factor. Where the channel
    is always 0 it is `W`. The product of query and key has α = ½, since both have one scale.
    """
    roots, signs = channels.classes.roots()
    growing, shrinking = _ranges(channels, ranges, roots, signs)
    attended = torch.zeros(len(roots), dtype=torch.bool)
    for reading in channels.readings:
        if reading.ranged and reading.labels is not None:
            attended[roots[reading.labels.long()]] = True
    exponent = torch.full_like(growing, alpha)
    exponent[attended] = 0.5
    exponent[shrinking == 0] = 1.0
    exponent[growing == 0] = 0.0
    factors = shrinking ** (1 - exponent) / growing**exponent
    dead = (growing + shrinking == 0) | (attended & (growing * shrinking == 0))
    factors[dead | channels.classes.pinned()] = 1.0
    return _levelled(channels, factors[roots] ** signs)


def _levelled(channels: Channels, factors: Tensor) -> Tensor:
    """The factors with a geometric mean of 1 in tensors that have channels in common."""
    groups = deepcopy(channels.classes)
    for labels in channels.tensors():
        groups.join(labels[:1], labels)
    roots, signs = groups.roots()
    logs = torch.zeros_like(factors)
    logs.scatter_reduce_(0, roots, factors.log() * signs, "mean", include_self=False)
    logs[groups.pinned()] = 0.0
    return factors / (logs[roots] * signs).exp()


def _ranges(channels: Channels, ranges: Ranges, roots: Tensor, signs: Tensor) -> Tensor:
    """For every set of channels the largest range that grows with its factor, and that shrinks."""
    found = torch.zeros(2, len(roots), dtype=torch.float64)
    pinned = channels.classes.pinned()
    for reading in channels.readings:
        if reading.labels is None or not reading.quantized:
            continue
        labels = reading.labels.long()
        if pinned[labels].all():
            continue
        side = (signs[labels] < 0).long()
        rooted = roots[labels]
        found.view(-1).scatter_reduce_(
            0, side * len(roots) + rooted, even(ranges(reading, reading.labels)), "amax"
        )
        for matrix in reading.matrices:
            if matrix.tensor.shape[2] > 1:
                place = (1 - side) * len(roots) + rooted
                found.view(-1).scatter_reduce_(0, place, even(matrix.column_ranges()), "amax")
    return found


def even(ranges: Tensor) -> Tensor:
    """Ranges whose geometric mean is 1, so that factors leave a tensor's magnitude as it is.

    None is taken to be less than a millionth of the largest, but those that are 0 stay.
    """
    ranges = ranges.to("cpu", torch.float64)
    alive = ranges > 0
    if not alive.any():
        return ranges
    raised = ranges.clamp(min=float(ranges.max()) * 1e-6)
    return torch.where(alive, raised / raised[alive].log().mean().exp(), 0.0)


def put_in(channels: Channels, factors: Tensor) -> None:
    """Multiply what gives the channels by their factors in place, and divide what reads them."""
    with torch.no_grad():
        for producer in channels.producers:
            producer.scale(factors[producer.labels.long()])
        for reading in channels.readings:
            if reading.labels is not None:
                reading.scale(factors[reading.labels.long()])
