"""The ranges of all channels that layers compute with, from one pass over data."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from operator import length_hint
from typing import Any

from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from embedl_deploy.batches import batches_for, device_of, fitting, inferring, moved
from embedl_deploy.errors import CalibrationError
from embedl_deploy.graph.interpreter import Interpreter
from embedl_deploy.modules import FusedModule
from embedl_deploy.modules.base import by_name
from embedl_deploy.quantize.calibrating.calibrate import Progress
from embedl_deploy.quantize.calibrating.faults import in_order
from embedl_deploy.quantize.correcting.rescale.labels import channels_last
from embedl_deploy.quantize.correcting.rescale.sites import axes_of, quantized_arguments
from embedl_deploy.quantize.observing.observers import MinMaxObserver, Observer
from embedl_deploy.quantize.observing.processes import observed_by_all

Key = tuple[str, str]
"""Path of a fused module, and one of its arguments."""

Shapes = dict[fx.Node, Any]
"""What is known of each node's value: a tensor, whose shape counts, or a number."""


def observed(
    model: fx.GraphModule, data: Iterable[Any], progress: Progress | None
) -> tuple[dict[Key, Tensor], Shapes]:
    """The largest magnitude of each channel, by module and argument; and all shapes.

    Raises:
        CalibrationError: There is no data, a batch does not fit the model, or values are not
            finite.
    """
    shapes: Shapes = {node: node.meta.get("val") for node in model.graph.nodes}
    with inferring(model), _observing(model) as own:
        count, seen = observed_by_all(partial(_run, model, data, shapes, progress), own)
    if not count:
        raise CalibrationError("there is no data to smooth with; give at least one batch")
    found = {key: observer.compute() for key, observer in seen.items()}
    ranges = {key: one for key, one in found.items() if one is not None}
    for (path, name), one in ranges.items():
        if not one.isfinite().all():
            raise CalibrationError(
                f"values that are not finite (NaN or infinite) reach '{path}' ({name}); check the "
                "data and the weights"
            )
    return ranges, shapes


@contextmanager
def _observing(model: fx.GraphModule) -> Iterator[dict[Key, Observer]]:
    """Observers at everything that fused modules compute with in integers."""
    modules = dict(model.named_modules(remove_duplicate=False))
    observers: dict[Key, Observer] = {}
    with ExitStack() as hooks:
        calls = [str(node.target) for node in model.graph.nodes if node.op == "call_module"]
        for path in dict.fromkeys(calls):
            module = modules[path]
            if isinstance(module, FusedModule) and axes_of(module, 4):
                own = {name: _channelwise() for name in quantized_arguments(module)}
                observers |= {(path, name): one for name, one in own.items()}
                hook = module.register_forward_pre_hook(partial(_collect, own), with_kwargs=True)
                hooks.callback(hook.remove)
        yield observers


def _channelwise() -> Observer:
    observer = MinMaxObserver()
    observer.axis = -1
    return observer


def _collect(
    observers: Mapping[str, Observer],
    module: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
) -> None:
    given = by_name(module, args, kwargs)
    for name, observer in observers.items():
        tensor = given.get(name)
        if isinstance(tensor, Tensor):
            observer.collect(channels_last(tensor, axes_of(module, tensor.dim())))


def _run(
    model: fx.GraphModule, data: Iterable[Any], shapes: Shapes, progress: Progress | None
) -> int:
    """Run the model on all data, and note shapes of the first batch; returns their number."""
    total = length_hint(data) or None
    count = 0
    for inputs in batches_for(model, data):
        with fitting(f"batch {count}", inputs):
            given = in_order(model, *moved(inputs, device_of(model)))
            if count:
                model(*given)
            else:
                _Shaped(model, shapes).run(*given)
        count += 1
        if progress is not None:
            progress(count, total)
    return count


class _Shaped(Interpreter):
    """Runs a graph and notes the shapes of its values."""

    def __init__(self, model: fx.GraphModule, shapes: Shapes) -> None:
        super().__init__(model)
        self.shapes = shapes

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        self.shapes[n] = pytree.tree_map_only(Tensor, lambda one: one.to("meta"), result)
        return result
