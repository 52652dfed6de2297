"""Operations that only copy: each value of the result is a value of an input, or zero.

Rounding commutes with them, whatever the scale, since every scale represents zero. So stubs of
one scale on both sides of such an operation round once, and a compiler may move a rounding from
one side to the other: a concatenation or a pooling then runs on integers. This is a property of
the operation and of no compiler, so the list is here and not with a target.
"""

import inspect
import operator
from collections.abc import Iterator, Mapping
from typing import Any

from torch import fx, nn
from torch._ops import OpOverload
from torch.fx.node import map_arg
from torch.nn.modules import dropout, pooling

_SELECTING = (
    pooling._MaxPoolNd,  # noqa: SLF001 - the base of all max poolings
    pooling._AdaptiveMaxPoolNd,  # noqa: SLF001 - likewise
)
_PADDINGS = (
    nn.ReflectionPad1d,
    nn.ReflectionPad2d,
    nn.ReflectionPad3d,
    nn.ReplicationPad1d,
    nn.ReplicationPad2d,
    nn.ReplicationPad3d,
    nn.ConstantPad1d,
    nn.ConstantPad2d,
    nn.ConstantPad3d,
)
_MODULES = (
    *_SELECTING,
    *_PADDINGS,
    dropout._DropoutNd,  # noqa: SLF001 - the base of all dropouts; at inference they do nothing
    nn.ChannelShuffle,
    nn.Flatten,
    nn.Identity,
    nn.PixelShuffle,
    nn.PixelUnshuffle,
    nn.Unflatten,
)
_FUNCTIONS = """
    adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d broadcast_to cat channel_shuffle
    chunk clone concat concatenate contiguous detach diagonal dropout expand expand_as flatten flip
    gather getitem hstack index_select max_pool1d max_pool2d max_pool3d movedim moveaxis narrow
    permute pixel_shuffle pixel_unshuffle reflection_pad1d reflection_pad2d reflection_pad3d repeat
    repeat_interleave replication_pad1d replication_pad2d replication_pad3d reshape reshape_as roll
    rot90 select slice split split_with_sizes squeeze stack swapaxes swapdims t take_along_dim
    tensor_split tile transpose unbind unflatten unsqueeze upsample_nearest1d upsample_nearest2d
    upsample_nearest3d view view_as vstack
"""
_NAMES = frozenset(_FUNCTIONS.split())


def copied_inputs(node: fx.Node, modules: Mapping[str, nn.Module]) -> tuple[fx.Node, ...]:
    """The nodes whose values a node only copies; none where it computes something."""
    if not _copies(node, modules):
        return ()
    first = node.args[0] if node.args else next(iter(node.kwargs.values()), None)
    found: list[fx.Node] = []  # a concatenation has several in its first argument
    map_arg(first, found.append)
    return tuple(found)


def sources(node: fx.Node, modules: Mapping[str, nn.Module]) -> Iterator[fx.Node]:
    """All nodes before a node from which only copying operations lead to it."""
    seen: set[fx.Node] = set()
    pending = list(copied_inputs(node, modules))
    while pending:
        source = pending.pop()
        if source in seen:
            continue
        seen.add(source)
        pending.extend(copied_inputs(source, modules))
        yield source


def padded(node: fx.Node, modules: Mapping[str, nn.Module]) -> fx.Node | None:
    """What a node pads with its own values or zeros; `None` where it does not."""
    if node.op == "call_module":
        pads = isinstance(modules[str(node.target)], _PADDINGS)
    else:
        pads = "pad" in operation_name(node)
    (inner,) = copied_inputs(node, modules)[:1] or (None,)
    return inner if pads else None


def joined_poolings(
    node: fx.Node, modules: Mapping[str, nn.Module]
) -> tuple[fx.Node, tuple[fx.Node, ...]] | None:
    """The tensor that a node concatenates with max poolings of it alone, and those who read it.

    `None` where anything else is joined, or somebody else reads a pooling.
    """
    if operation_name(node) not in {"cat", "concat", "concatenate"}:
        return None
    chains = [tuple(_poolings(part, modules)) for part in copied_inputs(node, modules)]
    first = next((one[0] for one in chains if all(one[0] in other for other in chains)), None)
    if first is None:
        return None
    between = {one for chain in chains for one in chain[: chain.index(first)]} | {node}
    if any(set(one.users) - between for one in between - {node}):
        return None
    return first, tuple(one for one in first.users if one in between)


def _poolings(node: fx.Node, modules: Mapping[str, nn.Module]) -> Iterator[fx.Node]:
    """A node and, where it is a max pooling, what that is of, and so on."""
    yield node
    while _pools(node, modules):
        (node,) = copied_inputs(node, modules)
        yield node


def _pools(node: fx.Node, modules: Mapping[str, nn.Module]) -> bool:
    if node.op == "call_module":
        return isinstance(modules[str(node.target)], _SELECTING)
    return "max_pool" in operation_name(node)


def _copies(node: fx.Node, modules: Mapping[str, nn.Module]) -> bool:
    if node.op == "call_module":
        return _module_copies(modules[str(node.target)])
    name = operation_name(node)
    if name == "pad":
        return _pads_with_inputs_or_zero(node)
    if name == "constant_pad_nd":
        return not _at(node, 2, 0)
    if name == "interpolate":
        return node.kwargs.get("mode", _at(node, 3, "nearest")) in {"nearest", "nearest-exact"}
    return name in _NAMES


def _module_copies(module: nn.Module) -> bool:
    match module:
        case nn.Upsample():
            return module.mode in {"nearest", "nearest-exact"}
        case nn.ConstantPad1d() | nn.ConstantPad2d() | nn.ConstantPad3d():
            return module.value == 0
    return isinstance(module, _MODULES)


def _pads_with_inputs_or_zero(node: fx.Node) -> bool:
    mode = node.kwargs.get("mode", _at(node, 2, "constant"))
    return mode != "constant" or not node.kwargs.get("value", _at(node, 3, None))


def _at(node: fx.Node, index: int, default: object) -> object:
    return node.args[index] if len(node.args) > index else default


def operation_name(node: fx.Node) -> str:
    """The name of PyTorch's operation that a node calls; empty for functions of others."""
    target: Any = node.target
    if node.op == "call_method":
        return str(target)
    if node.op != "call_function":
        return ""
    if isinstance(target, OpOverload):
        return target.name().partition("::")[2].partition(".")[0]
    own = inspect.isbuiltin(target) or target is operator.getitem
    own = own or str(getattr(target, "__module__", "")).partition(".")[0] == "torch"
    return str(target.__name__) if own else ""
