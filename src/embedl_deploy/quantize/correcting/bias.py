"""Bias correction: the mean of each output channel is again what it is in floating point."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from operator import length_hint
from typing import Any

import torch
from torch import Tensor, fx

from embedl_deploy.batches import batches_for, device_of, fitting, inferring, moved
from embedl_deploy.errors import CalibrationError
from embedl_deploy.modules import FusedModule
from embedl_deploy.quantize.calibrating.calibrate import Progress, check_calibrated
from embedl_deploy.quantize.calibrating.faults import in_order
from embedl_deploy.quantize.measuring.sidebyside import (
    UNKNOWN,
    Given,
    LayerPair,
    Reference,
    fused_calls,
    in_floating_point,
    rounded_weights,
    side_by_side,
)
from embedl_deploy.quantize.observing.processes import check_alone
from embedl_deploy.table import Printed, table

_RUNNING_MEAN = "batch_norm.running_mean"


@dataclass(frozen=True)
class BiasRow:
    """What became of one layer.

    Attributes:
        path: Of the fused module.
        tensor: Path of the tensor that took the correction; empty where none did.
        largest: The largest shift of a channel's mean.
        reason: Why it was left as it was; empty where it was not.
    """

    path: str
    tensor: str
    largest: float
    reason: str = ""


@dataclass(frozen=True, repr=False)
class BiasCorrection(Printed):
    """What `correct_bias` did; prints as a table.

    Attributes:
        rows: One for each fused module with rounded weights, in the order in which they run.
    """

    rows: tuple[BiasRow, ...]

    def _parts(self) -> Sequence[str]:
        cells = [
            (row.path, row.tensor or "left", f"{row.largest:.3g}", row.reason) for row in self.rows
        ]
        return (table(("Path", "Corrected", "Largest shift", "Reason"), cells),)


def correct_bias(
    model: fx.GraphModule,
    data: Iterable[Any],
    *,
    reference: Reference | None = None,
    progress: Progress | None = None,
) -> BiasCorrection:
    """Undo what rounding does to the mean of each output channel of each layer.

    Rounding errors of weights and inputs do not average out within one channel, and a shifted mean
    goes on to all layers after it. The empirical form of Nagel et al., 2019 (arXiv 1906.04721)
    adds E[y] − E[ŷ] to the bias, with y and ŷ a layer's product in floating point and
    quantized. Behind a live batch norm the running mean takes it with the other sign, which is
    the same at inference; training moves the running mean there by itself, since ŷ is what
    it sees.

    A layer's ŷ has to come from layers that are corrected already. Each batch runs once through
    both models, layer by layer, and every layer is corrected by the batch's own means before
    the batch goes on; the corrections are averaged over the batches. With one batch this is the
    sequential correction exactly, and memory is that of one batch.

    Args:
        model: A calibrated model; its biases and running means are changed in place, nothing else.
        data: Batches; see `calibrate`. Gone through once.
        reference: The result of `transform` that the model was made of. By default the model
            itself without rounding, which is the same as long as no weight was rounded for good
            and nothing was corrected before.
        progress: Called after every batch.

    Raises:
        CalibrationError: There is no data, or a batch does not fit the model.
        QuantizationError: The model has no stubs, or one of them no scale; or the reference does
            not fit it.
    """
    check_alone("correct_bias()")
    check_calibrated(model)
    places = _places(model)
    count, total = 0, length_hint(data) or None
    with inferring(model), in_floating_point(model, reference) as other:
        for index, inputs in enumerate(batches_for(model, data)):
            with fitting(f"batch {index}", inputs):
                given = in_order(model, *moved(inputs, device_of(model)))
            with _put_back(places):
                for layer in side_by_side(model, other, [given], index):
                    places[layer.path].correct(layer)
            count = index + 1
            if progress is not None:
                progress(count, total)
        rows = tuple(place.settle() for place in places.values())
    if not count:
        raise CalibrationError("there is no data to correct with; give at least one batch")
    return BiasCorrection(rows)


@dataclass
class _Place:
    """Where the correction of a layer goes, and what it comes to.

    Attributes:
        path: Of the layer.
        name: Path of the tensor that takes it.
        tensor: That tensor; `None` where the layer is left as it is.
        reason: Why it would be.
        shift: Sum of the shifts that a batch asks for, each times its positions.
        positions: How many positions the products had.
    """

    path: str
    name: str
    tensor: Tensor | None
    reason: str
    shift: Tensor | float = 0.0
    positions: int = 0

    def correct(self, layer: LayerPair) -> None:
        """Shift the means of a batch to what they are in floating point."""
        if self.tensor is None:
            return
        wanted, positions = _means(layer.reference, layer.wanted[0])
        got, _ = _means(layer.module, layer.given[0])
        shift = got - wanted if self.name == _RUNNING_MEAN else wanted - got
        self.tensor.add_(shift.to(self.tensor.dtype))
        self.shift = self.shift + shift * positions
        self.positions += positions

    def settle(self) -> BiasRow:
        """Take the mean of all batches."""
        if self.tensor is None:
            return BiasRow(self.path, "", 0.0, self.reason)
        shift = torch.as_tensor(self.shift) / max(self.positions, 1)
        self.tensor.add_(shift.to(self.tensor.dtype))
        return BiasRow(self.path, f"{self.path}.{self.name}", float(shift.abs().max()))


@contextmanager
def _put_back(places: Mapping[str, _Place]) -> Iterator[None]:
    """The tensors of the places are as before afterwards."""
    tensors = [place.tensor for place in places.values() if place.tensor is not None]
    before = [tensor.clone() for tensor in tensors]
    try:
        yield
    finally:
        for tensor, was in zip(tensors, before, strict=True):
            tensor.copy_(was)


def _places(model: fx.GraphModule) -> dict[str, _Place]:
    """The place of each layer with rounded weights, by its path."""
    parameters = model.named_parameters(remove_duplicate=False)
    buffers = model.named_buffers(remove_duplicate=False)
    owners = Counter(id(one) for _, one in chain(parameters, buffers))
    found = {}
    for path in fused_calls(model):
        module = model.get_submodule(path)
        if rounded_weights(module):
            name, tensor, reason = _place(module)
            if owners[id(tensor)] > 1:
                tensor, reason = None, f"its '{name}' belongs to other layers too"
            found[path] = _Place(path, name, tensor, reason)
    return found


def _place(module: Any) -> tuple[str, Tensor | None, str]:
    """The path of the tensor that takes a shift, the tensor, and why where there is none."""
    if not module.products:
        return "", None, UNKNOWN
    if module.norm is not None:
        reason = "its batch norm takes the mean of each batch, which undoes any shift"
        return _RUNNING_MEAN, module.norm.running_mean, reason
    paths = [part.bias_path for part in module.products]
    if len({*paths}) > 1:
        return "", None, "its products have a bias each"
    owner, _, name = paths[0].rpartition(".")
    bias = getattr(module.get_submodule(owner), name)
    return paths[0], bias, "it has neither a bias nor a batch norm"


def _means(module: FusedModule, given: Given) -> tuple[Tensor, int]:
    """The mean of each channel of a module's products, and over how many positions."""
    means, positions = [], 0
    for part in module.products:
        rows = part.product(module, given).flatten(0, -2)
        mean, positions = rows.mean(0, dtype=torch.float64), len(rows)
        means.append(mean if module.norm is not None or part.shifts(module) else 0 * mean)
    return torch.cat(means), positions
