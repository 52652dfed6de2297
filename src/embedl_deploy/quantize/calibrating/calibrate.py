"""Calibration: representative data gives every stub its scale."""

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain
from operator import length_hint
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from embedl_deploy.batches import Inputs, batches_for, device_of, fitting, inferring, moved
from embedl_deploy.errors import CalibrationError, QuantizationError
from embedl_deploy.quantize.calibrating.faults import Faults
from embedl_deploy.quantize.observing.histogram import computed
from embedl_deploy.quantize.observing.processes import observed_by_all
from embedl_deploy.quantize.stubs import QuantStub, enabled_only, quantizers_of

Data = Iterable[Any] | Callable[[fx.GraphModule], object]
"""Batches, or a function that runs the model on them."""

_logger = logging.getLogger(__name__)

_KEPT = ", and the model's scales and modes are as before"

Progress = Callable[[int, int | None], None]
"""Called with the number of batches done and their total, where it is known."""


def calibrate(
    model: fx.GraphModule, data: Data, *, progress: Progress | None = None
) -> fx.GraphModule:
    """Set the scale of every stub from representative data.

    The model runs in eval mode with nothing quantized. Where calibration fails, scales and
    modes are left as they were. Where `torch.distributed` is initialized, every process brings
    data of its own, and all get the scales for all data.

    Args:
        model: A model from `insert_qdq`; changed in place and returned.
        data: Batches: a tensor, a tuple or list of positional inputs, or a dict of inputs by
            name. What a tuple has beyond the model's inputs, such as labels, is left out.
            They are moved to the model's device. Or a function that takes the model and runs it.
        progress: Called after every batch.

    Raises:
        CalibrationError: There is no data, a batch does not fit the model, or a stub saw no
            data or values that are not finite.
        QuantizationError: The model has no stubs.
    """
    stubs = stubs_of(model)
    if not stubs:  # weights alone are quantized; their scales are set
        return model
    with _observing(model, stubs):
        own = {path: one.observer for path, one in stubs.items() if one.observer is not None}
        count, seen = observed_by_all(partial(_run, model, stubs, data, progress), own)
        if not count:
            raise CalibrationError("the calibration data is empty; give at least one batch")
        for path, observer in seen.items():
            stubs[path].observer = observer
        groups = _groups(stubs)
        signed = {path: one for group in groups for path, one in _signs(group, stubs).items()}
        largest = _largest(stubs, signed)
    _warn_of_zeros(model, largest)
    for group in groups:
        shared = torch.stack([largest[path] for path in group]).max()
        for path in group:
            stubs[path].set_range(shared, signed=signed[path])
    return model


def stubs_of(model: fx.GraphModule) -> dict[str, QuantStub]:
    """The stubs of a model by path, in the order in which they run.

    Raises:
        QuantizationError: It has none, nor quantized weights.
    """
    if not isinstance(model, fx.GraphModule):
        raise QuantizationError(
            f"a model from insert_qdq() is needed, not a {type(model).__name__}"
        )
    modules = dict(model.named_modules(remove_duplicate=False))
    called = [str(node.target) for node in model.graph.nodes if node.op == "call_module"]
    parts = chain.from_iterable(modules[path].named_modules(prefix=path) for path in called)
    stubs = {path: one for path, one in parts if isinstance(one, QuantStub)}
    if not stubs and not quantizers_of(model):
        raise QuantizationError("the model has no stubs; put them in with insert_qdq()")
    return stubs


def check_calibrated(model: fx.GraphModule) -> None:
    """Raise unless every stub has a scale.

    Raises:
        QuantizationError: One has none, or the model has no stubs.
    """
    for path, stub in stubs_of(model).items():
        if not stub.calibrated:
            raise QuantizationError(
                f"the stub '{path}' has no scale yet; calibrate the model first"
            )


def _warn_of_zeros(model: fx.GraphModule, largest: Mapping[str, Tensor]) -> None:
    """Say which inputs of the model were zeros in all of the data."""
    for node in model.graph.nodes:
        source = next(iter(node.all_input_nodes), None)
        if source is None or source.op != "placeholder" or str(node.target) not in largest:
            continue
        if not largest[str(node.target)]:
            _logger.warning(
                "the input '%s' is zero in all calibration data: the scales say nothing of real "
                "data; give samples of the training set",
                source.target,
            )


