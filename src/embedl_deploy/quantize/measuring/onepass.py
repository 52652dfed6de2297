"""Measure every quantizer in one pass of the model in floating point."""

import math
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

from torch import Tensor, fx, nn
from torch.fx.node import map_arg

from embedl_deploy.graph.interpreter import Interpreter, plain
from embedl_deploy.graph.shapes import shape
from embedl_deploy.modules import FusedModule
from embedl_deploy.quantize.measuring.noise import Noise
from embedl_deploy.quantize.placing.copying import copied_inputs, sources
from embedl_deploy.quantize.stubs import QuantStub, enabled_only, quantizers_of
from embedl_deploy.rewrite.arithmetic import share


class OnePass(Interpreter):
    """Runs a model whose quantizers are off, and measures what each alone would change.

    A stub: its rounding. A fused module: its result from rounded inputs with rounded weights,
    beside its result from the same inputs without.

    Args:
        model: The model.
        stubs: Where to measure stubs, by path; those inside fused modules among them.
        fused: Where to measure fused modules, by path.
    """

    def __init__(
        self, model: fx.GraphModule, stubs: Mapping[str, Noise], fused: Mapping[str, Noise]
    ) -> None:
        super().__init__(model, garbage_collect_values=False)
        self.objects = dict(model.named_modules())
        self.stubs, self.fused = stubs, fused
        self.rounded: dict[fx.Node, Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        if not self.rounded.keys().isdisjoint(copied_inputs(n, self.objects)):
            args, kwargs = self._rounded_inputs(n)
            self.rounded[n] = getattr(self, n.op)(n.target, args, kwargs)
        if n.op != "call_module":
            return super().run_node(n)
        path = str(n.target)
        module = self.objects[path]
        if isinstance(module, QuantStub):
            value = super().run_node(n)
            self.rounded[n] = _measured(module, value, self.stubs[path])
            return value
        if path not in self.fused:
            return super().run_node(n)
        return self._tried(n, path, module)

    def _tried(self, n: fx.Node, path: str, module: nn.Module) -> Any:
        inner = {
            name: one
            for name, one in module.named_modules(prefix=path)
            if isinstance(one, QuantStub)
        }
        hooks = [one.register_forward_hook(self._measure(name)) for name, one in inner.items()]
        try:
            value = super().run_node(n)
        finally:
            for hook in hooks:
                hook.remove()
        args, kwargs = self._rounded_inputs(n)
        with enabled_only(module, quantizers_of(module)):
            self.fused[path].add(value, module(*args, **kwargs))
        return value

    def _rounded_inputs(self, n: fx.Node) -> Any:
        return plain(map_arg((n.args, n.kwargs), lambda one: self.rounded.get(one, self.env[one])))

    def _measure(self, path: str) -> Any:
        def measure(stub: QuantStub, inputs: tuple[Tensor], _: Tensor) -> None:
            _measured(stub, inputs[0], self.stubs[path])

        return measure


def measured_modules(model: fx.GraphModule) -> dict[str, FusedModule]:
    """The fused modules that quantize something, by path, in the order in which they run."""
    modules = dict(model.named_modules())
    found = {}
    for node in model.graph.nodes:
        module = modules.get(str(node.target)) if node.op == "call_module" else None
        if isinstance(module, FusedModule) and (
            stubs_before(node, modules) or quantizers_of(module)
        ):
            found[str(node.target)] = module
    return found


def outer_layers(model: fx.GraphModule, *, last: bool) -> list[str]:
    """Paths of the fused modules with weights after which, or before which, no other comes."""
    modules = dict(model.named_modules())
    nodes = [*model.graph.nodes]
    beyond: set[fx.Node] = set()
    found = []
    for node in reversed(nodes) if last else nodes:
        inner = node.users if last else node.all_input_nodes
        module = modules.get(str(node.target)) if node.op == "call_module" else None
        layer = isinstance(module, FusedModule) and bool(module.parts)
        if layer and not beyond.intersection(inner):
            found.append(str(node.target))
        if layer or beyond.intersection(inner):
            beyond.add(node)
    return list(dict.fromkeys(found))


_SMALL = 0.05
"""The share of the arithmetic that gates have at most."""


def inner_pooled_layers(model: fx.GraphModule) -> list[str]:
    """Paths of the fused modules on one value a channel between others that have more.

    Their results are `(N, C)` or `(N, C, 1, 1)` for N samples, such as those of squeeze and
    excitation; a classifier is not between others. Where they have more than 5 % of the arithmetic,
    they are no mere gates, and none is given; nor is one where shapes are not known.

    Args:
        model: Without stubs, transformed with example inputs.
    """
    modules = dict(model.named_modules())
    nodes = [*model.graph.nodes]
    samples = next((shape(one) for one in nodes if one.op == "placeholder"), None)
    fused = [one for one in nodes if isinstance(modules.get(str(one.target)), FusedModule)]
    pooled = {one for one in fused if samples and _is_pooled(shape(one), samples[0])}
    more = {one for one in fused if one not in pooled}
    before, after = set(more), set(more)
    for node in nodes:
        if not after.isdisjoint(node.all_input_nodes):
            after.add(node)
    for node in reversed(nodes):
        if not before.isdisjoint(node.users):
            before.add(node)
    found = [one for one in fused if one in pooled & before & after]
    if share(found, model) > _SMALL:
        return []
    paths = dict.fromkeys(str(one.target) for one in found)
    return [one for one in paths if one not in {str(other.target) for other in more}]


def _is_pooled(size: Sequence[int] | None, samples: int) -> bool:
    """Whether a result has one value a channel of each sample."""
    return size is not None and len(size) > 1 and size[0] == samples and math.prod(size[2:]) == 1


def stubs_before(node: fx.Node, modules: Mapping[str, nn.Module]) -> dict[fx.Node, QuantStub]:
    """The stubs of what a call reads, by their nodes; between may be what only copies."""
    found = {}
    inputs = node.all_input_nodes
    for one in dict.fromkeys(
        (*inputs, *chain.from_iterable(sources(its, modules) for its in inputs))
    ):
        stub = modules.get(str(one.target))
        if isinstance(stub, QuantStub) and str(node.target) in _calls(stub):
            found[one] = stub
    return found


def _calls(stub: QuantStub) -> list[str]:
    return [point.rpartition(" ")[0] for point in stub.points]


def _measured(stub: QuantStub, value: Tensor, noise: Noise) -> Tensor:
    rounded = stub.rounded(value)
    noise.add(value, rounded)
    low, high = ((limit * stub.scale).to(value) for limit in (stub.lowest, stub.highest))
    half = stub.scale.to(value) / 2 if stub.config.format == "int" else 0
    noise.add_range(value, low, high, half)
    return rounded
