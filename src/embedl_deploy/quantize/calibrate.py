"""Calibration: representative data gives every stub its scale."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from operator import length_hint
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from embedl_deploy.errors import CalibrationError, QuantizationError
from embedl_deploy.quantize.config import QuantConfig
from embedl_deploy.quantize.insert import insert_qdq
from embedl_deploy.quantize.stubs import QuantStub, WeightFakeQuantize
from embedl_deploy.rewrite import Result

Progress = Callable[[int, int | None], None]
"""Called with the number of batches done and their total, where it is known."""


def calibrate(
    model: fx.GraphModule, data: Iterable[Any], *, progress: Progress | None = None
) -> fx.GraphModule:
    """Set the scale of every stub from representative data.

    The model runs in eval mode with nothing quantized. Where calibration fails, scales and
    modes are left as they were.

    Args:
        model: A model from `insert_qdq`; changed in place and returned.
        data: Batches: a tensor, a tuple or list of positional inputs, or a dict of inputs by
            name. What a tuple has beyond the model's inputs, such as labels, is left out.
        progress: Called after every batch.

    Raises:
        CalibrationError: There is no data, a batch does not fit the model, or a stub saw no
            data or values that are not finite.
        QuantizationError: The model has no stubs.
    """
    stubs = stubs_of(model)
    check_batches(data)
    with _observing(model, stubs):
        count = _run(model, data, progress)
        if not count:
            raise CalibrationError("the calibration data is empty; give at least one batch")
        ranges = {path: _range(path, stub) for path, stub in stubs.items()}
    for path, largest in _shared(ranges, stubs).items():
        stubs[path].set_range(largest)
    return model


def quantize(
    result: Result | fx.GraphModule,
    data: Iterable[Any],
    config: QuantConfig | None = None,
    *,
    fine_tune: Callable[[fx.GraphModule], object] | None = None,
    progress: Progress | None = None,
) -> fx.GraphModule:
    """Insert stubs, calibrate them, and fine-tune if asked: the three steps in one.

    Args:
        result: What `transform` returned, or its model; left as it is.
        data: Representative batches; see `calibrate`.
        config: How to quantize; 8 bits, min-max by default.
        fine_tune: Trains the quantized model in place, with any PyTorch loop.
        progress: Called after every calibration batch.

    Returns:
        The quantized model in eval mode, ready for export.
    """
    model = calibrate(insert_qdq(result, config), data, progress=progress)
    if fine_tune is not None:
        fine_tune(model)
    return model.eval()


def stubs_of(model: fx.GraphModule) -> dict[str, QuantStub]:
    """The stubs of a model by path, in the order in which they run.

    Raises:
        QuantizationError: It has none.
    """
    if not isinstance(model, fx.GraphModule):
        raise QuantizationError(
            f"a model from insert_qdq() is needed, not a {type(model).__name__}"
        )
    modules = dict(model.named_modules(remove_duplicate=False))
    called = [str(node.target) for node in model.graph.nodes if node.op == "call_module"]
    parts = chain.from_iterable(modules[path].named_modules(prefix=path) for path in called)
    stubs = {path: one for path, one in parts if isinstance(one, QuantStub)}
    if not stubs:
        raise QuantizationError("the model has no stubs; put them in with insert_qdq()")
    return stubs


def check_batches(data: Iterable[Any]) -> None:
    """Hold that data is several batches, not one: iterating a tensor would give its rows.

    Raises:
        CalibrationError: It is a tensor or a dict, or nothing to iterate.
    """
    iterable = hasattr(data, "__iter__") or hasattr(data, "__getitem__")
    if isinstance(data, Tensor | Mapping) or not iterable:
        raise CalibrationError(
            f"the data is a {type(data).__name__}; pass a list of batches, a DataLoader or another "
            "iterable of batches"
        )


@contextmanager
def _observing(model: fx.GraphModule, stubs: Mapping[str, QuantStub]) -> Iterator[None]:
    """Observers on, weights in floating point, eval mode; all as before afterwards."""
    modes = {module: module.training for module in model.modules()}
    weights = [one for one in model.modules() if isinstance(one, WeightFakeQuantize)]
    enabled = [one.enabled for one in weights]
    try:
        model.eval()
        for stub in stubs.values():
            stub.observer = stub.config.observer()
        for one in weights:
            one.enabled = False
        yield
    finally:
        for stub in stubs.values():
            stub.observer = None
        for one, was in zip(weights, enabled, strict=True):
            one.enabled = was
        for module, training in modes.items():
            module.training = training


def _run(model: fx.GraphModule, data: Iterable[Any], progress: Progress | None) -> int:
    total = length_hint(data) or None
    inputs = sum(node.op == "placeholder" for node in model.graph.nodes)
    device = device_of(model)
    count = 0
    for batch in data:
        args, kwargs = call_arguments(batch, inputs)
        try:
            with torch.no_grad():
                model(*moved(args, device), **moved(kwargs, device))
        except Exception as error:  # layers raise what they like
            raise CalibrationError(
                f"calibration batch {count} with {_shapes(args, kwargs)} does not fit the model: "
                f"{first_line(error)}"
            ) from error
        count += 1
        if progress is not None:
            progress(count, total)
    return count


def call_arguments(batch: Any, inputs: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments of a batch for a model with that many inputs."""
    match batch:
        case Mapping():
            return (), {str(name): value for name, value in batch.items()}
        case tuple() | list():
            return tuple(batch[:inputs]), {}
    return (batch,), {}


def device_of(model: fx.GraphModule) -> torch.device | None:
    """The device of a model's first parameter."""
    return next((tensor.device for tensor in model.parameters()), None)


def first_line(error: BaseException) -> str:
    """What an error says, in one line; its class where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def moved(tree: Any, device: torch.device | None) -> Any:
    """The tree with all its tensors on the device."""
    return pytree.tree_map_only(Tensor, lambda tensor: tensor.to(device), tree)


def _shapes(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    leaves = pytree.tree_leaves((args, kwargs))
    shapes = [f"shape {tuple(one.shape)}" for one in leaves if isinstance(one, Tensor)]
    return ", ".join(shapes) or "no tensor"


def _shared(ranges: Mapping[str, Tensor], stubs: Mapping[str, QuantStub]) -> dict[str, Tensor]:
    """The largest range of its group for each stub."""
    largest: dict[str, Tensor] = {}
    for path, one in ranges.items():
        group = stubs[path].shares or path
        largest[group] = torch.maximum(one, largest.get(group, one))
    return {path: largest[stubs[path].shares or path] for path in ranges}


def _range(path: str, stub: QuantStub) -> Tensor:
    largest = stub.observer.compute() if stub.observer is not None else None
    if largest is None:
        raise CalibrationError(
            f"the stub '{path}' saw no data: the calibration data never takes the branch it is in"
        )
    if not torch.isfinite(largest):
        raise CalibrationError(
            f"values that are not finite (NaN or infinite) reach '{path}' "
            f"({', '.join(stub.points)}), the first such stub in the model's order; check the "
            "calibration data, and the weights of the layers before it"
        )
    return largest
