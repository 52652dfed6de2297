"""Multiply-accumulates of a graph's nodes, from shapes."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils.flop_counter import FlopCounterMode

from embedl_deploy.graph.shapes import shape, value
from embedl_deploy.modules import MHAInProjection, ScaledDotProductAttention

_FUNCTIONS = frozenset(
    {
        "addbmm",
        "addmm",
        "baddbmm",
        "bmm",
        "conv1d",
        "conv2d",
        "conv3d",
        "conv_transpose1d",
        "conv_transpose2d",
        "conv_transpose3d",
        "convolution",
        "einsum",
        "linear",
        "matmul",
        "mm",
        "multi_head_attention_forward",
        "scaled_dot_product_attention",
        "tensordot",
    }
)
"""Names of functions and tensor methods that multiply and accumulate."""


def multiply_accumulates(node: fx.Node, objects: Mapping[str, Any]) -> int | None:
    """How many a node takes; `None` where the shapes it follows from are not known.

    Args:
        node: Of a canonical graph, with or without shapes.
        objects: The modules, parameters and buffers that the nodes' targets name.
    """
    match node.op:
        case "call_module":
            return _of_module(node, objects[str(node.target)])
        case "call_function" | "call_method" if function_name(node) in _FUNCTIONS:
            return _of_function(node, objects)
    return 0


def function_name(node: fx.Node) -> str:
    """The name of a function or method, for an operator of ATen without its overload."""
    name = str(getattr(node.target, "__name__", node.target))
    return name.partition(".")[0]


def _of_module(node: fx.Node, module: object) -> int | None:
    count = next((count for kind, count in _MODULES.items() if isinstance(module, kind)), None)
    if count is None:
        return 0
    inputs = [shape(one) for one in node.args if isinstance(one, fx.Node)]
    known = [one for one in inputs if one is not None]
    result = () if isinstance(module, _WITH_TUPLES) else shape(node)
    if len(known) < len(inputs) or not known or result is None:
        return None
    return count(module, known, result)


def _of_function(node: fx.Node, objects: Mapping[str, Any]) -> int | None:
    """Counted by torch, on tensors without memory."""
    known = {one: _standin(one, objects) for one in node.all_input_nodes}
    if any(one is None for one in known.values()):
        return None
    args, kwargs = fx.map_arg((node.args, node.kwargs), known.__getitem__)
    call = getattr(args[0], node.target) if isinstance(node.target, str) else node.target
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        call(*args[1:], **kwargs) if isinstance(node.target, str) else call(*args, **kwargs)
    return counter.get_total_flops() // 2


def _standin(node: fx.Node, objects: Mapping[str, Any]) -> Any:
    known = objects.get(str(node.target)) if node.op == "get_attr" else value(node)
    if not isinstance(known, Tensor):
        return known
    return torch.empty(known.shape, dtype=known.dtype, device="meta")


# --- modules -------------------------------------------------------------------------------------

Shapes = list[tuple[int, ...]]


def _conv(module: nn.Conv2d, _: Shapes, result: tuple[int, ...]) -> int:
    return math.prod(result) * module.weight[0].numel()


def _transposed(module: nn.ConvTranspose2d, inputs: Shapes, _: tuple[int, ...]) -> int:
    return math.prod(inputs[0]) * module.weight[0].numel()


def _linear(module: nn.Linear, _: Shapes, result: tuple[int, ...]) -> int:
    return math.prod(result) * module.in_features


def _in_projection(module: MHAInProjection, inputs: Shapes, _: tuple[int, ...]) -> int:
    return sum(math.prod(one) * _features(module) for one in inputs)


def _features(module: MHAInProjection) -> int:
    """Output features of one projection."""
    if module.in_proj_weight is not None:
        return module.in_proj_weight.shape[0] // 3
    assert module.q_proj_weight is not None  # noqa: S101 - one or the other
    return module.q_proj_weight.shape[0]


def _attention(_: nn.Module, inputs: Shapes, __: tuple[int, ...]) -> int:
    query, key, value_ = inputs[:3]
    return math.prod(query) * key[-2] + math.prod(query[:-1]) * key[-2] * value_[-1]


def _multihead(module: nn.MultiheadAttention, inputs: Shapes, _: tuple[int, ...]) -> int:
    """Three projections in, attention, one projection out."""
    query, key, _value = inputs[:3]
    length = key[1] if module.batch_first and len(key) == 3 else key[0]
    size = module.embed_dim
    projections = sum(math.prod(one) for one in (*inputs[:3], query)) * size
    return projections + 2 * math.prod(query) * length


def _recurrent(module: nn.RNNBase, inputs: Shapes, _: tuple[int, ...]) -> int:
    """Each step multiplies with every matrix once."""
    matrices = [one for one in module.parameters() if one.dim() == 2]
    steps = math.prod(inputs[0]) // module.input_size
    return steps * sum(one.numel() for one in matrices)


_MODULES: dict[Any, Callable[[Any, Shapes, tuple[int, ...]], int]] = {
    nn.modules.conv._ConvTransposeNd: _transposed,  # noqa: SLF001 - the base of all of them
    nn.modules.conv._ConvNd: _conv,  # noqa: SLF001 - as above
    nn.Linear: _linear,
    MHAInProjection: _in_projection,
    ScaledDotProductAttention: _attention,
    nn.MultiheadAttention: _multihead,
    nn.RNNBase: _recurrent,
}
_WITH_TUPLES = (MHAInProjection, nn.MultiheadAttention, nn.RNNBase)
"""Modules whose result is no tensor, and is not counted by."""
