"""Batches of data as what a model takes, and running a model on them."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from embedl_deploy.errors import CalibrationError, DeviceError

Inputs = tuple[tuple[Any, ...], dict[str, Any]]
"""Positional and keyword arguments of a model."""


@contextmanager
def inferring(model: nn.Module) -> Iterator[None]:
    """Eval mode, without gradients; as before afterwards."""
    modes = {module: module.training for module in model.modules()}
    try:
        model.eval()
        with torch.no_grad():
            yield
    finally:
        for module, training in modes.items():
            module.training = training


def batches_for(model: fx.GraphModule, data: Iterable[Any]) -> Iterator[Inputs]:
    """Batches of data as arguments of a model.

    Raises:
        CalibrationError: The data are no batches, or the model has no values.
    """
    check_batches(data)
    device = device_of(model)
    if device is not None and device.type == "meta":
        raise CalibrationError("the model is on the meta device, where nothing has a value")
    inputs = sum(node.op == "placeholder" for node in model.graph.nodes)
    for batch in data:
        yield call_arguments(batch, inputs)


@contextmanager
def fitting(what: str, inputs: Inputs, kept: str = "") -> Iterator[None]:
    """Says of whatever goes wrong inside that inputs do not fit the model.

    Args:
        what: Goes wrong.
        inputs: Of the model.
        kept: What is as before when the device's memory is too small for them.

    Raises:
        CalibrationError: Something went wrong, or the inputs are empty.
    """
    what = f"{what} with {_shapes(*inputs)}"
    if any(isinstance(one, Tensor) and not one.numel() for one in pytree.tree_leaves(inputs)):
        raise CalibrationError(f"{what} is empty; leave it out")
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise CalibrationError(
            f"{what} does not fit into the device's memory{kept}; give smaller batches: "
            f"{first_line(error)}"
        ) from error
    except Exception as error:  # layers raise what they like
        said = f"{what} does not fit the model: {first_line(error)}{remedy(inputs)}"
        raise CalibrationError(said) from error


def call_arguments(batch: Any, inputs: int) -> Inputs:
    """Positional and keyword arguments of a batch for a model with that many inputs."""
    match batch:
        case Mapping():
            return (), {str(name): value for name, value in batch.items()}
        case tuple() | list():
            return tuple(batch[:inputs]), {}
    return (batch,), {}


def device_of(model: nn.Module) -> torch.device | None:
    """The device that a model is on; `None` where it has no tensor.

    Raises:
        DeviceError: It is spread over several.
    """
    tensors = chain(model.named_parameters(), model.named_buffers())
    first: dict[torch.device, str] = {}
    for name, one in tensors:
        first.setdefault(one.device, name)
    if len(first) > 1:
        found = " and ".join(f"'{name}' on {device}" for device, name in first.items())
        raise DeviceError(f"the model is spread over devices: {found}; move it to one with .to()")
    return next(iter(first), None)


def remedy(inputs: Any) -> str:
    """What to do about inputs of a kind that models do not take, in words; empty of others."""
    if holds_arrays(inputs):
        return "; it has NumPy arrays: give tensors, of torch.from_numpy()"
    for one in pytree.tree_leaves(inputs):
        if isinstance(one, Tensor) and one.dtype == torch.uint8:
            return "; it is uint8: give it as in training, such as image.float() / 255, normalized"
        if isinstance(one, Tensor) and one.dtype == torch.float64:
            return "; it is float64: give float32, with .float()"
    return ""


def holds_arrays(inputs: Any) -> bool:
    """Whether an input is an array or a number of NumPy."""
    return any(type(one).__module__ == "numpy" for one in pytree.tree_leaves(inputs))


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


def check_batches(data: Iterable[Any]) -> None:
    """Raise unless data is several batches: iterating over a tensor would give its rows.

    Raises:
        CalibrationError: It is a tensor, an array, a dict or a text, or nothing to iterate.
    """
    iterable = hasattr(data, "__iter__") or hasattr(data, "__getitem__")
    one = isinstance(data, Tensor | Mapping | str | bytes) or type(data).__module__ == "numpy"
    if one or not iterable:
        raise CalibrationError(
            f"the data is a {type(data).__name__}; pass a list of batches, a DataLoader or another "
            "iterable of batches"
        )
