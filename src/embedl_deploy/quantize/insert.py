"""Putting quantizers where the patterns declared them."""

import copy as copying
from collections import defaultdict
from operator import attrgetter

from torch import fx

from embedl_deploy.errors import QuantizationError
from embedl_deploy.graph.paths import Paths, join, parent
from embedl_deploy.modules import FusedModule, QDQPoint
from embedl_deploy.modules.base import forward_arguments
from embedl_deploy.quantize.config import QuantConfig
from embedl_deploy.quantize.stubs import QuantStub, WeightFakeQuantize
from embedl_deploy.rewrite import Result


def insert_qdq(
    result: Result | fx.GraphModule, config: QuantConfig | None = None, *, copy: bool = True
) -> fx.GraphModule:
    """Insert stubs at the declared Q/DQ points and nowhere else, one per tensor.

    Weights are quantized where the input of their module is.

    Args:
        result: What `transform` returned, or its model.
        config: How to quantize; 8 bits, min-max by default.
        copy: Whether to leave the given model as it is and work on a copy.

    Raises:
        QuantizationError: The model has stubs already, or no Q/DQ point.
    """
    model = result.model if isinstance(result, Result) else result
    if not isinstance(model, fx.GraphModule):
        raise QuantizationError(
            f"insert_qdq takes the result of transform(), not a {type(model).__name__}"
        )
    if any(isinstance(module, QuantStub) for module in model.modules()):
        raise QuantizationError("the model has stubs already; start again from transform()")
    model = copying.deepcopy(model) if copy else model
    if not _insert(model, config or QuantConfig()):
        raise QuantizationError(
            "the model has no Q/DQ point: no match declares one; print the result of transform()"
        )
    return model


def _insert(model: fx.GraphModule, config: QuantConfig) -> int:
    """Insert everything; returns the number of stubs."""
    modules = dict(model.named_modules())
    tensors: dict[fx.Node, list[str]] = defaultdict(list)
    uses: list[tuple[fx.Node, fx.Node]] = []
    for node in model.graph.nodes:
        module = modules.get(str(node.target)) if node.op == "call_module" else None
        if not isinstance(module, FusedModule):
            continue
        for point in module.qdq_points:
            for tensor in _quantized(node, module, point):
                tensors[tensor].append(f"{node.target} {point.name}")
                uses.append((tensor, node))
        if QDQPoint.INPUT in module.qdq_points:
            _quantize_weights(module, config)
    _insert_stubs(model, config, tensors, uses)
    return len(tensors)


def _quantized(node: fx.Node, module: FusedModule, point: QDQPoint) -> list[fx.Node]:
    """The tensors at a Q/DQ point of a call, each once."""
    if point is QDQPoint.OUTPUT:
        return [node]
    names = forward_arguments(type(module))
    given = dict(zip(names, node.args, strict=False)) | node.kwargs
    found = [given.get(name) for name in module.quantized_arguments(point)]
    return list(dict.fromkeys(one for one in found if isinstance(one, fx.Node)))


def _quantize_weights(module: FusedModule, config: QuantConfig) -> None:
    for path in module.quantizable_weights():
        quantizer = WeightFakeQuantize(config.weights, attrgetter(path)(module))
        module.weight_quantizers[path.replace(".", "_")] = quantizer.train(module.training)


def _insert_stubs(
    model: fx.GraphModule,
    config: QuantConfig,
    tensors: dict[fx.Node, list[str]],
    uses: list[tuple[fx.Node, fx.Node]],
) -> None:
    paths = Paths({path for path, _ in model.named_modules()})
    stubs: dict[fx.Node, fx.Node] = {}
    for tensor, points in tensors.items():
        path = paths.fresh(f"{_path(tensor)}_stub")
        stub = QuantStub(config.activations, tuple(dict.fromkeys(points)))
        model.add_submodule(path, stub.train(model.training))
        with model.graph.inserting_before(_after(tensor)):
            stubs[tensor] = model.graph.call_module(path, (tensor,))
        stubs[tensor].meta = {"scope": parent(path), "val": tensor.meta.get("val")}
    for tensor, user in uses:
        users = [one for one in tensor.users if one is not stubs[tensor]]
        for one in users if user is tensor else [user]:
            one.replace_input_with(tensor, stubs[tensor])
    _move_to_device(model)
    model.graph.lint()
    model.recompile()


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


def _move_to_device(model: fx.GraphModule) -> None:
    """Stubs follow the model's parameters."""
    tensor = next(model.parameters(), None)
    for module in model.modules():
        if isinstance(module, QuantStub) and tensor is not None:
            module.to(tensor.device)
