"""What the demo deploys: a model, what calibrates it, and what judges it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn

from examples.detector import train as detector
from examples.detector.data import shapes
from examples.detector.evaluate import mean_average_precision
from examples.digits import train as digits_training
from examples.digits.data import Digits, calibration_batches, digits
from examples.digits.models import MODELS

Predict = Callable[..., Any]
Told = Callable[[int, int, float], None]


@dataclass(frozen=True)
class Subject:
    """A model and its data.

    Attributes:
        epochs: Of its training.
        train: Gives the trained model; called with what follows the epochs, and whether to train
            anew where weights are cached.
        calibration: Batches of training data.
        test: Batches of data held out.
        score: Of whatever predicts as the model does, on the data held out; 1 is best.
    """

    epochs: int
    train: Callable[[Told, bool], nn.Module]
    calibration: tuple[Tensor, ...]
    test: tuple[Tensor, ...]
    score: Callable[[Predict], float]


def subjects() -> dict[str, Subject]:
    """The three models of the digits, and the detector."""
    data = digits()
    return {**{name: _digits(name, data) for name in MODELS}, "detector": _detector()}


def _digits(name: str, data: Digits) -> Subject:
    def train(told: Told, fresh: bool) -> nn.Module:  # noqa: FBT001 - called by position alone
        return digits_training.trained(name, fresh=fresh, progress=told)

    return Subject(
        digits_training.RECIPES[name].epochs,
        train,
        calibration_batches(data),
        data.test_images.split(90),
        partial(digits_training.accuracy, images=data.test_images, labels=data.test_labels),
    )


def _detector() -> Subject:
    recipe, test = detector.Recipe(), shapes(300, seed=2000)
    return Subject(
        recipe.epochs,
        lambda told, _fresh: detector.trained(recipe, told),
        shapes(128, seed=1000).images.split(32),
        test.images.split(50),
        lambda predict: mean_average_precision(predict, test)["mAP50"],
    )
