"""From a lowered model in float32 to one of another type: constants, and casts at the seams."""

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from embedl_deploy.export.operators import MatMulAttention, QuantizeDequantize
from embedl_deploy.export.precision import SOFTMAX
from embedl_deploy.export.tensors import floating_tensors, replace_tensor

TWIN = "float32"
"""Ends the path of a pair that is added beside another for what reads float32."""


def to_type(value: Any, dtype: torch.dtype) -> Any:
    """A floating-point tensor in another type; anything else as it is."""
    floating = isinstance(value, Tensor) and value.is_floating_point()
    return value.to(dtype) if floating else value


def give_types(model: fx.GraphModule, dtype: torch.dtype, kept: Collection[str]) -> None:
    """Everything floating in `dtype`, but the kept nodes, which compute in float32.

    A tensor changes its type at no pair: its `QuantizeLinear` takes the type that comes, and its
    `DequantizeLinear` gives the one that is read.

    Args:
        model: Lowered, in float32; changed in place.
        dtype: Of all that is not kept.
        kept: Names of nodes; with `placeholder` and `output` nodes among them the file's inputs and
            outputs stay float32.
    """
    pairs = _pairs(model)
    single = {node for node in model.graph.nodes if node.name in kept and node not in pairs}
    pairs |= _twins(model, pairs, single)
    single |= {
        node for node in pairs if node.name in kept or all(user in single for user in node.users)
    }
    types = {node: torch.float32 if node in single else dtype for node in model.graph.nodes}
    modules = dict(model.named_modules(remove_duplicate=False))
    for node, own in types.items():
        if node in pairs:
            (source,) = node.all_input_nodes
            _type_pair(modules[str(node.target)], types[source], own)
        else:
            _type_node(node, own, modules, kept)
        node.args, node.kwargs = _types((node.args, node.kwargs), own)
    _insert_casts(model.graph, types, pairs)
    model.recompile()


def _pairs(model: fx.GraphModule) -> set[fx.Node]:
    modules = dict(model.named_modules(remove_duplicate=False))
    nodes = model.graph.nodes
    return {node for node in nodes if isinstance(modules.get(str(node.target)), QuantizeDequantize)}


def _type_node(
    node: fx.Node, dtype: torch.dtype, modules: Mapping[str, nn.Module], kept: Collection[str]
) -> None:
    if node.op == "call_module":
        _cast(modules[str(node.target)], dtype)
        if f"{node.name}{SOFTMAX}" in kept:
            _keep_softmax(modules[str(node.target)])
    elif node.op == "get_attr":
        owner, _, name = str(node.target).rpartition(".")
        _cast_tensor(modules[owner], name, dtype)


def _twins(
    model: fx.GraphModule, pairs: Collection[fx.Node], single: Collection[fx.Node]
) -> set[fx.Node]:
    """A second pair where a stub is read in both types; the exporter merges what is the same.

    In the file then one `QuantizeLinear` has a `DequantizeLinear` for each type.
    """
    twins = set()
    for pair in [node for node in model.graph.nodes if node in pairs]:
        readers = [user for user in pair.users if user in single]
        if not readers or len(readers) == len(pair.users):
            continue
        path = f"{pair.target}.{TWIN}"
        original = model.get_submodule(str(pair.target))
        assert isinstance(original, QuantizeDequantize)  # noqa: S101 - pairs are that
        model.add_submodule(path, original.twin())
        with model.graph.inserting_after(pair):
            twin = model.graph.call_module(path, pair.args)
        for reader in readers:
            reader.replace_input_with(pair, twin)
        twins.add(twin)
    return twins


def _insert_casts(
    graph: fx.Graph, types: Mapping[fx.Node, torch.dtype], pairs: Collection[fx.Node]
) -> None:
    """Where a value of one type meets a node of the other; one cast for all of a kind."""
    for node, own in types.items():
        other = [user for user in node.users if user not in pairs and types[user] != own]
        if not other:
            continue
        after = node.next
        while after.op == "placeholder":
            after = after.next
        with graph.inserting_before(after):
            cast = graph.call_function(to_type, (node, types[other[0]]))
        cast.meta["val"] = to_type(node.meta.get("val"), types[other[0]])
        for user in other:
            user.replace_input_with(node, cast)


def _type_pair(pair: nn.Module, source: torch.dtype, result: torch.dtype) -> None:
    assert isinstance(pair, QuantizeDequantize)  # noqa: S101 - by its caller
    pair.input_scale = pair.input_scale.to(source)
    pair.scale = pair.scale.to(result)


def _keep_softmax(module: nn.Module) -> None:
    if isinstance(module, MatMulAttention):
        module.softmax_type = torch.float32
        if isinstance(module.probabilities, QuantizeDequantize):
            module.probabilities.input_scale = module.probabilities.input_scale.float()


def _cast(module: nn.Module, dtype: torch.dtype) -> None:
    for owner, name in floating_tensors(module):
        _cast_tensor(owner, name, dtype)


def _cast_tensor(owner: nn.Module, name: str, dtype: torch.dtype) -> None:
    tensor = getattr(owner, name)
    if isinstance(tensor, Tensor) and tensor.is_floating_point() and tensor.dtype != dtype:
        replace_tensor(owner, name, tensor.detach().to(dtype))


def _types(tree: Any, dtype: torch.dtype) -> Any:
    """Arguments that name a type, such as that of a new tensor, in the type of their node."""
    return fx.node.map_aggregate(
        tree, lambda one: dtype if isinstance(one, torch.dtype) and one.is_floating_point else one
    )
