"""What is half precision in the file, and which values that leaves."""

import fnmatch
import logging
import operator
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Literal

import torch
from torch import Tensor, fx, nn

from embedl_deploy.errors import ExportError
from embedl_deploy.export.attention import attentions, upstream
from embedl_deploy.export.extremes import Unfit, unfit_for, vanishing, warn_of, within
from embedl_deploy.export.positions import from_sizes
from embedl_deploy.export.scales import raise_scales
from embedl_deploy.export.tensors import floating_tensors, replace_tensor
from embedl_deploy.graph.writes import called
from embedl_deploy.quantize import QuantStub
from embedl_deploy.target import Lowering

Precision = Literal["float32", "float16", "bfloat16"]
"""The type of everything in a file that is not an integer."""

Half = Literal["float16", "bfloat16"]
"""Those of 16 bits."""

Keep = str | type[nn.Module]
"""A pattern for paths of modules, such as `"*.softmax"`, or a type of module."""

SOFTMAX = ".softmax"
"""Ends the path by which the softmax inside an attention is listed."""

_ARITHMETIC = {operator.add, operator.sub, operator.mul, operator.truediv}

_RANKS = {"argsort", "msort", "sort", "topk"}
"""What the exporter writes with ONNX's TopK."""

_logger = logging.getLogger(__name__)


def dtype_of(precision: Precision) -> torch.dtype:
    """The type of PyTorch.

    Raises:
        ExportError: There is no such precision.
    """
    if precision not in {"float32", "float16", "bfloat16"}:
        raise ExportError(
            f"{precision!r} is no precision; choose 'float32', 'float16' or 'bfloat16'"
        )
    found: torch.dtype = getattr(torch, precision)
    return found


def kept_nodes(
    model: fx.GraphModule, dtype: torch.dtype, keep: Sequence[Keep] = ()
) -> dict[str, str]:
    """The nodes that stay in float32, with the reason: listed, out of range, or made of sizes.

    Names of nodes; the softmax in an attention is the node's name and `.softmax`.

    Raises:
        ExportError: An entry of the list fits nothing.
    """
    if isinstance(keep, str | type):
        raise ExportError(f"keep_float32 is {keep!r}; pass a list of patterns or types")
    kept = _listed(model, keep)
    if dtype == torch.float32:
        return {}
    kept |= {one.name: "computed from sizes or integers alone" for one in from_sizes(model)}
    if dtype == torch.bfloat16:
        ranks = [node for node in model.graph.nodes if called(node) in _RANKS]
        kept |= {one.name: "TopK takes no bfloat16 before opset 24" for one in ranks}
    kept |= vanishing(model, dtype)
    modules = dict(model.named_modules(remove_duplicate=False))
    unfit: dict[str, Unfit] = {}
    for node in model.graph.nodes:
        module = modules[str(node.target)] if node.op == "call_module" else None
        found = None if module is None else unfit_for(module, dtype)
        if found is not None:
            unfit[str(node.target)] = found
            stub = isinstance(module, QuantStub)
            around = [*node.all_input_nodes, node, *node.users] if stub else [node]
            kept |= {one.name: str(found) for one in around if one.op != "output"}
    warn_of(unfit)
    return _with_what_belongs(model, kept)


def _listed(model: fx.GraphModule, keep: Sequence[Keep]) -> dict[str, str]:
    found: dict[str, str] = {}
    modules = dict(model.named_modules(remove_duplicate=False))
    inner = {id(attention): node for node, attention in attentions(model)}
    for entry in keep:
        hits = []
        for node in model.graph.nodes:
            module, path = modules.get(str(node.target)), str(node.target)
            if node.op != "call_module" or module is None or isinstance(module, QuantStub):
                continue  # a stub has the types of what is before and after it
            if any(_fits(entry, join, one) for join, one in _parts(path, module)):
                hits.append(node.name)
        for node in inner.values():
            softmax = f"{node.target}{SOFTMAX}"
            if _fits(entry, softmax, nn.Softmax()) and node.name not in hits:
                hits.append(f"{node.name}{SOFTMAX}")
        if not hits:
            raise ExportError(f"keep_float32 lists {entry!r}, which fits no module of the model")
        found |= dict.fromkeys(hits, "listed")
    return found


