"""Putting quantizers where the patterns declared them."""

import copy as copying
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter

import torch
from torch import fx, nn

from embedl_deploy.errors import QuantizationError
from embedl_deploy.graph.paths import Paths, join, parent
from embedl_deploy.modules import FusedModule, QDQPoint
from embedl_deploy.modules.base import forward_arguments
from embedl_deploy.quantize.config import QuantConfig
from embedl_deploy.quantize.stubs import QuantStub, WeightFakeQuantize
from embedl_deploy.rewrite import Result

_DROPOUT = nn.modules.dropout._DropoutNd  # noqa: SLF001 - the base of all dropouts


def insert_qdq(
    result: Result | fx.GraphModule, config: QuantConfig | None = None, *, copy: bool = True
) -> fx.GraphModule:
    """Insert stubs at the declared Q/DQ points and nowhere else, one per tensor.

    The tensor before a dropout and behind it count as one where the first is quantized for all
    its readers, since they are the same at inference.

    Weights are quantized where the input of their module is.

    Args:
        result: What `transform` returned, or its model.
        config: How to quantize; 8 bits, min-max by default.
        copy: Whether to leave the given model as it is and work on a copy.

    Raises:
        QuantizationError: The model has stubs already, no Q/DQ point, or a weight to quantize
            that is not finite.
    """
    model = result.model if isinstance(result, Result) else result
    if not isinstance(model, fx.GraphModule):
        raise QuantizationError(
            f"insert_qdq takes the result of transform(), not a {type(model).__name__}"
        )
    if any(isinstance(module, QuantStub) for module in model.modules()):
        raise QuantizationError("the model has stubs already; start again from transform()")
    _check_weights(model)
    model = copying.deepcopy(model) if copy else model
    if not _insert(model, config or QuantConfig()):
        raise QuantizationError(
            "the model has no Q/DQ point: no match declares one; print the result of transform()"
        )
    return model


def _check_weights(model: fx.GraphModule) -> None:
    for path, module in model.named_modules():
        if not isinstance(module, FusedModule) or QDQPoint.INPUT not in module.qdq_points:
            continue
        for weight in module.quantizable_weights():
            if not torch.isfinite(attrgetter(weight)(module)).all():
                raise QuantizationError(
                    f"the weight '{path}.{weight}' has values that are not finite (NaN or "
                    "infinite); no scale fits it"
                )


@dataclass(frozen=True)
class _Use:
    """A tensor at a Q/DQ point: an argument of a call by name, or the call's own result."""

    tensor: fx.Node
    call: fx.Node
    point: QDQPoint
    argument: str | None


def _insert(model: fx.GraphModule, config: QuantConfig) -> int:
    """Insert everything; returns the number of stubs."""
    modules = dict(model.named_modules())
    uses: list[_Use] = []
    for node in model.graph.nodes:
        module = modules.get(str(node.target)) if node.op == "call_module" else None
        if not isinstance(module, FusedModule):
            continue
        uses.extend(use for point in module.qdq_points for use in _uses(node, module, point))
        if QDQPoint.INPUT in module.qdq_points:
            _quantize_weights(module, config)
    uses = _without_repeats(uses, modules)
    stubs = _make_stubs(model, config, uses)
    for use in uses:
        _rewire(use, stubs[use.tensor], forward_arguments(type(modules[str(use.call.target)])))
    model.graph.lint()
    model.recompile()
    return len(stubs)


def _uses(node: fx.Node, module: FusedModule, point: QDQPoint) -> list[_Use]:
    if point is QDQPoint.OUTPUT:
        return [_Use(node, node, point, None)]
    given = dict(zip(forward_arguments(type(module)), node.args, strict=False)) | node.kwargs
    named = {name: given.get(name) for name in module.quantized_arguments(point)}
    return [_Use(one, node, point, name) for name, one in named.items() if isinstance(one, fx.Node)]


def _without_repeats(uses: Sequence[_Use], modules: Mapping[str, nn.Module]) -> list[_Use]:
    """Take a stub behind a result for the one of its readers behind a dropout as well.

    A compiler sees no dropout: there would be two pairs in a row.
    """
    results = {use.tensor for use in uses if use.argument is None}
    kept = []
    for use in uses:
        source = _before_dropout(use.tensor, modules)
        repeated = source is not use.tensor and source in results
        kept.append(replace(use, tensor=source, argument=None) if repeated else use)
    return kept


def _before_dropout(tensor: fx.Node, modules: Mapping[str, nn.Module]) -> fx.Node:
    while isinstance(modules.get(str(tensor.target)), _DROPOUT):
        (tensor,) = tensor.all_input_nodes
    return tensor


def _quantize_weights(module: FusedModule, config: QuantConfig) -> None:
    for path in module.quantizable_weights():
        quantizer = WeightFakeQuantize(config.weights, attrgetter(path)(module))
        module.weight_quantizers[path.replace(".", "_")] = quantizer.train(module.training)


def _make_stubs(
    model: fx.GraphModule, config: QuantConfig, uses: Sequence[_Use]
) -> dict[fx.Node, fx.Node]:
    """One stub for each tensor, behind it in the graph."""
    points: dict[fx.Node, list[str]] = defaultdict(list)
    for use in uses:
        points[use.tensor].append(f"{use.call.target} {use.point.name}")
    device = next((tensor.device for tensor in model.parameters()), None)
    paths = Paths({str(node.target) for node in model.graph.nodes if node.op == "call_module"})
    stubs = {}
    for tensor, places in points.items():
        path = paths.fresh(f"{_path(tensor)}_stub")
        stub = QuantStub(config.activations, tuple(dict.fromkeys(places))).train(model.training)
        model.add_submodule(path, stub.to(device))
        with model.graph.inserting_before(_after(tensor)):
            stubs[tensor] = model.graph.call_module(path, (tensor,))
        stubs[tensor].meta = {"scope": parent(path), "val": tensor.meta.get("val")}
    return stubs


def _rewire(use: _Use, stub: fx.Node, names: Sequence[str]) -> None:
    """Read the stub in place of the tensor: at one argument, or everywhere behind the call."""
    if use.argument is None:
        for user in [one for one in use.tensor.users if one is not stub]:
            user.replace_input_with(use.tensor, stub)
    elif use.argument in use.call.kwargs:
        use.call.update_kwarg(use.argument, stub)
    else:
        use.call.update_arg(names.index(use.argument), stub)


def _after(tensor: fx.Node) -> fx.Node:
    """The node to insert before; inputs stay together at the top."""
    node = tensor.next
    while node.op == "placeholder":
        node = node.next
    return node


def _path(node: fx.Node) -> str:
    if node.op == "call_module":
        return str(node.target)
    return join(str(node.meta.get("scope", "")), node.name)
