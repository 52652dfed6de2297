"""Putting quantizers where the patterns declared them."""

import copy as copying
import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain

import torch
from torch import fx

from embedl_deploy.batches import device_of
from embedl_deploy.errors import QuantizationError
from embedl_deploy.graph.paths import Paths, join, node_path, parent
from embedl_deploy.modules import FusedModule, QDQPoint
from embedl_deploy.modules.base import forward_arguments
from embedl_deploy.quantize.config import QuantConfig, TensorQuantConfig, config_of
from embedl_deploy.quantize.observing.observers import MinMaxObserver, MovingAverageObserver
from embedl_deploy.quantize.placing.placement import LEFT, Left
from embedl_deploy.quantize.placing.uses import (
    CONSTANT,
    Site,
    Use,
    before_copies,
    find_sites,
    groups_of,
    uses_of,
    without_repeats,
)
from embedl_deploy.quantize.skip import Skipped, skipped
from embedl_deploy.quantize.stubs import QuantStub, WeightFakeQuantize
from embedl_deploy.rewrite import Result
from embedl_deploy.rewrite.near import around_softmax

_logger = logging.getLogger(__name__)


def insert_qdq(
    result: Result | fx.GraphModule, config: QuantConfig | None = None, *, copy: bool = True
) -> fx.GraphModule:
    """Insert stubs at the declared Q/DQ points and nowhere else, one per tensor.

    The tensors before and after a dropout count as one where the first is quantized for all
    its readers, since they are the same at inference.

    Weights are quantized where the input of their module is.

    Args:
        result: What `transform` returned, or its model.
        config: How to quantize; by default as the target asks: 8 bits, min-max for TensorRT.
        copy: Whether to leave the given model as it is and work on a copy.

    Raises:
        DeviceError: The model is spread over devices.
        QuantizationError: The model has stubs already, no Q/DQ point to quantize, a weight to
            quantize that is not finite, or computes in another type than float32; or the config
            skips what is not there.
    """
    model = result.model if isinstance(result, Result) else result
    if not isinstance(model, fx.GraphModule):
        raise QuantizationError(
            f"insert_qdq takes the result of transform(), not a {type(model).__name__}"
        )
    if any(isinstance(module, QuantStub) for module in model.modules()):
        raise QuantizationError("the model has stubs already; start again from transform()")
    device_of(model)
    _check_type(model)
    if not isinstance(config, QuantConfig | None):
        raise QuantizationError(
            f"the config is a {type(config).__name__}; give a QuantConfig, such as "
            "QuantConfig(weights=TensorQuantConfig(bits=8))"
        )
    config = config or config_of(model)
    chosen = skipped(model, config.skips)
    if config.activations is None:
        chosen = {path: one.without_activations() for path, one in chosen.items()}
    _check_weights(model, chosen)
    model = copying.deepcopy(model) if copy else model
    if not _insert(model, config, chosen):
        raise QuantizationError(f"the model has no Q/DQ point to quantize: {_nothing(model)}")
    return model


def _nothing(model: fx.GraphModule) -> str:
    left: tuple[Left, ...] = model.meta.get(LEFT, ())
    if left:
        return f"'{left[0].path}' is left as it is since {left[0].reason}"
    return "no match declares one; print the result of transform()"


def _check_type(model: fx.GraphModule) -> None:
    for name, one in model.named_parameters():
        if one.is_floating_point() and one.dtype != torch.float32:
            raise QuantizationError(
                f"'{name}' is of type {one.dtype}; what is quantized is calibrated and exported "
                "in float32, so call .float() on the model before transform()"
            )


def _check_weights(model: fx.GraphModule, chosen: Mapping[str, Skipped]) -> None:
    for path, module in model.named_modules():
        if not isinstance(module, FusedModule):
            continue
        for weight in _weights(module, chosen[path]):
            if not torch.isfinite(module.unrounded(weight)).all():
                raise QuantizationError(
                    f"the weight '{path}.{weight}' has values that are not finite (NaN or "
                    "infinite); no scale fits it"
                )


def _insert(model: fx.GraphModule, config: QuantConfig, chosen: Mapping[str, Skipped]) -> int:
    """Insert everything; returns the number of quantizers."""
    modules = dict(model.named_modules())
    sites = find_sites(model, config, chosen)
    varying = {site.path for site in sites if site.reason != CONSTANT}
    constant = {site.path for site in sites} - varying
    chosen = {**chosen, **dict.fromkeys(constant, Skipped(CONSTANT, CONSTANT))}
    if config.attention != "none":
        _warn_of_missed(model, config.attention)
    inner = [_quantize_module(model, site, config, chosen[site.path]) for site in sites]
    uses = without_repeats([use for site in sites for use in uses_of(site)], modules)
    uses = before_copies(uses, modules, pooled=_before_poolings(config))
    stubs = _make_stubs(model, config, uses)
    for use in uses:
        _rewire(use, stubs[use.tensor], forward_arguments(type(modules[str(use.call.target)])))
    left = [_left(site, chosen[site.path], config) for site in sites]
    model.meta[LEFT] = tuple(dict.fromkeys(chain.from_iterable(left)))
    model.graph.lint()
    model.recompile()
    return len(stubs) + sum(inner)


