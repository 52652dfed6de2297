"""The accurate recipe: one step after the other, each kept where what it gains is no chance."""

import copy
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from statistics import fmean, stdev
from typing import Any

from torch import fx

from embedl_deploy.batches import inferring
from embedl_deploy.errors import QuantizationError
from embedl_deploy.quantize.calibrating.calibrate import Progress, calibrate
from embedl_deploy.quantize.config import QuantConfig, config_of
from embedl_deploy.quantize.correcting.adaround import adaround
from embedl_deploy.quantize.correcting.bias import correct_bias
from embedl_deploy.quantize.correcting.equalize import equalize
from embedl_deploy.quantize.correcting.smooth import smooth
from embedl_deploy.quantize.measuring.noise import Noise
from embedl_deploy.quantize.measuring.onepass import (
    inner_pooled_layers,
    measured_modules,
    outer_layers,
)
from embedl_deploy.quantize.measuring.sidebyside import first_inputs
from embedl_deploy.quantize.observing.clipping import MSEObserver
from embedl_deploy.quantize.observing.observers import MinMaxObserver
from embedl_deploy.quantize.placing.insert import insert_qdq
from embedl_deploy.rewrite import Result
from embedl_deploy.table import Printed, table

_REPORT = "recipe_report"
"""Where a model's `meta` keeps what its recipe did."""

_Rescaling = Callable[[fx.GraphModule, Iterable[Any]], object]
"""Moves ranges between the layers of a model, in place, by what data shows."""

_Judged = tuple[Sequence[Any], Any]
"""Inputs, and the outputs in floating point."""

_FINE = 8
"""Bits of weights whose rounding is not learned."""

_JUDGED = 128
"""How many samples are looked at to learn and to judge."""

_MOST = 200.0
"""Decibels that a batch counts at most: one without any noise has infinitely many."""

_WORTH = 0.3
"""Decibels that the first or the last layers have to gain for staying in floating point."""


@dataclass(frozen=True)
class RecipeStep:
    """One step of a recipe.

    Attributes:
        name: What was tried.
        before_db: Signal to noise at the model's outputs before it, the mean of the batches' in
            decibels, on batches that it did not learn from: each half with the scales of the other;
            and a quarter, with all scales, for `adaround` and `correct_bias`.
        after_db: That after it.
        needed_db: What it has to gain: the standard error of the gain, by how it differs between
            the batches, and for first and last layers in floating point at least 0.3 dB.
        kept: Whether its result was taken: where it gains that.
    """

    name: str
    before_db: float
    after_db: float
    needed_db: float
    kept: bool


@dataclass(frozen=True, repr=False)
class RecipeReport(Printed):
    """What the accurate recipe did; prints as a table.

    Attributes:
        steps: In the order in which they were tried.
        held_out: Whether the batches that judged were none of those that were learned from. One
            batch alone does both.
        config: How the model is quantized: with it `restore` takes its state dict.
    """

    steps: tuple[RecipeStep, ...]
    held_out: bool
    config: QuantConfig

    def _parts(self) -> Sequence[str]:
        cells = [
            (
                step.name,
                f"{step.before_db:.1f} dB",
                f"{step.after_db:.1f} dB",
                f"{step.needed_db:.1f} dB",
                "yes" if step.kept else "no",
            )
            for step in self.steps
        ]
        return (table(("Step", "Before", "After", "Needed", "Kept"), cells),)


def recipe_report(model: fx.GraphModule) -> RecipeReport:
    """What `quantize(recipe="accurate")` tried on a model, and what it kept.

    Raises:
        QuantizationError: The model was not quantized so.
    """
    report = model.meta.get(_REPORT)
    if not isinstance(report, RecipeReport):
        raise QuantizationError('the model is not of quantize(…, recipe="accurate")')
    return report


def quantize_accurately(
    result: Result | fx.GraphModule,
    data: Iterable[Any],
    config: QuantConfig | None,
    progress: Progress | None,
) -> fx.GraphModule:
    """A quantized model by `quantize(recipe="accurate")`, with its `RecipeReport`.

    Args:
        result: What `transform` returned, or its model; left as it is.
        data: Batches that can be gone through several times.
        config: How to quantize; by default as the target asks.
        progress: Called after every step.
    """
    source = result.model if isinstance(result, Result) else result
    work = _Work(source, data, config or config_of(source))
    ranges = [work.smooth, work.equalize, work.clip]
    ends = [work.last_in_float, work.first_in_float]
    steps = [work.pooled_in_float, *ranges, *ends, work.adaround, work.correct_bias]
    for count, step in enumerate(steps, 1):
        step()
        if progress is not None:
            progress(count, len(steps))
    work.model.meta[_REPORT] = RecipeReport(tuple(work.steps), work.held_out, work.draft.config)
    return work.model


@dataclass(frozen=True)
class _Draft:
    """A way to make a quantized model of data.

    Attributes:
        source: In floating point.
        config: How it is quantized.
        rescalings: Applied to it before, in order.
    """

    source: fx.GraphModule
    config: QuantConfig
    rescalings: tuple[_Rescaling, ...] = ()

    def rescaled(self, data: Iterable[Any]) -> fx.GraphModule:
        """The model in floating point."""
        model = copy.deepcopy(self.source) if self.rescalings else self.source
        for rescaling in self.rescalings:
            rescaling(model, data)
        return model

    def made(self, data: Iterable[Any]) -> fx.GraphModule:
        """The quantized model."""
        return calibrate(insert_qdq(self.rescaled(data), self.config), data)


