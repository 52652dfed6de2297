"""A model of the zoo: where it comes from, how it is built, what it is fed with."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

Inputs = tuple[tuple[Any, ...], Mapping[str, Any]]


@dataclass(frozen=True)
class Entry:
    """A model that the zoo has.

    Attributes:
        name: `source:model`, as the command line names models.
        group: What the model stands for: a family, or a kind of task.
        parameters: How many, where they are known before the model is built.
    """

    name: str
    group: str
    parameters: int = 0

    @property
    def source(self) -> str:
        """The package that the model comes from."""
        return self.name.partition(":")[0]

    @property
    def model(self) -> str:
        """The model's name in its package."""
        return self.name.partition(":")[2]


@dataclass(frozen=True)
class Built:
    """A model with random weights.

    Attributes:
        model: The model.
        draw: Random inputs for a batch of the given size.
    """

    model: nn.Module
    draw: Callable[[int], Inputs] = field(repr=False)


def images(batch: int, channels: int, *size: int) -> Tensor:
    """Noise around another colour for each image: what averages over a whole image differs too."""
    colour = torch.randn(batch, channels, *[1] * len(size))
    return colour + torch.randn(batch, channels, *size)
