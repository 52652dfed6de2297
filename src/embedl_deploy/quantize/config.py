"""What to quantize how."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

from embedl_deploy.errors import QuantizationError
from embedl_deploy.quantize.observers import MinMaxObserver, Observer
from embedl_deploy.quantize.skip import Selector, Skip

Attention = Literal["inputs", "full", "none"]


@dataclass(frozen=True)
class TensorQuantConfig:
    """How one kind of tensor is quantized: signed integers, symmetric, zero-point 0.

    Attributes:
        bits: Width of the integers; TensorRT runs 8.
        observer: Makes the observer that finds the range, such as `MinMaxObserver` or
            `partial(PercentileObserver, 99.9)`.
    """

    bits: int = 8
    observer: Callable[[], Observer] = MinMaxObserver

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 8:
            raise QuantizationError(f"bits must be between 2 and 8, {self.bits} is not")


@dataclass(frozen=True)
class QuantConfig:
    """How a model is quantized. Where, its patterns have said.

    Attributes:
        activations: For the stubs; one scale a tensor.
        weights: For the weights; one scale an output channel.
        skip: Fused modules to leave in floating point, each as a `Skip` or as what it selects
            by: a path pattern, a class, a module, or a function of path and module.
        attention: What is quantized of attention where its pattern declares points: query, key
            and value (`"inputs"`); those, the softmax's result and the attention's own
            (`"full"`, which fused INT8 kernels need); or nothing (`"none"`).
    """

    activations: TensorQuantConfig = field(default_factory=TensorQuantConfig)
    weights: TensorQuantConfig = field(default_factory=TensorQuantConfig)
    skip: Sequence[Skip | Selector] = ()
    attention: Attention = "inputs"

    def __post_init__(self) -> None:
        if self.attention not in get_args(Attention):
            raise QuantizationError(
                f"attention is one of {', '.join(get_args(Attention))}, not {self.attention!r}"
            )
        if isinstance(self.skip, str):
            raise QuantizationError(f"skip is a list: write skip=[{self.skip!r}]")

    @property
    def skips(self) -> tuple[Skip, ...]:
        """What to skip, each as a `Skip`."""
        return tuple(one if isinstance(one, Skip) else Skip(one) for one in self.skip)
