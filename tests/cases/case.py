"""What a case of a pattern is."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from embedl_deploy.patterns import Pattern, QDQPoint

Inputs = Callable[[], tuple[Any, ...]]


@dataclass(frozen=True)
class Near:
    """A model that a pattern does not match.

    Attributes:
        model: Makes it.
        inputs: Example inputs; those of the case by default.
        reason: What the refusal says; `None` where the tree does not even fit.
        example: Whether the transformation sees the inputs.
    """

    model: Callable[[], nn.Module]
    reason: str | None = None
    inputs: Inputs | None = None
    example: bool = True


@dataclass(frozen=True)
class Case:
    """A model that a pattern matches, and others that it does not.

    Attributes:
        pattern: The pattern.
        model: Makes the model.
        inputs: Makes example inputs.
        points: The Q/DQ points of the pattern, as the contract has them.
        builds: Name of the fused module; of a conversion, `None`.
        count: How many matches.
        becomes: How often module classes stand in the graph afterwards.
        first: Patterns that run before, which make what this one matches.
        random: Whether training draws random numbers, so that only eval mode compares.
        example: Whether the transformation sees the inputs.
        near: Models that the pattern does not match.
        traced: Whether only symbolic tracing shows what the pattern matches.
    """

    pattern: type[Pattern]
    model: Callable[[], nn.Module]
    inputs: Inputs
    points: tuple[QDQPoint, ...] = ()
    builds: str | None = None
    count: int = 1
    becomes: Mapping[str, int] = field(default_factory=dict)
    first: tuple[type[Pattern], ...] = ()
    random: bool = False
    example: bool = True
    near: tuple[Near, ...] = ()
    traced: bool = False

    @property
    def patterns(self) -> tuple[type[Pattern], ...]:
        """The list to transform with."""
        return (*self.first, self.pattern)


def rand(*shapes: tuple[int, ...]) -> Inputs:
    """Inputs of these shapes."""
    return lambda: tuple(torch.randn(shape) for shape in shapes)


class DoubledConv(nn.Conv2d):
    """A subclass with another forward."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name for it
        return self._conv_forward(input, self.weight * 2, self.bias)


class DoubledLinear(nn.Linear):
    """A subclass with another forward."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name for it
        return nn.functional.linear(input, self.weight * 2, self.bias)


def hooked(module: nn.Module) -> nn.Module:
    """The module with a hook that changes what it gives."""
    module.register_forward_hook(lambda _module, _args, output: output * 2)
    return module
