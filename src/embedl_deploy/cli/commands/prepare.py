"""From a model's name to its quantized form: load, transform, calibrate."""

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import typer
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from embedl_deploy import Result, transform
from embedl_deploy.cli.data import (
    Batch,
    Batches,
    Normalization,
    load_data,
    normalization_of,
)
from embedl_deploy.cli.models import example_shape, load_model
from embedl_deploy.cli.options import (
    AttentionChoice,
    AttentionOption,
    BatchSizeOption,
    DataOption,
    LimitOption,
    MeanOption,
    ModelArgument,
    NoNormalizationOption,
    ObserverChoice,
    ObserverOption,
    PatternChoice,
    PatternsOption,
    PercentileOption,
    PlanOption,
    RecipeChoice,
    RecipeOption,
    ShapeOption,
    StdOption,
    TargetChoice,
    TargetOption,
    WeightsOption,
)
from embedl_deploy.cli.output import Steps
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
    quantize,
)
from embedl_deploy.tuning import read_plan

Inputs = tuple[tuple[Any, ...], dict[str, Any]]

_ATTENTION = AttentionChoice(DEFAULT.config.attention)
_OBSERVERS: dict[ObserverChoice, type[Observer]] = {
    ObserverChoice.MINMAX: MinMaxObserver,
    ObserverChoice.AVERAGE: MovingAverageObserver,
    ObserverChoice.ENTROPY: EntropyObserver,
    ObserverChoice.MSE: MSEObserver,
}


@dataclass(frozen=True, kw_only=True)
class Material:
    """Which model is meant, and with which data; its fields are options.

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

    def __post_init__(self) -> None:
        if self.no_normalization and (self.mean is not None or self.std is not None):
            raise typer.BadParameter("--no-normalization contradicts --mean and --std")


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
        asked = (self.attention, self.observer)
        if self.plan is not None and asked != (_ATTENTION, ObserverChoice.MINMAX):
            raise typer.BadParameter("--plan excludes --attention and --observer: it has its own")

    @property
    def share(self) -> float:
        """Percentage of the values that the range holds."""
        return 99.99 if self.percentile is None else self.percentile

    @property
    def config(self) -> QuantConfig:
        """How to quantize: by the plan, or as the target asks, but for what is an option."""
        if self.plan is not None:
            return _planned(self.plan)
        observer = _OBSERVERS.get(self.observer) or partial(PercentileObserver, self.share)
        observer()  # so that a percentile out of range is said before any work
        asked = self.target.target.config
        activations = replace(asked.activations or TensorQuantConfig(), observer=observer)
        return replace(asked, activations=activations, attention=self.attention.value)


@dataclass(frozen=True)
class Transformed:
    """A transformed model and its data.

    Attributes:
        result: Of the transformation.
        examples: Example inputs, by position.
        data: As asked for.
        source_bytes: Of the parameters and buffers of the source model.
    """

    result: Result
    examples: list[Any]
    data: Batches
    source_bytes: int


@dataclass(frozen=True)
class Prepared:
    """A quantized model and what it was made of.

    Attributes:
        result: Of the transformation.
        model: Quantized.
        examples: Example inputs, by position.
        data: What it was calibrated with.
        batches: How many batches that were.
        source_bytes: Of the parameters and buffers of the source model.
    """

    result: Result
    model: fx.GraphModule
    examples: list[Any]
    data: Batches
    batches: int
    source_bytes: int


def transformed(material: Material, steps: Steps, batch: int) -> Transformed:
    """Load and transform, with examples of a batch size.

    Raises:
        DeployError: A step failed.
    """
    with steps.step("Loading"):
        source = load_model(material.model, weights=material.weights)
        data = data_of(material, source)
        args, kwargs = example_of(source, next(iter(data)), batch)
    with steps.step("Transforming"):
        target = material.target.target
        patterns = target.named(material.patterns.value)
        result = transform(source, args, kwargs, patterns=patterns, target=target, copy=False)
    return Transformed(result, _positional(result.model, args, kwargs), data, _bytes(source))


def prepared(order: Order, steps: Steps, batch: int) -> Prepared:
    """Load, transform and quantize, with examples of a batch size.

    Raises:
        DeployError: A step failed.
    """
    config = order.config
    made = transformed(order, steps, batch)
    recipe = order.recipe
    with steps.step("Calibrating" if recipe is RecipeChoice.FAST else "Quantizing") as progress:
        counted = _Counted(made.data)
        model = quantize(made.result, counted, config, recipe=recipe.value, progress=progress)
    return Prepared(made.result, model, made.examples, made.data, counted.count, made.source_bytes)


def data_of(material: Material, source: nn.Module) -> Batches:
    """The data that is asked for, in the shape and with the normalization of a model.

    Raises:
        LoadError: It cannot be loaded.
    """
    shape = material.shape or example_shape(material.model, source)
    if shape is None and Path(material.data).is_dir():
        raise LoadError(
            f"which shape to scale the images of '{material.data}' to is not known for "
            f"'{material.model}'; give it: --shape 3,224,224"
        )
    return load_data(
        material.data,
        shape=shape if material.shape or Path(material.data).is_dir() else None,
        batch_size=material.batch_size,
        limit=material.limit,
        normalization=_normalization(material, source),
    )


def _normalization(material: Material, source: nn.Module) -> Normalization | None:
    if material.no_normalization:
        return None
    usual = normalization_of(source)
    return replace(usual, mean=material.mean or usual.mean, std=material.std or usual.std)


class _Counted(Batches):
    """Batches that are counted while they are gone through."""

    def __init__(self, batches: Batches) -> None:
        super().__init__(batches.__iter__)
        self.count = 0

    def __iter__(self) -> Iterator[Batch]:
        self.count = 0
        for batch in super().__iter__():
            self.count += 1
            yield batch


def example_of(source: nn.Module, batch: Batch, size: int) -> Inputs:
    """The first samples of a batch as example inputs, without what is no input, such as labels."""
    cut = pytree.tree_map_only(Tensor, lambda one: one[:size] if one.dim() else one, batch)
    match cut:
        case Mapping():
            return (), dict(cut)
        case tuple():
            return cut[: _required_inputs(source)], {}
    return (cut,), {}


def _required_inputs(source: nn.Module) -> int:
    parameters = inspect.signature(source.forward).parameters.values()
    if any(one.kind is inspect.Parameter.VAR_POSITIONAL for one in parameters):
        return len(parameters)
    return sum(one.default is inspect.Parameter.empty for one in parameters)


def _positional(model: fx.GraphModule, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
    names = [str(node.target) for node in model.graph.nodes if node.op == "placeholder"]
    given = dict(zip(names, args, strict=False)) | kwargs
    return [given[name] for name in names if name in given]


def _planned(path: Path) -> QuantConfig:
    config = read_plan(path)
    if config is None:
        raise LoadError(
            f"the plan '{path}' keeps float16: no placement that it measured was better, so there "
            "is nothing to quantize"
        )
    return config


def _bytes(model: nn.Module) -> int:
    return sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))
