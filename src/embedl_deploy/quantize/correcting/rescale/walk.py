"""One walk through a model's graph, to find which channels may have factors.

The walk keeps for every value either labels, one for each channel that may have a factor, or the
reason why there are none. Operations that copy values are run on the labels, so no layout needs
a rule of its own. Where values with labels are added, the factors have to be the same: those of
a residual stream, or of the two halves that a rotary embedding mixes. What takes no factor
holds those of its inputs to 1.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, fx

from embedl_deploy.quantize.correcting.rescale.channels import Channels, Value
from embedl_deploy.quantize.correcting.rescale.functions import function
from embedl_deploy.quantize.correcting.rescale.layers import called, vector


def walk(model: fx.GraphModule, shapes: Mapping[fx.Node, Any]) -> Channels:
    """The channels of a model that may have factors.

    Args:
        model: A model from `transform`.
        shapes: What is known of each node's value: a tensor, whose shape counts, or a number.
    """
    channels = Channels(model, shapes)
    for node in model.graph.nodes:
        channels.labels[node] = _labels(channels, node)
    settle(channels)
    return channels


def _labels(channels: Channels, node: fx.Node) -> Value:
    match node.op:
        case "placeholder":
            return f"'{node.target}' is an input of the model"
        case "get_attr":
            return vector(channels, node)
        case "call_module":
            return called(channels, node)
        case "output":
            return channels.stopped(node, "it is a result of the model")
    return function(channels, node)


def settle(channels: Channels) -> None:
    """Give all channels of a tensor the factor 1 where one has it: their ratio would change."""
    classes = channels.classes
    tensors = channels.tensors()
    while mixed := _mixed(tensors, classes.pinned()):
        for labels in mixed:
            classes.pin(labels, classes.reason(labels))


def _mixed(tensors: list[Tensor], pinned: Tensor) -> list[Tensor]:
    held = [(labels, pinned[labels.long()]) for labels in tensors]
    return [labels for labels, one in held if one.any() and not one.all()]
