"""AdaRound over a model, layer by layer."""

import math
import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Generator, Tensor, fx

from embedl_deploy.batches import inferring
from embedl_deploy.modules import FusedModule, LinearPart
from embedl_deploy.quantize.calibrating.calibrate import Progress, check_calibrated
from embedl_deploy.quantize.correcting.adaround.checkpoint import Checkpoint, identity_of
from embedl_deploy.quantize.correcting.adaround.learn import Choice, Learned, Settings, learned
from embedl_deploy.quantize.correcting.adaround.regression import assembled, matrix, regressions
from embedl_deploy.quantize.measuring.sidebyside import (
    UNKNOWN,
    LayerPair,
    Reference,
    first_inputs,
    fused_calls,
    in_floating_point,
    rounded_weights,
    side_by_side,
)
from embedl_deploy.quantize.observing.processes import check_alone
from embedl_deploy.quantize.rounding import in_steps
from embedl_deploy.quantize.stubs import WeightFakeQuantize
from embedl_deploy.table import Printed, table

_POSITIONS = 4096
"""How many positions of a layer's output are drawn."""

_NEAREST = "the nearest integers are better on positions that were not learned from"


@dataclass(frozen=True)
class RoundingRow:
    """What became of the weights of one layer.

    Attributes:
        path: Of the fused module.
        changed: The share of its weights whose integer is not the nearest.
        gain_db: How much smaller the squared error of its results became, on positions that it was
            not learned from.
        reason: Why its weights are left as they were; empty where they are not.
    """

    path: str
    changed: float
    gain_db: float
    reason: str = ""


@dataclass(frozen=True, repr=False)
class LearnedRounding(Printed):
    """What `adaround` did; prints as a table.

    Attributes:
        rows: One for each fused module with rounded weights, in the order in which they run.
    """

    rows: tuple[RoundingRow, ...]

    def _parts(self) -> Sequence[str]:
        cells = [
            (row.path, f"{row.changed:.1%}", f"{row.gain_db:.1f} dB", row.reason)
            for row in self.rows
        ]
        return (table(("Path", "Not nearest", "Gain", "Reason"), cells),)


