"""From a model's name to its quantized form: load, transform, calibrate."""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from embedl_deploy import Result, transform
from embedl_deploy.cli.commands.order import Material, Order
from embedl_deploy.cli.data import (
    IMAGENET,
    Batch,
    Batches,
    Normalization,
    Reading,
    Split,
    normalization_of,
    samples_of,
    split_data,
)
from embedl_deploy.cli.models import advising, example_shape, load_model, random_share
from embedl_deploy.cli.output import Steps
from embedl_deploy.cli.values import RecipeChoice
from embedl_deploy.errors import LoadError
from embedl_deploy.quantize import (
    quantize,
)
from embedl_deploy.tuning import read_plan

Inputs = tuple[tuple[Any, ...], dict[str, Any]]


@dataclass(frozen=True)
class Transformed:
    """A transformed model and its data.

    Attributes:
        result: Of the transformation.
        examples: Example inputs, by position.
        split: What calibrates it, and what is held out.
        normalization: Of images; `None` where pixels stay in 0..1, or there are none.
        random: The share of the source's parameters that are random; `None` where not known.
        source_bytes: Of the parameters and buffers of the source model.
    """

    result: Result
    examples: list[Any]
    split: Split
    normalization: Normalization | None
    random: float | None
    source_bytes: int

    @property
    def data(self) -> Batches:
        """What calibrates it."""
        return self.split.calibration


@dataclass(frozen=True)
class Prepared(Transformed):
    """A model to export and what it was made of.

    Attributes:
        model: Quantized; where a plan keeps float16, as it was transformed.
        batches: How many batches calibrated it; None where it is not quantized.
        samples: How many samples that were; likewise.
    """

    model: fx.GraphModule
    batches: int | None
    samples: int | None


def transformed(material: Material, steps: Steps, batch: int) -> Transformed:
    """Load and transform, with examples of a batch size.

    Raises:
        DeployError: A step failed.
    """
    with steps.step("Loading"):
        source = load_model(material.model, weights=material.weights)
        random = 0.0 if material.weights else random_share(material.model, source)
        split = data_of(material, source)
        args, kwargs = example_of(source, next(iter(split.calibration)), batch)
    with steps.step("Transforming"):
        target = material.target.target
        patterns = target.named(material.patterns.value)
        with advising(material.model, source):
            result = transform(source, args, kwargs, patterns=patterns, target=target, copy=False)
    return Transformed(
        result=result,
        examples=_positional(result.model, args, kwargs),
        split=split,
        normalization=_normalization(material, source) if Path(material.data).is_dir() else None,
        random=random,
        source_bytes=_bytes(source),
    )


def prepared(order: Order, steps: Steps, batch: int) -> Prepared:
    """Load, transform and quantize as the order asks, with examples of a batch size.

    Raises:
        DeployError: A step failed.
    """
    config = order.config
    made = transformed(order, steps, batch)
    if order.plan is not None:
        read_plan(order.plan).check(made.result)
    if config is None:
        return Prepared(**vars(made), model=made.result.model, batches=None, samples=None)
    recipe = order.recipe
    with steps.step("Calibrating" if recipe is RecipeChoice.FAST else "Quantizing") as progress:
        counted = _Counted(made.data)
        model = quantize(made.result, counted, config, recipe=recipe.value, progress=progress)
    return Prepared(**vars(made), model=model, batches=counted.count, samples=counted.samples)


def data_of(material: Material, source: nn.Module) -> Split:
    """The data that is asked for, in the shape and with the normalization of a model.

    Raises:
        LoadError: It cannot be loaded, or how to read it is not known.
    """
    images = Path(material.data).is_dir()
    shape = material.shape or example_shape(material.model, source)
    if shape is None and images:
        raise LoadError(
            f"which shape to scale the images of '{material.data}' to is not known for "
            f"'{material.model}'; give it: --shape 3,224,224"
        )
    if not images and (material.no_normalization or material.mean or material.std):
        raise LoadError(
            f"--mean, --std and --no-normalization are for images, and '{material.data}' is no "
            "folder of them; leave them out, and give data that are normalized"
        )
    how = Reading(
        shape=shape if material.shape or images else None,
        batch_size=material.batch_size,
        limit=material.limit,
        held=material.held,
        normalization=_normalization(material, source) if images else None,
        labels=material.marked,
        inputs=required_inputs(source),
        classes=_classes(source, shape) if images and material.held else 0,
    )
    return split_data(material.data, how)


def _classes(source: nn.Module, shape: Sequence[int] | None) -> int:
    """How many classes a classifier of images tells apart; 0 of any other model."""
    try:
        with torch.no_grad():
            output = source(torch.zeros(1, *shape or ()))
    except Exception:  # noqa: BLE001 - what does not fit is said when it is transformed
        return 0
    return output.shape[1] if isinstance(output, Tensor) and output.dim() == 2 else 0


def _normalization(material: Material, source: nn.Module) -> Normalization | None:
    if material.no_normalization:
        return None
    usual = normalization_of(source)
    known = material.model.startswith(("torchvision:", "timm:")) or usual is not IMAGENET
    if not known and (material.mean is None or material.std is None):
        numbers = [",".join(map(str, one)) for one in (IMAGENET.mean, IMAGENET.std)]
        raise LoadError(
            f"how '{material.model}' wants images normalized is not known: give --mean and --std "
            f"as in its training (ImageNet's are --mean {numbers[0]} --std {numbers[1]}), or "
            "--no-normalization"
        )
    return replace(usual, mean=material.mean or usual.mean, std=material.std or usual.std)


class _Counted(Batches):
    """Batches that are counted while they are gone through."""

    def __init__(self, batches: Batches) -> None:
        super().__init__(batches.__iter__)
        self.count = self.samples = 0

    def __iter__(self) -> Iterator[Batch]:
        self.count = self.samples = 0
        for batch in super().__iter__():
            self.count += 1
            self.samples += samples_of(batch)
            yield batch


def example_of(source: nn.Module, batch: Batch, size: int) -> Inputs:
    """The first samples of a batch as example inputs, without what is no input, such as labels."""
    cut = pytree.tree_map_only(Tensor, lambda one: one[:size] if one.dim() else one, batch)
    match cut:
        case Mapping():
            return (), dict(cut)
        case tuple():
            return cut[: required_inputs(source)], {}
    return (cut,), {}


def required_inputs(source: nn.Module) -> int:
    """How many inputs a model needs."""
    parameters = inspect.signature(source.forward).parameters.values()
    if any(one.kind is inspect.Parameter.VAR_POSITIONAL for one in parameters):
        return len(parameters)
    return sum(one.default is inspect.Parameter.empty for one in parameters)


def _positional(model: fx.GraphModule, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
    names = [str(node.target) for node in model.graph.nodes if node.op == "placeholder"]
    given = dict(zip(names, args, strict=False)) | kwargs
    return [given[name] for name in names if name in given]


def _bytes(model: nn.Module) -> int:
    return sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))
