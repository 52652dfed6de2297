"""Cross-layer equalization: one range for all channels of a tensor, without data."""

import torch
from torch import Tensor, fx

from embedl_deploy.errors import QuantizationError
from embedl_deploy.quantize.correcting.rescale.channels import Channels
from embedl_deploy.quantize.correcting.rescale.factors import Ranges, chosen, put_in
from embedl_deploy.quantize.correcting.rescale.models import rescalable
from embedl_deploy.quantize.correcting.rescale.report import Rescaling, rescaling
from embedl_deploy.quantize.correcting.rescale.walk import settle, walk
from embedl_deploy.rewrite import Result

_DEVIATIONS = 4.0
"""How far from its mean a channel is expected to reach: beyond are 6 of 100,000 normal values."""

_SETTLED = 0.01
"""The logarithm of factors that are small enough to stop."""


def equalize(result: Result | fx.GraphModule, *, rounds: int = 20) -> Rescaling:
    """Give the channels between layers ranges alike, without data and exactly in floating point.

    Cross-layer equalization (Nagel et al. 2019, arXiv 1906.04721) rests on `f(a·x) = a·f(x)`, which
    holds for every a > 0 where f is ReLU or nothing at all: a factor on a channel of one layer, and
    its inverse in the next, change nothing. The paper makes the weights' ranges of both layers
    alike, since its weights have one scale a tensor. Here a weight has a scale for each output
    channel, whatever its range, but the tensor between the layers has one scale. So what is made
    alike is the range of the tensor's channels, and the share that the next weight's columns
    have of the range of a row: the factor is the root of the second over the first. A depthwise
    convolution has one column a row, nothing to lose, and the factor is one over the range.

    The range of a channel after a batch norm is taken to be `|β| + 4·|γ|`, before a ReLU
    `β + 4·|γ|`; without one it is the bias and four times the norm of the weight's row. Nothing is
    known of layer norms, queries and keys without data: they are left, see `smooth`.

    The model is changed in place: weights, biases and factors of batch norms, which stay as they
    are otherwise. Names and shapes of its state dict stay.

    Args:
        result: What `transform` returned, or its model; from example inputs, so that shapes are
            known where something lies between two layers.
        rounds: How often to do it at most, since factors change the weights' ranges; it stops
            where none is off by 1 %.

    Returns:
        What was changed where, and what was left and why; prints as a table.

    Raises:
        QuantizationError: The model is none of `transform`, or has quantizers already.
    """
    model = rescalable(result, "equalize")
    if rounds < 1:
        raise QuantizationError(f"it takes at least one round, not {rounds}")
    channels = walk(model, {node: node.meta.get("val") for node in model.graph.nodes})
    _leave_unknown(channels)
    total = torch.ones(len(channels.classes), dtype=torch.float64)
    for _ in range(rounds):
        factors = chosen(channels, _expected(channels), 0.5)
        put_in(channels, factors)
        total *= factors
        if float(factors.log().abs().max()) < _SETTLED:
            break
    return rescaling(channels, total)


def _leave_unknown(channels: Channels) -> None:
    """Give the factor 1 to what has a range that is not known without data."""
    for producer in channels.producers:
        if not producer.known:
            reason = f"the range of '{producer.path}' is not known without data"
            channels.classes.pin(producer.labels, reason)
    for reading in channels.readings:
        if reading.ranged and reading.labels is not None:
            reason = "the ranges of query and key are not known without data"
            channels.classes.pin(reading.labels, reason)
    settle(channels)


def _expected(channels: Channels) -> Ranges:
    """The ranges that parameters let expect; of several for a channel, the largest."""
    roots, _ = channels.classes.roots()
    largest = torch.zeros(len(roots), dtype=torch.float64)
    for producer in channels.producers:
        places = roots[producer.labels.long()]
        largest.scatter_reduce_(0, places, producer.range(_DEVIATIONS), "amax")

    def ranges(_: object, labels: Tensor) -> Tensor:
        return largest[roots[labels.long()]]

    return ranges