def adaround(
    model: fx.GraphModule,
    data: Iterable[Any],
    *,
    reference: Reference | None = None,
    iterations: int = 500,
    learning_rate: float = 0.1,
    batch: int = 256,
    samples: int = 64,
    seed: int = 0,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> LearnedRounding:
    """Learn for each weight which of the two nearest integers makes its layer's results right.

    Nagel et al., 2020 (arXiv 2004.10568), layer by layer in the order in which they run. A layer's
    inputs come from the layers before it, quantized and learned; its results, activation
    and residual included, should be those of the model in floating point. What was learned is
    kept only where it makes the squared error smaller on positions that it was not learned from.

    The weights become exact multiples of their scales, which stay as they are: rounding to nearest
    gives the learned integers, in the simulation and in the file. Later training starts from them
    and is free to leave them; scales that are observed from weights in training stay the same
    by min-max alone.

    Both models run once, all samples layer by layer, so memory holds what the two pass on at one
    place for all `samples`, and the inputs of 4096 positions of one layer.

    Args:
        model: A calibrated model; its weights are changed in place, nothing else. Where it fails,
            they are as before.
        data: Batches; see `calibrate`. The first that have `samples` samples together are used.
        reference: The result of `transform` that the model was made of. By default the model
            itself without rounding.
        iterations: Steps for each layer.
        learning_rate: Of Adam.
        batch: Positions in a step.
        samples: How many samples to use, in whole batches.
        seed: For what is drawn; the same gives the same weights.
        checkpoint: A folder for finished layers. A second call with the same model, data and
            settings goes on after the last one, and gives what one call would have given.
        progress: Called after every layer with the number done and their total.

    Raises:
        CalibrationError: There is no data, or a batch does not fit the model.
        QuantizationError: The model has no stubs, or one of them no scale; the reference does not
            fit it; or the checkpoint is of another run.
    """
    check_alone("adaround()")
    check_calibrated(model)
    settings = Settings(iterations, learning_rate, batch)
    with inferring(model), in_floating_point(model, reference) as other:
        inputs = first_inputs(model, data, samples)
        store = None
        if checkpoint is not None:
            state = (model.state_dict(), other.state_dict())
            identity = identity_of(asdict(settings), seed, state, inputs)
            store = Checkpoint(checkpoint, identity)
        work = _Work(model, settings, seed, store)
        with work.undone_on_failure():
            for layer in side_by_side(model, other, inputs):
                work.round(layer)
                if progress is not None:
                    progress(len(work.rows), work.total)
    return LearnedRounding(tuple(work.rows))


class _Work:
    """Rounds layer by layer, or takes what a checkpoint has."""

    def __init__(
        self,
        model: fx.GraphModule,
        settings: Settings,
        seed: int,
        store: Checkpoint | None,
    ) -> None:
        self.settings, self.seed, self.store = settings, seed, store
        self.owners = Counter(id(one) for _, one in model.named_parameters(remove_duplicate=False))
        fused = [model.get_submodule(path) for path in fused_calls(model)]
        self.total = sum(bool(rounded_weights(one)) for one in fused)
        self.before: list[tuple[Tensor, Tensor]] = []
        self.rows: list[RoundingRow] = []

    def round(self, layer: LayerPair) -> None:
        """Write the weights of a layer, and its row."""
        index = len(self.rows)
        done = self.store.load(index) if self.store else None
        if done is None:
            done = self._learned(layer, index)
            if self.store:
                self.store.save(index, done)
        pairs = rounded_weights(layer.module)
        for path, integers in done["integers"].items():
            weight, quantizer = pairs[path]
            self.before.append((weight, weight.clone()))
            weight.copy_(integers * quantizer.scale_for(weight))
        self.rows.append(RoundingRow(layer.path, **done["row"]))

    def _learned(self, layer: LayerPair, index: int) -> dict[str, Any]:
        """The integers of a layer's weights by path, and what its row says."""
        pairs = rounded_weights(layer.module)
        if reason := self._why_not(layer.module, pairs.values()):
            return {"integers": {}, "row": _row(reason=reason)}
        draw = Generator().manual_seed(self.seed + index)
        found = regressions(layer, _POSITIONS, draw)
        choices = [_choice(layer.module, one.part, *pairs[one.part.weight]) for one in found]
        parts = [
            learned(one, choice, self.settings, draw)
            for one, choice in zip(found, choices, strict=True)
        ]
        if not any(part.better for part in parts):
            return {"integers": {}, "row": _row(reason=_NEAREST)}
        made = [part.integers for part in parts]
        integers = {
            path: assembled(layer.module, path, made, weight).to(torch.int8)
            for path, (weight, _) in pairs.items()
        }
        return {"integers": integers, "row": _figures(parts, choices)}

    def _why_not(
        self, module: FusedModule, pairs: Collection[tuple[Tensor, WeightFakeQuantize]]
    ) -> str:
        """Why a layer is left as it is; empty where it is not."""
        if not module.products:
            return UNKNOWN
        if len(pairs) < len(module.weights()):
            return "not all of its weights are quantized"
        for weight, quantizer in pairs:
            if quantizer.config.format != "int":
                return f"its weights are {quantizer.config.format} numbers, not integers"
            if self.owners[id(weight)] > 1:
                return "its weight belongs to other layers too"
        return ""

    @contextmanager
    def undone_on_failure(self) -> Iterator[None]:
        """Weights are as before where something goes wrong."""
        try:
            yield
        except BaseException:
            for weight, was in self.before:
                weight.copy_(was)
            raise


def _choice(
    module: FusedModule, part: LinearPart, weight: Tensor, quantizer: WeightFakeQuantize
) -> Choice:
    scale = quantizer.scale_for(weight).expand_as(weight)
    steps = matrix(module, part, in_steps(weight, scale))
    return Choice.of(steps, matrix(module, part, scale), quantizer.highest)


def _figures(parts: Sequence[Learned], choices: Sequence[Choice]) -> dict[str, Any]:
    """What a row says of learned matrices."""
    pairs = list(zip(parts, choices, strict=True))
    changed = sum(int((part.integers != choice.nearest).sum()) for part, choice in pairs)
    count = sum(choice.low.numel() for choice in choices)
    before = sum(part.before for part in parts)
    after = sum(min(part.before, part.after) for part in parts)
    return _row(changed / count, 10 * math.log10(before / after) if after else math.inf)


def _row(changed: float = 0.0, gain_db: float = 0.0, reason: str = "") -> dict[str, Any]:
    return {"changed": changed, "gain_db": gain_db, "reason": reason}