@contextmanager
def _observing(model: fx.GraphModule, stubs: Mapping[str, QuantStub]) -> Iterator[None]:
    """Observers on, weights in floating point, eval mode; all as before afterwards."""
    try:
        for stub in stubs.values():
            stub.observer = stub.config.observer()
        with inferring(model), enabled_only(model):
            yield
    finally:
        for stub in stubs.values():
            stub.observer = None


def _run(
    model: fx.GraphModule, stubs: Mapping[str, QuantStub], data: Data, progress: Progress | None
) -> int:
    """Run the model on all data; returns the number of batches."""
    faults = Faults(model, stubs)
    if isinstance(data, Iterable) or not callable(data):
        count = _run_batches(model, faults, data, progress)
    else:
        count = _run_loop(model, faults, data, progress)
    faults.end()
    return count


def _run_loop(
    model: fx.GraphModule,
    faults: Faults,
    loop: Callable[[fx.GraphModule], object],
    progress: Progress | None,
) -> int:
    """Let a function run the model; returns how often it did."""
    count = 0
    device = device_of(model)
    given: Inputs = ((), {})

    def before(_: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        nonlocal given
        given = args, kwargs
        for one in pytree.tree_leaves(given):
            if isinstance(one, Tensor) and device not in {None, one.device}:
                raise CalibrationError(
                    f"calibration batch {count} is on {one.device} and the model on {device}; "
                    "move one of them with .to()"
                )

    def after(_: object, args: tuple[Any, ...], kwargs: dict[str, Any], __: object) -> None:
        nonlocal count
        faults.look(args, kwargs, count)
        count += 1
        if progress is not None:
            progress(count, None)

    hooks = (
        model.register_forward_pre_hook(before, with_kwargs=True),
        model.register_forward_hook(after, with_kwargs=True),
    )
    try:
        loop(model)
    except torch.OutOfMemoryError:
        with fitting(f"calibration batch {count}", given, _KEPT):
            raise
    finally:
        for hook in hooks:
            hook.remove()
    return count


def _run_batches(
    model: fx.GraphModule,
    faults: Faults,
    data: Iterable[Any],
    progress: Progress | None,
) -> int:
    """Run the model on batches; returns how many there were."""
    total = length_hint(data) or None
    count = 0
    for inputs in batches_for(model, data):
        with fitting(f"calibration batch {count}", inputs, _KEPT):
            args, kwargs = moved(inputs, device_of(model))
            model(*args, **kwargs)
        faults.look(args, kwargs, count)
        count += 1
        if progress is not None:
            progress(count, total)
    return count


def _groups(stubs: Mapping[str, QuantStub]) -> list[list[str]]:
    """Paths of the stubs that share a scale."""
    members = defaultdict(list)
    for path, stub in stubs.items():
        members[stub.shares or path].append(path)
    return [*members.values()]


def _signs(group: Sequence[str], stubs: Mapping[str, QuantStub]) -> dict[str, bool]:
    """Whether the stubs of a group have numbers with a sign: all do where one has."""
    return dict.fromkeys(group, any(_is_signed(stubs[path]) for path in group))


def _is_signed(stub: QuantStub) -> bool:
    """Whether a stub has numbers with a sign; without, where its observer saw none below 0."""
    lowest = stub.observer.lowest if stub.observer is not None else None
    return stub.config.signed or lowest is None or bool(lowest < 0)


def _largest(stubs: Mapping[str, QuantStub], signed: Mapping[str, bool]) -> dict[str, Tensor]:
    """The largest magnitudes to represent, by path, on the CPU."""
    asked = {
        path: (stub.observer, stub.config.grid(signed=signed[path]))
        for path, stub in stubs.items()
        if stub.observer is not None
    }
    found = dict(zip(asked, computed(asked.values()), strict=True))
    return {path: _checked(path, stub, found[path]) for path, stub in stubs.items()}


def _checked(path: str, stub: QuantStub, largest: Tensor | None) -> Tensor:
    if largest is None:
        raise CalibrationError(
            f"the stub '{path}' saw no data: the calibration data never takes the branch it is in"
        )
    largest = largest.cpu()
    if not torch.isfinite(largest):
        raise CalibrationError(
            f"the observer at '{path}' ({', '.join(stub.points)}) gives a range that is not finite"
        )
    return largest
