"""How modules deal with factors: what gives labels, takes them, or passes them on."""

from typing import Any

from torch import Tensor, fx, nn

from embedl_deploy.modules import (
    FusedConvBN,
    FusedConvBNAdd,
    FusedConvBNAddReLU,
    FusedConvBNReLU,
    FusedConvBNReLUAdd,
    FusedConvBNReLUMaxPool,
    FusedConvTransposeBN,
    FusedConvTransposeBNReLU,
    FusedLinear,
    FusedLinearAdd,
    FusedLinearBN,
    FusedLinearBNReLU,
    FusedLinearReLU,
    FusedMHAInProjection,
    FusedModule,
    FusedScaledDotProductAttention,
)
from embedl_deploy.quantize.correcting.rescale.channels import Channels, Value
from embedl_deploy.quantize.correcting.rescale.functions import copied, spatial
from embedl_deploy.quantize.correcting.rescale.operations import HOMOGENEOUS, NORMS, SPATIAL, passes
from embedl_deploy.quantize.correcting.rescale.sites import (
    Kernel,
    Producer,
    biases_of,
    matrices_of,
    matrix_of,
)
from embedl_deploy.quantize.placing.copying import copied_inputs

KERNELS = (
    FusedConvBN,
    FusedConvBNAdd,
    FusedConvBNAddReLU,
    FusedConvBNReLU,
    FusedConvBNReLUAdd,
    FusedConvBNReLUMaxPool,
    FusedConvTransposeBN,
    FusedConvTransposeBNReLU,
    FusedLinear,
    FusedLinearAdd,
    FusedLinearBN,
    FusedLinearBNReLU,
    FusedLinearReLU,
)


def called(channels: Channels, node: fx.Node) -> Value:
    """The labels of a module's result; exact types alone, since a subclass may compute anything."""
    module = channels.modules[str(node.target)]
    kind = type(module)
    if kind in KERNELS:
        return _kernel(channels, node, module)
    if kind is FusedMHAInProjection:
        return _projection(channels, node, module)
    if kind is FusedScaledDotProductAttention:
        return _attention(channels, node, module)
    if kind in NORMS:
        return _norm(channels, node, module)
    if passes(module):
        return channels.of(node.all_input_nodes[0])
    if kind in SPATIAL:
        if isinstance(module, FusedModule):
            channels.read(node, ("input",))
        return spatial(channels, node, SPATIAL[kind])
    if copied_inputs(node, channels.modules):
        return copied(channels, node, module)
    return channels.stopped(node)


def _kernel(channels: Channels, node: fx.Node, module: Kernel) -> Value:
    """One weight, what follows it in the kernel, and the residual, if any."""
    matrix = matrix_of(module)
    labels = channels.read(node, ("input",), [matrix])
    if channels.tied(module):
        reason = f"the weight of {channels.named(node)} is used elsewhere too"
        channels.pin(labels, reason)
        result: Value = reason
    else:
        result = _results(channels, node, module)
    if type(module) is FusedConvBNReLUAdd:
        return _added(channels, node, _activated(channels, node, module, result))
    return _activated(channels, node, module, _added(channels, node, result))


def _added(channels: Channels, node: fx.Node, result: Value) -> Value:
    """What a kernel gives with its residual, if any."""
    given = channels.given(node)
    if "residual" not in given:
        return result
    if isinstance(given["residual"], fx.Node):
        channels.read(node, ("residual",))
    return channels.added(node, result, channels.of(given["residual"]))


def _activated(channels: Channels, node: fx.Node, module: Kernel, result: Value) -> Value:
    """What a kernel gives behind its activation, if any."""
    activation = getattr(module, "activation", None)
    if activation is None or type(activation) in HOMOGENEOUS:
        return result
    name = type(activation).__name__
    return channels.pin(result, f"{name} in '{node.target}' takes no factor")


def _results(channels: Channels, node: fx.Node, module: Kernel) -> Value:
    """New labels for the output channels of a weight, or of the norm behind it."""
    matrix, path = matrix_of(module), str(node.target)
    norm = getattr(module, "batch_norm", None)
    if norm is not None and norm.weight is None:
        return f"the batch norm in '{path}' has no factors"
    labels = channels.classes.new(matrix.rows)
    given: Any = module.linear if isinstance(module, FusedLinear) else module.conv
    given = given if norm is None else norm
    scale = getattr(module, "scale", None)
    producer = Producer(
        path,
        labels,
        matrix=matrix if norm is None else None,
        gain=None if norm is None else _plain(norm.weight),
        shift=_plain(given.bias),
        after=None if scale is None else scale.weight.detach().flatten(),
        rectified=type(getattr(module, "activation", None)) is nn.ReLU,
    )
    channels.producers.append(producer)
    dimensions = 0 if isinstance(module, FusedLinear) else len(module.conv.kernel_size)
    return labels.view(-1, *(1,) * dimensions)


def _projection(channels: Channels, node: fx.Node, module: FusedMHAInProjection) -> Value:
    """Query, key and value by heads: (heads, 1, size) each."""
    matrices, path = matrices_of(module), str(node.target)
    given = channels.given(node)
    names = ("query", "key", "value")
    parts = {given[name]: [one for one in names if given[one] is given[name]] for name in names}
    tied = channels.tied(module)
    reason = f"the weight of {channels.named(node)} is used elsewhere too"
    for arguments in parts.values():
        read = [matrices[names.index(name)] for name in arguments]
        labels = channels.read(node, (*arguments,), read)
        if tied:
            channels.pin(labels, reason)
    if tied:
        return reason
    results = []
    for matrix, bias in zip(matrices, biases_of(module), strict=True):
        labels = channels.classes.new(matrix.rows)
        channels.producers.append(Producer(path, labels, matrix=matrix, shift=bias))
        results.append(labels.view(module.projection.num_heads, 1, -1))
    return tuple(results)


def _attention(channels: Channels, node: fx.Node, module: FusedScaledDotProductAttention) -> Value:
    """`(Q·D)(K/D)ᵀ` is `QKᵀ`, and a factor on a channel of the value is one on the result's."""
    given = channels.given(node)
    channels.pin(channels.of(given.get("attn_mask")), f"{channels.named(node)} adds its mask")
    groups = 1
    if module.attention.enable_gqa:
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


def _norm(channels: Channels, node: fx.Node, module: nn.Module) -> Value:
    """A norm takes no factor, and its weight and bias give its result one."""
    reason = channels.stopped(node)
    norm: Any = module.operations()[0] if isinstance(module, FusedModule) else module
    gain = norm.weight
    rank = channels.rank(node)
    if gain is None or channels.tied(norm) or rank is None:
        return reason
    labels = channels.classes.new(gain.numel())
    known = not isinstance(module, FusedModule)
    shift = getattr(norm, "bias", None)
    shift = None if shift is None else shift.detach().view(-1)
    path = str(node.target)
    channels.producers.append(
        Producer(path, labels, gain=gain.detach().view(-1), shift=shift, known=known)
    )
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
