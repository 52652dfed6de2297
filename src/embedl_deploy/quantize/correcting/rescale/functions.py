"""How functions deal with factors."""

import operator
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_arg
from torch.utils import _pytree as pytree

from embedl_deploy.graph.interpreter import plain
from embedl_deploy.quantize.correcting.rescale.channels import Channels, Value
from embedl_deploy.quantize.correcting.rescale.classes import FIXED
from embedl_deploy.quantize.correcting.rescale.labels import collapsed, ranked
from embedl_deploy.quantize.correcting.rescale.operations import (
    ASKING,
    PASSING,
    PRODUCTS,
    REDUCTIONS,
    RESAMPLINGS,
    SUMS,
)
from embedl_deploy.quantize.placing.copying import copied_inputs, operation_name


def function(channels: Channels, node: fx.Node) -> Value:
    """The labels of a function's result."""
    name = operation_name(node)
    if node.target is getattr or name in ASKING:
        return "it is no tensor"
    values = [channels.labels[source] for source in node.all_input_nodes]
    if node.target is operator.getitem and isinstance(values[0], tuple):
        return values[0][cast("int", node.args[1])]
    if not any(isinstance(one, Tensor) for one in pytree.tree_leaves(values)):
        return next((one for one in values if isinstance(one, str)), "it follows from nothing")
    if name in PASSING or (name == "to" and _stays_float(node)):
        return channels.of(node.all_input_nodes[0])
    return next((rule for names, rule in _RULES if name in names), _other)(channels, node)


def _stays_float(cast_node: fx.Node) -> bool:
    """Whether a cast is to a floating-point type: one to integers rounds."""
    types = [one for one in cast_node.args if isinstance(one, torch.dtype)]
    return bool(types) and all(one.is_floating_point for one in types)


def _added(channels: Channels, node: fx.Node) -> Value:
    return channels.added(node, *(channels.of(one) for one in node.args))


def _resampled(channels: Channels, node: fx.Node) -> Value:
    rank = channels.rank(node)
    return channels.stopped(node) if rank is None else spatial(channels, node, rank - 2)


def _other(channels: Channels, node: fx.Node) -> Value:
    known = copied_inputs(node, channels.modules)
    return copied(channels, node) if known else channels.stopped(node)


def spatial(channels: Channels, node: fx.Node, dimensions: int) -> Value:
    """The labels of an operation on each channel alone, over so many last dimensions."""
    labels = channels.of(node.all_input_nodes[0])
    if not isinstance(labels, Tensor):
        return labels
    ends = ranked(labels, dimensions + 1).shape[-dimensions:]
    return labels if set(ends) == {1} else channels.stopped(node)


def _product(channels: Channels, node: fx.Node) -> Value:
    """A product is homogeneous in either factor, a quotient in what is divided.

    Of two that have labels neither gets factors, unless one is a vector of the model: that stays.
    """
    one, other = (_unless_vector(channels, node, at) for at in (0, 1))
    if isinstance(other, str):
        return one
    if isinstance(one, str) and node.target is operator.mul:
        return other
    return channels.stopped(node)


def _unless_vector(channels: Channels, node: fx.Node, at: int) -> Value:
    """The labels of a factor; a vector of the model gives up its own where the other has some."""
    mine, other = node.args[at], node.args[1 - at]
    if not isinstance(mine, fx.Node) or mine.op != "get_attr":
        return channels.of(mine)
    computed = isinstance(other, fx.Node) and other.op != "get_attr"
    if computed and isinstance(channels.of(other), Tensor):
        return channels.pin(
            channels.of(mine), f"{channels.named(node)} multiplies what has factors by it"
        )
    return channels.of(mine)


def _reduced(channels: Channels, node: fx.Node) -> Value:
    labels, rank = channels.of(node.args[0]), channels.rank(node.all_input_nodes[0])
    if rank is None or len(node.args) != 3 or node.kwargs:
        return channels.stopped(node)
    _, dims, keep = node.args
    labels = ranked(labels, rank)
    places = [dim % rank for dim in cast("tuple[int, ...]", dims)]
    if any(labels.shape[place] != 1 for place in places):
        return channels.stopped(node)
    return labels if keep else labels.squeeze(places)


def copied(channels: Channels, node: fx.Node, module: nn.Module | None = None) -> Value:
    """The labels of what only copies: those of its input, copied."""
    sources = copied_inputs(node, channels.modules)
    known = {one: channels.shapes.get(one) for one in node.all_input_nodes}
    fit = [isinstance(known[one], Tensor if one in sources else (int, tuple)) for one in known]
    if not all(fit):
        return channels.stopped(node, f"the shape at {channels.named(node)} is not known")
    arguments = {
        one: _spread(channels.labels[one], value.shape) if isinstance(value, Tensor) else value
        for one, value in known.items()
    }
    args, kwargs = plain(map_arg((node.args, node.kwargs), arguments.__getitem__))
    if node.op == "call_method":
        result = getattr(args[0], str(node.target))(*args[1:], **kwargs)
    else:
        result = (module or cast("Any", node.target))(*args, **kwargs)
    whole = tuple(result) if isinstance(result, list | tuple) else result
    return pytree.tree_map_only(Tensor, collapsed, whole)


def _spread(labels: Value, shape: Sequence[int]) -> Tensor:
    fixed = torch.tensor(float(FIXED), dtype=torch.float64)
    return (labels if isinstance(labels, Tensor) else fixed).expand(*shape)


_RULES = (
    (SUMS, _added),
    (PRODUCTS, _product),
    (REDUCTIONS, _reduced),
    (RESAMPLINGS, _resampled),
)
"""By name of the operation; where two have it, the first counts."""
