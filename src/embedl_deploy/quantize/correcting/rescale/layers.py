"""How modules deal with factors: what gives labels, takes them, or passes them on."""

from typing import Any

from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from embedl_deploy.modules import FusedModule, LinearPart
from embedl_deploy.modules.base import RESIDUAL
from embedl_deploy.modules.conv import LayerScale
from embedl_deploy.quantize.correcting.rescale.channels import Channels, Value
from embedl_deploy.quantize.correcting.rescale.functions import copied, spatial
from embedl_deploy.quantize.correcting.rescale.operations import NORMS, SPATIAL, passes
from embedl_deploy.quantize.correcting.rescale.sites import Producer, Reading, matrix_of
from embedl_deploy.quantize.placing.copying import copied_inputs


def called(channels: Channels, node: fx.Node) -> Value:
    """The labels of a module's result."""
    module = channels.modules[str(node.target)]
    if not isinstance(module, FusedModule):
        return _operation(channels, node, module)
    if module.attends is not None:
        return _attention(channels, node, module)
    if len(module.products) == 1 and module.described:
        return _kernel(channels, node, module, module.products[0])
    if module.products and module.described and not module.steps:
        return _projection(channels, node, module)
    if not module.parts and module.described and len(module.steps) == 1:
        return _operation(channels, node, getattr(module, module.steps[0]))
    return _undescribed(channels, node, module)


def _undescribed(channels: Channels, node: fx.Node, module: FusedModule) -> Value:
    """A module of which too little is known."""
    reason = channels.stopped(node, f"{channels.named(node)} does not say what it computes")
    for part in module.parts:
        reading = Reading(str(node.target), module, (part.argument,), None, reason)
        channels.readings.append(reading)
    return reason


def _operation(channels: Channels, node: fx.Node, operation: nn.Module) -> Value:
    """An operation by itself, fused or not; exact types alone: a subclass may compute anything."""
    if type(operation) in NORMS:
        return _norm(channels, node, operation)
    if passes(operation):
        return channels.of(node.all_input_nodes[0])
    if type(operation) in SPATIAL:
        if isinstance(channels.modules[str(node.target)], FusedModule):
            channels.read(node, ("input",))
        return spatial(channels, node, SPATIAL[type(operation)])
    if copied_inputs(node, channels.modules):
        return copied(channels, node, operation)
    return channels.stopped(node)


def _kernel(channels: Channels, node: fx.Node, module: FusedModule, part: LinearPart) -> Value:
    """One weight, and the steps that follow it."""
    labels = channels.read(node, (part.argument,), [matrix_of(module, part)])
    if channels.tied(module):
        reason = f"the weight of {channels.named(node)} is used elsewhere too"
        channels.pin(labels, reason)
        result: Value = reason
    else:
        result = _results(channels, node, module, part)
    for name in module.steps:
        if name == RESIDUAL:
            result = _added(channels, node, result)
        else:
            result = _stepped(channels, node, getattr(module, name), result)
    if module.pooling and type(getattr(module, module.pooling)) not in SPATIAL:
        return channels.pin(result, f"the '{module.pooling}' of '{node.target}' takes no factor")
    return result


def _added(channels: Channels, node: fx.Node, result: Value) -> Value:
    """What a kernel gives with its residual."""
    residual = channels.given(node)[RESIDUAL]
    if isinstance(residual, fx.Node):
        channels.read(node, (RESIDUAL,))
    return channels.added(node, result, channels.of(residual))


def _stepped(channels: Channels, node: fx.Node, step: nn.Module | None, result: Value) -> Value:
    """What a kernel gives after a step, if that is there."""
    module: Any = channels.modules[str(node.target)]
    if step is None or step is module.norm or passes(step) or isinstance(step, LayerScale):
        return result
    name = type(step).__name__
    return channels.pin(result, f"{name} in '{node.target}' takes no factor")


def _results(channels: Channels, node: fx.Node, module: FusedModule, part: LinearPart) -> Value:
    """New labels for the output channels of a weight, or of the norm after it."""
    matrix, path, norm = matrix_of(module, part), str(node.target), module.norm
    if norm is not None and norm.weight is None:
        return f"the batch norm in '{path}' has no factors"
    labels = channels.classes.new(matrix.rows)
    steps = [getattr(module, name, None) for name in module.steps]
    scale = next((one.weight for one in steps if isinstance(one, LayerScale)), None)
    producer = Producer(
        path,
        labels,
        matrix=matrix if norm is None else None,
        gain=None if norm is None else _plain(norm.weight),
        shift=_plain(part.bias_of(module) if norm is None else norm.bias),
        after=None if scale is None else scale.detach().flatten(),
        rectified=any(type(one) is nn.ReLU for one in steps),
    )
    channels.producers.append(producer)
    return part.laid_out(module, labels)


