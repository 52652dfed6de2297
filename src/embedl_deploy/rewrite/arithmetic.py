"""How many multiply-accumulates an operation takes, from the shapes of its inputs and result."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from embedl_deploy.graph.dead import is_opaque
from embedl_deploy.graph.interpreter import plain
from embedl_deploy.graph.shapes import shape, targets, value
from embedl_deploy.modules import FusedModule, MHAInProjection, ScaledDotProductAttention

Sizes = tuple[int, ...]
Rule = Callable[[Any, Sequence[Sizes], Sizes], int]
"""A count from the module, the shapes of the inputs and that of the result."""


def multiply_accumulates(node: fx.Node, module: object) -> int | None:
    """How many a node takes; `None` where the shapes it follows from are not known.

    Counted are convolutions, linear and recurrent layers, attention and products of matrices; what
    is done value by value counts as nothing.
    """
    if isinstance(module, FusedModule) or _name(node) in _MEASURED:
        return _measured(node, module)
    rule = _rule(node, module)
    if rule is None:
        return _opaque(node) if is_opaque(node) else 0
    inputs = [shape(one) for one in (*node.args, *node.kwargs.values()) if _may_be_tensor(one)]
    result = () if isinstance(module, _SEVERAL_RESULTS) else shape(node)
    if None in inputs or result is None:
        return None
    return rule(module, [one for one in inputs if one is not None], result)


def share(nodes: Collection[fx.Node], graph: fx.GraphModule) -> float:
    """The part of a graph's arithmetic that `nodes` do, as far as it is known."""
    objects = targets(graph)
    counts = {
        node: multiply_accumulates(node, objects.get(str(node.target))) or 0
        for node in graph.graph.nodes
    }
    return sum(counts[node] for node in nodes) / max(sum(counts.values()), 1)


def _may_be_tensor(argument: object) -> bool:
    return isinstance(argument, fx.Node) and isinstance(value(argument), Tensor | None)


def _rule(node: fx.Node, module: object) -> Rule | None:
    if node.op != "call_module":
        return _FUNCTIONS.get(_name(node))
    return next((rule for kind, rule in _MODULES if isinstance(module, kind)), None)


def _name(node: fx.Node) -> str:
    """`linear` for `F.linear`, `mm` for `torch.mm`, `x.mm` and `aten.mm.default`."""
    if node.op not in {"call_function", "call_method"}:
        return ""
    return str(getattr(node.target, "__name__", node.target)).partition(".")[0]


def _opaque(node: fx.Node) -> int | None:
    """Of a function of other code; `None` where it needs more than shapes."""
    try:
        return _measured(node, None)
    except Exception:  # noqa: BLE001 - it may do anything
        return None


def _measured(node: fx.Node, module: object) -> int | None:
    """As torch counts, on its meta device."""
    from torch.utils.flop_counter import FlopCounterMode

    if any(value(source) is None for source in node.all_input_nodes):
        return None
    given = fx.map_arg((node.args, node.kwargs), lambda source: _empty(value(source)))
    args, kwargs = plain(given)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        if isinstance(module, nn.Module):
            named = (*module.named_parameters(), *module.named_buffers())
            state = {name: _empty(tensor) for name, tensor in named}
            torch.func.functional_call(module, state, args, kwargs)
        elif node.op == "call_method":
            getattr(args[0], str(node.target))(*args[1:], **kwargs)
        else:
            node.target(*args, **kwargs)  # type: ignore[operator]
    return counter.get_total_flops() // 2


def _empty(tree: Any) -> Any:
    make = lambda one: torch.empty(tuple(one.shape), dtype=one.dtype, device="meta")  # noqa: E731
    return pytree.tree_map_only(Tensor, make, tree)


def _product(_: Any, inputs: Sequence[Sizes], result: Sizes) -> int:
    return math.prod(result) * inputs[0][-1]


def _sum_and_product(_: Any, inputs: Sequence[Sizes], result: Sizes) -> int:
    return math.prod(result) * inputs[1][-1]


def _attention(_: Any, inputs: Sequence[Sizes], result: Sizes) -> int:
    query, key = inputs[:2]
    return (math.prod(query) + math.prod(result)) * key[-2]


def _in_projection(module: MHAInProjection, inputs: Sequence[Sizes], _: Sizes) -> int:
    weight = module.in_proj_weight
    if weight is not None:
        return sum(math.prod(one) for one in inputs) * (weight.shape[0] // module.parts)
    assert module.q_proj_weight is not None  # noqa: S101 - one or the other
    return sum(math.prod(one) for one in inputs) * module.q_proj_weight.shape[0]


def _whole_attention(module: nn.MultiheadAttention, inputs: Sequence[Sizes], _: Sizes) -> int:
    """In-projections, attention, out-projection; masks are among the inputs and do not count."""
    query, key, value_ = inputs[:3]
    batched = len(query) == 3
    length = key[1] if batched and module.batch_first else key[0]
    width, rows = module.embed_dim, math.prod(query[:-1])
    projected = math.prod(query) + math.prod(key) + math.prod(value_) + rows * width
    return projected * width + 2 * rows * length * width


def _recurrent(module: nn.Module, inputs: Sequence[Sizes], _: Sizes) -> int:
    """Each matrix multiplies once for each step of each sequence."""
    matrices = sum(one.numel() for one in module.parameters() if one.dim() == 2)
    return math.prod(inputs[0][:-1]) * matrices


def _kernel(conv: Any, channels: int) -> int:
    """Weights for each value; a weight that is computed anew when it is read is left alone."""
    return math.prod(conv.kernel_size) * channels // conv.groups


def _weight_of(index: int) -> Rule:
    """A convolution whose weight is the input of that number."""
    return lambda _, inputs, result: math.prod(result) * math.prod(inputs[index][1:])


_CONV, _TRANSPOSED = nn.modules.conv._ConvNd, nn.modules.conv._ConvTransposeNd  # noqa: SLF001 - the bases of all convolutions
_CELL = nn.modules.rnn.RNNCellBase

_MODULES: tuple[tuple[type[nn.Module], Rule], ...] = (
    (_TRANSPOSED, lambda conv, inputs, _: math.prod(inputs[0]) * _kernel(conv, conv.out_channels)),
    (_CONV, lambda conv, _, result: math.prod(result) * _kernel(conv, conv.in_channels)),
    (nn.Linear, lambda linear, _, result: math.prod(result) * linear.in_features),
    (nn.Bilinear, lambda one, _, result: math.prod(result) * one.weight[0].numel()),
    (MHAInProjection, _in_projection),
    (ScaledDotProductAttention, _attention),
    (nn.MultiheadAttention, _whole_attention),
    (nn.RNNBase, _recurrent),
    (_CELL, _recurrent),
)
_SEVERAL_RESULTS = (MHAInProjection, nn.MultiheadAttention, nn.RNNBase, _CELL)

_FUNCTIONS: Mapping[str, Rule] = {
    **dict.fromkeys(("matmul", "bmm", "mm", "mv", "linear"), _product),
    **dict.fromkeys(("addmm", "baddbmm", "addmv"), _sum_and_product),
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), _weight_of(1)),
    **dict.fromkeys(
        ("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"),
        lambda _, inputs, __: math.prod(inputs[0]) * math.prod(inputs[1][1:]),
    ),
    "deform_conv2d": _weight_of(2),
    "scaled_dot_product_attention": _attention,
}
_MEASURED = frozenset({"einsum", "tensordot", "multi_head_attention_forward"})