class _Work:
    """The best way so far, and what was tried.

    Steps that set scales are judged by two halves of the batches: what one half calibrates, the
    other judges. Steps that learn more come last; they learn from three quarters.
    """

    def __init__(self, source: fx.GraphModule, data: Iterable[Any], config: QuantConfig) -> None:
        self.data, self.draft = data, _Draft(source, config)
        with inferring(source):
            some = first_inputs(source, data, _JUDGED)
            judged = [(inputs, source(*inputs)) for inputs in some]
        self.held_out = len(some) > 1
        halves = (slice(0, None, 2), slice(1, None, 2)) if self.held_out else (slice(None),) * 2
        self.folds = [
            (some[learn], judged[judge]) for learn, judge in (halves, tuple(reversed(halves)))
        ]
        cut = len(some) - max(1, len(some) // 4) if self.held_out else 0
        self.learned, self.later = some[:cut] or some, judged[cut:]
        self.scores = self._validated(self.draft)
        self.steps: list[RecipeStep] = []

    def smooth(self) -> None:
        """Outlier channels into weights."""
        self._draw("smooth", replace(self.draft, rescalings=(smooth,)))

    def equalize(self) -> None:
        """Channels of different ranges."""
        rescalings = (*self.draft.rescalings, lambda model, _: equalize(model))
        self._draw("equalize", replace(self.draft, rescalings=rescalings))

    def clip(self) -> None:
        """Ranges of the least squared error, where nothing else was asked for."""
        config = self.draft.config
        given = config.activations
        if given is None or given.observer is not MinMaxObserver:
            return
        clipped = replace(config, activations=replace(given, observer=MSEObserver))
        self._draw("MSE observers", replace(self.draft, config=clipped))

    def last_in_float(self) -> None:
        """The layers after which no other comes, such as a classifier."""
        self._left("last layers in floating point", outer_layers(self.draft.source, last=True))

    def first_in_float(self) -> None:
        """The layers before which no other comes."""
        self._left("first layers in floating point", outer_layers(self.draft.source, last=False))

    def adaround(self) -> None:
        """Weights up or down, where steps are coarse: at 8 bits it costs most and gains least."""
        self.float = self.draft.rescaled(self.data)
        self.model = calibrate(insert_qdq(self.float, self.draft.config), self.data)
        self.scores = _scores(self.model, self.later)
        if self.draft.config.weights.bits >= _FINE:
            return
        candidate = copy.deepcopy(self.model)
        adaround(candidate, self.learned, reference=self.float, samples=_JUDGED)
        self._try("adaround", candidate)

    def correct_bias(self) -> None:
        """Means of channels."""
        candidate = copy.deepcopy(self.model)
        correct_bias(candidate, self.learned, reference=self.float)
        self._try("correct_bias", candidate)

    def pooled_in_float(self) -> None:
        """Those on one value a channel, between others: squeeze and excitation."""
        paths = inner_pooled_layers(self.draft.source)
        self._left("inner pooled layers in floating point", paths, 0.0)

    def _left(self, name: str, paths: Sequence[str], least: float = _WORTH) -> None:
        """Leave layers in floating point, where others are quantized and it is worth it."""
        config = self.draft.config
        measured = {*measured_modules(insert_qdq(self.draft.source, config))}
        if measured.intersection(paths) and measured.difference(paths):
            config = replace(config, skip=(*config.skip, *paths))
            self._draw(name, replace(self.draft, config=config), least)

    def _draw(self, name: str, draft: _Draft, least: float = 0.0) -> None:
        """Take a way where it gains enough, and at least so many decibels."""
        if self._kept(name, self._validated(draft), least):
            self.draft = draft

    def _try(self, name: str, candidate: fx.GraphModule) -> None:
        """Take a model where it gains enough."""
        if self._kept(name, _scores(candidate, self.later)):
            self.model = candidate

    def _kept(self, name: str, scores: list[float], least: float = 0.0) -> bool:
        gains = [after - before for after, before in zip(scores, self.scores, strict=True)]
        error = stdev(gains) / math.sqrt(len(gains)) if len(gains) > 1 else 0.0
        needed = max(least, error)
        kept = fmean(gains) > needed
        step = RecipeStep(name, fmean(self.scores), fmean(scores), needed, kept)
        self.steps.append(step)
        self.scores = scores if kept else self.scores
        return kept

    def _validated(self, draft: _Draft) -> list[float]:
        """Signal to noise of each batch, with the scales of the half that it is not in."""
        found = (_scores(draft.made(learned), judged) for learned, judged in self.folds)
        return [*chain.from_iterable(found)]


def _scores(model: fx.GraphModule, judged: Iterable[_Judged]) -> list[float]:
    """Signal to noise at the outputs for each batch, in decibels.

    Over all batches together it would be that of the one with the most noise: an image beyond what
    half of the others calibrate decides alone then, and with all of them it would not be beyond.
    """
    found = []
    with inferring(model):
        for inputs, wanted in judged:
            noise = Noise()
            noise.add(wanted, model(*inputs))
            found.append(max(-_MOST, min(noise.sqnr_db, _MOST)))
    return found
