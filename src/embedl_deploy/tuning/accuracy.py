"""How near a quantized model is to the model in floating point."""

from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from embedl_deploy.batches import inferring
from embedl_deploy.quantize.measuring.noise import Noise
from embedl_deploy.quantize.stubs import enabled_only

Evaluate = Callable[[fx.GraphModule], float]
"""Gives the accuracy of a model on a user's task, in percent; more is better."""

_CLASSES = 2
"""Dimensions of an output of class scores: samples and classes."""


@dataclass(frozen=True)
class Accuracy:
    """How near a quantized model is to the model in floating point, on held-out data.

    Attributes:
        sqnr_db: Signal to noise at the outputs.
        agreement: The share of the samples whose largest class score is of the same class; None
            where the output is no class scores.
        score: Of the user's function; None without.
    """

    sqnr_db: float
    agreement: float | None = None
    score: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data."""
        return asdict(self)


class Judge:
    """Compares models with the one in floating point.

    Args:
        source: In floating point.
        batches: Inputs by position.
        evaluate: Of the user's task.
    """

    def __init__(
        self, source: fx.GraphModule, batches: Sequence[Sequence[Any]], evaluate: Evaluate | None
    ) -> None:
        self.batches, self.evaluate = batches, evaluate
        with inferring(source):
            self.wanted = [source(*inputs) for inputs in batches]

    def accuracy(self, model: fx.GraphModule) -> Accuracy:
        """How near a model is."""
        noise, same, samples = Noise(), 0, 0
        with inferring(model):
            for inputs, wanted in zip(self.batches, self.wanted, strict=True):
                given = model(*inputs)
                noise.add(wanted, given)
                pair = [_class_scores(one) for one in (wanted, given)]
                if pair[0] is not None and pair[1] is not None:
                    same += int((pair[0].argmax(1) == pair[1].argmax(1)).sum())
                    samples += len(pair[0])
            score = None if self.evaluate is None else float(self.evaluate(model))
        return Accuracy(noise.sqnr_db, same / samples if samples else None, score)

    def alone(self, model: fx.GraphModule, quantizers: AbstractSet[nn.Module]) -> float:
        """Noise over signal at the outputs with some quantizers alone."""
        noise = Noise()
        with inferring(model), enabled_only(model, quantizers):
            for inputs, wanted in zip(self.batches, self.wanted, strict=True):
                noise.add(wanted, model(*inputs))
        return noise.noise / noise.signal if noise.signal else 0.0


def _class_scores(output: Any) -> Tensor | None:
    leaves = pytree.tree_leaves(output)
    one = leaves[0] if len(leaves) == 1 else None
    scores = isinstance(one, Tensor) and one.dim() == _CLASSES and one.shape[1] > 1
    return one if scores else None
