"""What is asked for: a model, data, and how to quantize."""

import enum
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, Self

import typer

from embedl_deploy.cli.data_options import (
    BatchSizeOption,
    DataOption,
    EvaluateOption,
    HeldOutOption,
    LabelsOption,
    LimitOption,
    MeanOption,
    NoNormalizationOption,
    StdOption,
)
from embedl_deploy.cli.options import (
    AttentionOption,
    ModelArgument,
    ObserverOption,
    PatternsOption,
    PercentileOption,
    PlanOption,
    RecipeOption,
    ShapeOption,
    SkipOption,
    TargetOption,
    WeightsOption,
)
from embedl_deploy.cli.values import (
    AttentionChoice,
    Numbers,
    ObserverChoice,
    PatternChoice,
    RecipeChoice,
    Shape,
    TargetChoice,
)
from embedl_deploy.default import DEFAULT
from embedl_deploy.errors import LoadError
from embedl_deploy.quantize import (
    EntropyObserver,
    MinMaxObserver,
    MovingAverageObserver,
    MSEObserver,
    Observer,
    PercentileObserver,
    QuantConfig,
    TensorQuantConfig,
)
from embedl_deploy.tuning import read_plan

_HELD, _HELD_LABELLED = 64, 1000
"""Samples that judge where nothing else is said."""

_ATTENTION = AttentionChoice(DEFAULT.config.attention)
_OBSERVERS: dict[ObserverChoice, type[Observer]] = {
    ObserverChoice.MINMAX: MinMaxObserver,
    ObserverChoice.AVERAGE: MovingAverageObserver,
    ObserverChoice.ENTROPY: EntropyObserver,
    ObserverChoice.MSE: MSEObserver,
}


@dataclass(frozen=True, kw_only=True)
class Material:
    """Which model is meant, with which data, and what is not to be quantized; fields are options.

    Raises:
        BadParameter: Options contradict each other.
    """

    model: ModelArgument
    data: DataOption
    weights: WeightsOption = None
    shape: ShapeOption = None
    target: TargetOption = TargetChoice.TENSORRT
    patterns: PatternsOption = PatternChoice.FULL
    batch_size: BatchSizeOption = 32
    limit: LimitOption = 512
    mean: MeanOption = None
    std: StdOption = None
    no_normalization: NoNormalizationOption = False
    skip: SkipOption = None

    def __post_init__(self) -> None:
        if self.no_normalization and (self.mean is not None or self.std is not None):
            raise typer.BadParameter("--no-normalization contradicts --mean and --std")

    @property
    def base(self) -> QuantConfig:
        """As the target asks, without what is skipped."""
        return self._skipping(self.target.target.config)

    def _skipping(self, config: QuantConfig) -> QuantConfig:
        return replace(config, skip=(*config.skip, *(self.skip or ())))

    @property
    def held(self) -> int:
        """Samples that are held out, at most."""
        return 0

    @property
    def marked(self) -> str:
        """Where labels are."""
        return ""


@dataclass(frozen=True, kw_only=True)
class Order(Material):
    """How the model is to be quantized besides."""

    attention: AttentionOption = _ATTENTION
    recipe: RecipeOption = RecipeChoice.FAST
    observer: ObserverOption = ObserverChoice.MINMAX
    percentile: PercentileOption = None
    plan: PlanOption = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.percentile is not None and self.observer is not ObserverChoice.PERCENTILE:
            raise typer.BadParameter("--percentile needs --observer percentile")
        if self.plan is not None and not self.takes_plan:
            raise typer.BadParameter("--plan excludes --attention and --observer: it has its own")

    @property
    def takes_plan(self) -> bool:
        """Whether nothing is asked for that a plan says."""
        return (self.attention, self.observer) == (_ATTENTION, ObserverChoice.MINMAX)

    @property
    def share(self) -> float:
        """Percentage of the values that the range holds."""
        return 99.99 if self.percentile is None else self.percentile

    @property
    def config(self) -> QuantConfig | None:
        """How to quantize: by the plan, or as the target asks, except for what is an option.

        None: not at all, the plan keeps half precision.
        """
        if self.plan is not None:
            plan = read_plan(self.plan)
            if plan.config is None:
                self.check_float(plan.precision)
                return None
            return self._skipping(plan.config)
        observer = _OBSERVERS.get(self.observer) or partial(PercentileObserver, self.share)
        observer()  # so that a percentile out of range is said before any work
        asked = self.base
        activations = replace(asked.activations or TensorQuantConfig(), observer=observer)
        return replace(asked, activations=activations, attention=self.attention.value)

    def check_float(self, precision: str) -> None:
        """Raise unless a model that is not quantized is of use.

        Args:
            precision: That the plan keeps.

        Raises:
            LoadError: It is not.
        """
        raise LoadError(
            f"the plan '{self.plan}' keeps {precision}, so there is no quantizer to look at; "
            "embedl-deploy verify without --layers compares the outputs of such a file"
        )


@dataclass(frozen=True, kw_only=True)
class Judged(Order):
    """The same, with samples that are held out to judge the file."""

    held_out: HeldOutOption = None
    labels: LabelsOption = None
    evaluate: EvaluateOption = None

    @property
    def held(self) -> int:
        if self.held_out is not None:
            return self.held_out
        return _HELD if self.labels is None else _HELD_LABELLED

    @property
    def marked(self) -> str:
        return self.labels or ""

    @property
    def noted(self) -> dict[str, Any]:
        """The options as plain data, for the file's manifest."""
        return {one.name: plain(getattr(self, one.name)) for one in fields(Judged)}

    def restored(self, noted: Mapping[str, Any], given: Collection[str]) -> Self:
        """With what a manifest notes, where nothing else was given.

        Args:
            noted: From `noted`.
            given: Names of what was given.
        """
        known = {one.name for one in fields(Judged)} & noted.keys() - set(given)
        return replace(self, **{name: _read(name, noted[name]) for name in known})


_READ: Mapping[str, Callable[[Any], Any]] = {
    "weights": Path,
    "plan": Path,
    "shape": Shape,
    "target": TargetChoice,
    "patterns": PatternChoice,
    "attention": AttentionChoice,
    "recipe": RecipeChoice,
    "observer": ObserverChoice,
    "mean": Numbers,
    "std": Numbers,
}
"""How plain data become the value of an option again."""


def plain(value: Any) -> Any:
    """The value of an option as plain data."""
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, tuple):
        return list(value)
    return str(value) if isinstance(value, Path) else value


def _read(name: str, value: Any) -> Any:
    return value if value is None or name not in _READ else _READ[name](value)