def _projection(channels: Channels, node: fx.Node, module: FusedModule) -> Value:
    """Query, key and value by heads: (heads, 1, size) each."""
    path, given = str(node.target), channels.given(node)
    arguments: dict[Any, list[LinearPart]] = {}
    for part in module.products:
        arguments.setdefault(given[part.argument], []).append(part)
    tied = channels.tied(module)
    reason = f"the weight of {channels.named(node)} is used elsewhere too"
    for parts in arguments.values():
        names = tuple(part.argument for part in parts)
        labels = channels.read(node, names, [matrix_of(module, part) for part in parts])
        if tied:
            channels.pin(labels, reason)
    if tied:
        return reason
    results = []
    for part in module.products:
        matrix = matrix_of(module, part)
        labels = channels.classes.new(matrix.rows)
        shift = _plain(part.bias_of(module))
        channels.producers.append(Producer(path, labels, matrix=matrix, shift=shift))
        results.append(part.laid_out(module, labels))
    return tuple(results)


def _attention(channels: Channels, node: fx.Node, module: FusedModule) -> Value:
    """`(Q·D)(K/D)ᵀ` is `QKᵀ`, and a factor on a channel of the value is one on the result's."""
    given = channels.given(node)
    channels.pin(channels.of(given.get("attn_mask")), f"{channels.named(node)} adds its mask")
    groups = 1
    if getattr(module.attends, "enable_gqa", False):
        if not all(channels.rank(given[name]) for name in ("query", "key")):
            return channels.stopped(node, f"the shape at {channels.named(node)} is not known")
        queries, keys = (channels.shape(given[name], 3)[-3] for name in ("query", "key"))
        groups = queries // keys
    query = _by_head(channels, node, "query", 1)
    key = _by_head(channels, node, "key", groups)
    value = _by_head(channels, node, "value", groups)
    if query is None or key is None or query.shape != key.shape:
        reason = f"{channels.named(node)} multiplies it with what takes no factor"
        channels.pin((query, key), reason)
    else:
        channels.classes.join(query, key, -1)
    return f"{channels.named(node)} mixes the channels of its value" if value is None else value


def _by_head(channels: Channels, node: fx.Node, name: str, groups: int) -> Tensor | None:
    """Labels of an input of attention: (heads, 1, size), or (size) where there are no heads."""
    labels, tensor = channels.read(node, (name,)), channels.given(node)[name]
    if labels is None or channels.rank(tensor) == 3:
        return labels
    heads = channels.shape(tensor, 3)[-3]
    return labels.view(heads, 1, -1).repeat_interleave(groups, 0)


def _norm(channels: Channels, node: fx.Node, norm: Any) -> Value:
    """A norm takes no factor, and its weight and bias give its result one."""
    reason = channels.stopped(node)
    gain = norm.weight
    rank = channels.rank(node)
    if gain is None or channels.tied(norm) or rank is None:
        return reason
    labels = channels.classes.new(gain.numel())
    shift = getattr(norm, "bias", None)
    producer = Producer(
        str(node.target),
        labels,
        gain=gain.detach().view(-1),
        shift=None if shift is None else shift.detach().view(-1),
        known=isinstance(norm, _BatchNorm),
    )
    channels.producers.append(producer)
    if hasattr(norm, "normalized_shape"):
        return labels.view(norm.normalized_shape)
    return labels.view(-1, *(1,) * (rank - 2))


def vector(channels: Channels, node: fx.Node) -> Value:
    """The labels of a vector of parameters, which gives its channels to what it multiplies.

    Such as the factors and the bias of a norm that is written out.
    """
    tensor, path = channels.held(node), str(node.target)
    is_vector = isinstance(tensor, nn.Parameter) and tensor.numel() == max(tensor.shape, default=0)
    if not is_vector or tensor.numel() == 1 or channels.tied(tensor):
        return f"'{path}' is a tensor of the model"
    labels = channels.classes.new(tensor.numel())
    gain = tensor.detach().view(-1)
    channels.producers.append(Producer(path, labels, gain=gain, known=False))
    return labels.view(tensor.shape)


def _plain(parameter: Tensor | None) -> Tensor | None:
    return None if parameter is None else parameter.detach()