def _before_poolings(config: QuantConfig) -> bool:
    """Whether a stub may be before max poolings instead of after them.

    A range that is a largest magnitude is the same there; one that clips is not. Compilers run
    poolings on integers, and not on FP8 numbers.
    """
    given = config.activations
    extremes = (MinMaxObserver, MovingAverageObserver)
    return given is not None and given.format == "int" and isinstance(given.observer(), extremes)


def _warn_of_missed(model: fx.GraphModule, attention: str) -> None:
    """Say what looks like attention and gets no quantizer."""
    modules = dict(model.named_modules(remove_duplicate=False))
    missed = [node for node in model.graph.nodes if around_softmax(node, modules) is not None]
    if missed:
        _logger.warning(
            "attention='%s' finds no attention at '%s'; the result of transform() says why",
            attention,
            node_path(missed[0]),
        )


def _weights(module: FusedModule, skipped: Skipped) -> tuple[str, ...]:
    """Paths of the weights to quantize."""
    wanted = QDQPoint.INPUT in module.qdq_points and not skipped.weights
    return module.quantizable_weights() if wanted else ()


def _quantize_module(model: fx.GraphModule, site: Site, config: QuantConfig, skip: Skipped) -> int:
    """Insert what goes inside a fused module; returns the number of quantizers."""
    module = site.module
    weights = [path for path in _weights(module, skip) if not _unfit(module, path, config)]
    for path in weights:
        quantizer = WeightFakeQuantize(config.weights, module.unrounded(path), module.axis(path))
        module.set_quantizer(path, quantizer.train(module.training))
    inner = [point for point in site.points if point in module.inner_points]
    for point in inner:
        stub = _new_stub(model, config.at(point), [f"{site.path} {point.name}"])
        setattr(module, point.value, stub)
    return len(weights) + len(inner)


def _unfit(module: FusedModule, path: str, config: QuantConfig) -> str:
    """Why a weight has no blocks of the size that is wanted; empty where it has, or none are."""
    shape, size = module.unrounded(path).shape, config.weights.block_size
    if size is None or (len(shape) == 2 and shape[1] % size == 0):
        return ""
    return f"its weight of shape {tuple(shape)} has no rows of a multiple of {size} values"


def _left(site: Site, skip: Skipped, config: QuantConfig) -> Iterator[Left]:
    """What was declared at a call and is not quantized."""
    if site.reason:
        yield Left(site.path, tuple(point.name for point in site.left), site.reason)
    declared = _weights(site.module, Skipped())
    if declared and skip.weights and not skip.activations:
        yield Left(site.path, (), f"weights skipped by {skip.weights}")
    for path in _weights(site.module, skip):
        if reason := _unfit(site.module, path, config):
            yield Left(site.path, (), reason)


def _make_stubs(
    model: fx.GraphModule, config: QuantConfig, uses: Sequence[Use]
) -> dict[fx.Node, fx.Node]:
    """One stub per tensor, inserted after its producer."""
    points: dict[fx.Node, list[str]] = defaultdict(list)
    for use in uses:
        points[use.tensor].append(f"{use.call.target} {use.point.name}")
    groups = groups_of([*points], dict(model.named_modules()))
    paths = Paths({str(node.target) for node in model.graph.nodes if node.op == "call_module"})
    names = {tensor: paths.fresh(f"{_path(tensor)}_stub") for tensor in points}
    stubs = {}
    for tensor, path in names.items():
        first = groups[tensor]
        shares = "" if first is tensor else names[first]
        model.add_submodule(
            path, _new_stub(model, config.at(QDQPoint.INPUT), points[tensor], shares)
        )
        with model.graph.inserting_before(_after(tensor)):
            stubs[tensor] = model.graph.call_module(path, (tensor,))
        stubs[tensor].meta = {"scope": parent(path), "val": tensor.meta.get("val")}
    _tie(model, names.values())
    return stubs


def _tie(model: fx.GraphModule, paths: Iterable[str]) -> None:
    """Give stubs that share a learned scale one parameter, which keeps them equal in training."""
    for path in paths:
        stub = model.get_submodule(path)
        if isinstance(stub, QuantStub) and stub.shares and stub.learns:
            stub.scale = model.get_parameter(f"{stub.shares}.scale")


def _new_stub(
    model: fx.GraphModule, config: TensorQuantConfig, points: Sequence[str], shares: str = ""
) -> QuantStub:
    stub = QuantStub(config, tuple(dict.fromkeys(points)), shares)
    device = next((tensor.device for tensor in model.parameters()), None)
    return stub.train(model.training).to(device)


def _rewire(use: Use, stub: fx.Node, names: Sequence[str]) -> None:
    """Read the stub in place of the tensor: at one argument, or everywhere after the call."""
    if use.readers:
        for reader in use.readers:
            reader.replace_input_with(use.tensor, stub)
    elif use.argument is None:
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