def _parts(path: str, module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """A module and what it is fused from, without quantizers."""
    for name, one in module.named_modules():
        if not name.startswith("weight_quantizers"):
            yield (f"{path}.{name}" if name else path), one


def _fits(entry: Keep, path: str, module: nn.Module) -> bool:
    if isinstance(entry, str):
        return fnmatch.fnmatchcase(path, entry)
    return isinstance(module, entry)


def _with_what_belongs(model: fx.GraphModule, kept: Mapping[str, str]) -> dict[str, str]:
    """All calls of a module, the result that a kept part is of, and the parts of such a result."""
    result = dict(kept)
    named = {node.name: node for node in model.graph.nodes}
    for name, reason in kept.items():
        node = named.get(name)
        while node is not None and node.target is operator.getitem:
            node = node.args[0]
            result.setdefault(node.name, reason)
    targets = {
        str(named[name].target): reason
        for name, reason in result.items()
        if name in named and named[name].op == "call_module"
    }
    for node in model.graph.nodes:
        if node.op == "call_module" and str(node.target) in targets:
            result.setdefault(node.name, targets[str(node.target)])
        if node.target is operator.getitem and node.args[0].name in result:
            result.setdefault(node.name, result[node.args[0].name])
    return result


def round_values(
    model: fx.GraphModule,
    dtype: torch.dtype,
    kept: Mapping[str, str],
    lowering: Lowering,
) -> list[str]:
    """Give every constant the value that it has in the file; the types stay as they are.

    So the model computes in float32 what the file says in half precision.

    Args:
        model: Folded, with the factors of its attention set; changed in place.
        dtype: Of the file.
        kept: Nodes that stay in float32.
        lowering: Whether factors on logits are before stubs, and small scales are raised.

    Returns:
        Names of nodes with constants beyond the type, which become its largest number.
    """
    limited: list[str] = []
    for node, attention in attentions(model):
        if node.name not in kept and attention.scale is not None:
            attention.scale = _rounded_number(attention.scale, dtype)
        if node.name not in kept and attention.fill is not None:
            fill = within(attention.fill, dtype)
            limited += [node.name] if fill != attention.fill else []
            attention.fill = _rounded_number(fill, dtype)
    factors = upstream(model, lowering).factors
    modules = dict(model.named_modules(remove_duplicate=False))
    for node in model.graph.nodes:
        if node.name in kept:
            continue
        if node.op == "call_module" and lowering.normal_scales:
            raise_scales(modules[str(node.target)], dtype, str(node.target))
        if _round_node(node, modules, dtype, factors.get(str(node.target)) or 1.0):
            limited.append(node.name)
    model.recompile()
    return limited


def _round_node(
    node: fx.Node, modules: Mapping[str, nn.Module], dtype: torch.dtype, factor: float
) -> bool:
    """Round the constants of a node; whether the type limits one."""
    path = str(node.target)
    if node.op == "call_module":
        _round_module(modules[path], dtype, factor)
    elif node.op == "get_attr":
        owner, _, name = path.rpartition(".")
        return _replace_rounded(modules[owner], name, dtype)
    elif node.op in {"call_function", "call_method"}:
        given = (node.args, node.kwargs)
        limited = fx.node.map_aggregate(given, partial(within, dtype=dtype))
        node.args, node.kwargs = limited
        if node.target in _ARITHMETIC:
            node.args = tuple(
                _rounded_number(one, dtype) if isinstance(one, float) else one for one in node.args
            )
        return bool(limited != given)
    return False


def _rounded_number(number: float, dtype: torch.dtype) -> float:
    return float(torch.tensor(number, dtype=torch.float64).to(dtype))


def _round_module(module: nn.Module, dtype: torch.dtype, factor: float) -> None:
    if isinstance(module, QuantStub):
        module.scale = (module.scale * factor).to(dtype).float() / factor
        return
    for owner, name in floating_tensors(module):
        _replace_rounded(owner, name, dtype)


def _replace_rounded(owner: nn.Module, name: str, dtype: torch.dtype) -> bool:
    """Round a tensor; whether it has numbers that are limited for it."""
    tensor = getattr(owner, name)
    if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
        return False
    limited = within(tensor.detach(), dtype)
    replace_tensor(owner, name, limited.to(dtype).to(tensor.dtype))
    return bool((limited != tensor).any())
