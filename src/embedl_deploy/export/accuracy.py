"""How often a model is right, and how often the file is."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from embedl_deploy.batches import inferring
from embedl_deploy.errors import VerificationError
from embedl_deploy.export.pieces import pieces, tensors
from embedl_deploy.export.runtime import OnnxModel
from embedl_deploy.table import counted

Evaluate = Callable[[Callable[..., Any]], float | Mapping[str, float]]
"""Takes what predicts, called with the inputs of the model; gives a figure, or figures by name."""

_Z = 1.96
"""Standard deviations of an interval that holds in 95 of 100 cases."""


@dataclass
class Accuracy:
    """How many samples a model and its file put into the right class.

    Attributes:
        samples: How many there were.
        model_top1: Where the model's largest score is that of the right class.
        model_top5: Where the right class is among its five largest.
        file_top1: The same of the file.
        file_top5: The same of the file.
        classes: How many there are.
    """

    samples: int = 0
    model_top1: int = 0
    model_top5: int = 0
    file_top1: int = 0
    file_top5: int = 0
    classes: int = 0

    def add(self, labels: Tensor, model: Tensor, file: Tensor) -> None:
        """Take in a batch.

        Args:
            labels: Classes, of shape (N,).
            model: Scores, of shape (N, classes).
            file: The same of the file.

        Raises:
            VerificationError: A label is no class of the model.
        """
        self.classes = model.shape[1]
        if len(labels) != len(model) or labels.min() < 0 or labels.max() >= self.classes:
            raise VerificationError(
                f"labels are {int(labels.min())} to {int(labels.max())} for {len(labels)} samples, "
                f"and the model tells {self.classes} classes apart, from 0, for {len(model)}"
            )
        self.samples += len(labels)
        for name, scores in (("model", model), ("file", file)):
            best = scores.topk(min(5, self.classes), 1)[1] == labels[:, None]
            one, five = f"{name}_top1", f"{name}_top5"
            setattr(self, one, getattr(self, one) + int(best[:, 0].sum()))
            setattr(self, five, getattr(self, five) + int(best.any(1).sum()))

    def interval(self, hits: int) -> tuple[float, float]:
        """Between which shares the true one lies, in 95 of 100 cases (Wilson's interval)."""
        count, share = self.samples, hits / self.samples
        middle = share + _Z**2 / (2 * count)
        width = _Z * math.sqrt(share * (1 - share) / count + _Z**2 / (4 * count**2))
        whole = 1 + _Z**2 / count
        return (middle - width) / whole, (middle + width) / whole

    def __str__(self) -> str:
        one = self._said("top-1", self.model_top1, self.file_top1)
        five = self._said("top-5", self.model_top5, self.file_top5)
        low, high = self.interval(self.file_top1)
        return (
            f"{one}; {f'{five}; ' if self.classes > 5 else ''}{counted(self.samples, 'sample')}, "
            f"so the file's top-1 is {low:.1%} to {high:.1%} (95 %)"
        )

    def _said(self, name: str, model: int, file: int) -> str:
        return f"{name} {file / self.samples:.2%}, float {model / self.samples:.2%}"


@dataclass(frozen=True)
class Evaluation:
    """What a function of one's own says of a model and of its file, by name."""

    model: Mapping[str, float]
    file: Mapping[str, float]

    def __str__(self) -> str:
        pairs = ((name, self.file[name], self.model[name]) for name in self.file)
        return "; ".join(f"{name} {file:.4g}, float {model:.4g}" for name, file, model in pairs)


def evaluate_onnx(path: str | Path, model: nn.Module, evaluate: Evaluate) -> Evaluation:
    """Let a function judge a model in floating point, and a file of it in ONNX Runtime.

    Args:
        path: The file.
        model: In floating point.
        evaluate: Called twice, with a function that predicts: it takes what the model takes and
            gives what the model gives.

    Raises:
        VerificationError: The file cannot be run, or the function fails or gives no figures.
    """
    with inferring(model):
        return Evaluation(
            _figures(evaluate, model), _figures(evaluate, _Prediction(OnnxModel(path), model))
        )


class _Prediction:
    """The file as a function with the inputs and outputs of the model."""

    def __init__(self, runtime: OnnxModel, model: nn.Module) -> None:
        self._runtime, self._model = runtime, model
        self._form: pytree.TreeSpec | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        size = self._runtime.batch_size
        parts = [self._piece(*one) for one in pieces(args, kwargs, size)]
        if not parts:
            raise VerificationError(f"the file takes {size} samples at once, and fewer were given")
        joined = [torch.cat(one) if len(one) > 1 else one[0] for one in zip(*parts, strict=True)]
        if self._form is None:
            self._form = pytree.tree_flatten(self._model(*args, **kwargs))[1]
        return pytree.tree_unflatten(joined, self._form)

    def _piece(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Tensor]:
        return list(self._runtime(*tensors((args, dict(kwargs)))).values())


def _figures(evaluate: Evaluate, predict: Callable[..., Any]) -> Mapping[str, float]:
    try:
        found = evaluate(predict)
    except VerificationError:
        raise
    except Exception as error:  # it is the user's
        said = f"{type(error).__name__}: {error}"
        raise VerificationError(f"the function that evaluates failed: {said}") from error
    named = dict(found) if isinstance(found, Mapping) else {"score": found}
    try:
        return {str(name): float(value) for name, value in named.items()}
    except (TypeError, ValueError):
        kind = type(found).__name__
        raise VerificationError(
            f"the function that evaluates gave {kind}: it must give a number, or numbers by name"
        ) from None
