"""What to quantize how."""

from collections.abc import Callable
from dataclasses import dataclass, field

from embedl_deploy.errors import QuantizationError
from embedl_deploy.quantize.observers import MinMaxObserver, Observer


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
    """

    activations: TensorQuantConfig = field(default_factory=TensorQuantConfig)
    weights: TensorQuantConfig = field(default_factory=TensorQuantConfig)
