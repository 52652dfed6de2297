"""What to quantize how."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal, Self, get_args

from torch import nn

from embedl_deploy.errors import QuantizationError
from embedl_deploy.modules import QDQPoint
from embedl_deploy.quantize.observing.observers import MinMaxObserver, Observer
from embedl_deploy.quantize.rounding import FLOAT8, Grid
from embedl_deploy.quantize.skip import Selector, Skip
from embedl_deploy.quantize.stored import (
    known,
    observer_from_dict,
    observer_to_dict,
    skip_from_dict,
    skip_to_dict,
)
from embedl_deploy.target import target_of

Format = Literal["int", "float8_e4m3"]
Attention = Literal["inputs", "full", "none"]
Scale = Literal["observed", "fixed", "learned"]


@dataclass(frozen=True)
class TensorQuantConfig:
    """How one kind of tensor is quantized: symmetric, zero-point 0.

    Attributes:
        bits: Width of the numbers; TensorRT runs 8.
        observer: Makes the observer that finds the range, such as `MinMaxObserver` or
            `partial(PercentileObserver, 99.9)`.
        signed: Use signed integers everywhere, as TensorRT needs. If false, activations that are
            never negative are unsigned, with twice the resolution; weights stay signed.
        format: Integers, or FP8 numbers (E4M3).
        scale: What becomes of the scales in training. `"observed"`: an activation keeps the scale
            that calibration gave it, and a weight's follow the weight, by the observer, at every
            step. `"fixed"`: the weight's stay as they are too. `"learned"`: they are parameters,
            trained with the rest (LSQ; Esser et al., "Learned Step Size Quantization", 2020).
        block_size: How many values in a row of a weight share a scale; a whole row by default.
            TensorRT has kernels for 64 and 128, of 4 bits.
    """

    bits: int = 8
    observer: Callable[[], Observer] = MinMaxObserver
    signed: bool = True
    format: Format = "int"
    scale: Scale = "observed"
    block_size: int | None = None

    def __post_init__(self) -> None:
        if not (isinstance(self.bits, int) and 2 <= self.bits <= 8):
            raise QuantizationError(f"bits must be between 2 and 8, {self.bits!r} is not")
        _check_choice("format", self.format, Format)
        _check_choice("scale", self.scale, Scale)
        if self.format != "int" and (self.bits != 8 or not self.signed):
            raise QuantizationError(f"{self.format} has 8 bits and a sign")
        if self.block_size is not None:
            self._check_blocks(self.block_size)

    def _check_blocks(self, size: int) -> None:
        if self.bits > 4:
            raise QuantizationError(
                f"blocks are for weights of at most 4 bits, not {self.numbers}: kernels take no "
                "others; write bits=4"
            )
        if size < 2 or size % 2:
            raise QuantizationError(
                f"block_size is a positive even number, not {size}: two 4-bit numbers share a byte"
            )

    @property
    def numbers(self) -> str:
        """The kind of numbers in words."""
        more = "" if self.signed else ", unsigned where nothing is negative"
        if self.block_size is not None:
            more += f" in blocks of {self.block_size}"
        return f"bits={self.bits}{more}" if self.format == "int" else self.format

    def grid(self, *, signed: bool = True) -> Grid:
        """The numbers there are."""
        if self.format != "int":
            return FLOAT8
        if not signed:
            return Grid(0, 2**self.bits - 1)
        return Grid(-(2 ** (self.bits - 1)), 2 ** (self.bits - 1) - 1)

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data; see `QuantConfig.to_dict`."""
        plain = {one.name: getattr(self, one.name) for one in fields(self)}
        return {**plain, "observer": observer_to_dict(self.observer)}

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Self:
        """The config again; see `QuantConfig.from_dict`."""
        known(stored, [one.name for one in fields(cls)], "the config of a tensor")
        observer = observer_from_dict(stored.get("observer", {}))
        return cls(**{**stored, "observer": observer})


@dataclass(frozen=True)
class QuantConfig:
    """How a model is quantized. Where, its patterns have said.

    Attributes:
        activations: For the stubs; one scale a tensor. Without one, weights alone are quantized.
        weights: For the weights; one scale an output channel, or one a block of it.
        skip: Fused modules to leave in floating point, each as a `Skip` or as what it selects
            by: a path pattern, a class, a module, or a function of path and module.
        attention: What is quantized of attention where its pattern declares points: query, key
            and value (`"inputs"`); those, the softmax's result and the attention's own
            (`"full"`, which fused INT8 kernels need); or nothing (`"none"`).
        probabilities: For the softmax's result in attention, where it is quantized; by default as
            the activations.
        residual: Whether what a fused module adds is quantized where its pattern declares that.
    """

    activations: TensorQuantConfig | None = field(default_factory=TensorQuantConfig)
    weights: TensorQuantConfig = field(default_factory=TensorQuantConfig)
    skip: Sequence[Skip | Selector] = ()
    attention: Attention = "none"
    probabilities: TensorQuantConfig | None = None
    residual: bool = True

    def __post_init__(self) -> None:
        _check_choice("attention", self.attention, Attention)
        for name in ("activations", "weights", "probabilities"):
            _check_kind(name, getattr(self, name), none=name != "weights")
        for one in (self.activations, self.probabilities):
            if one is not None:
                self._check_blocks(one)
        if isinstance(self.skip, str):
            raise QuantizationError(f"skip is a list: write skip=[{self.skip!r}]")
        for choice in self.skip:
            if not isinstance(choice, Skip | str | nn.Module) and not callable(choice):
                raise QuantizationError(
                    f"skip has {choice!r}; choose by a path pattern, a class, a module, or a "
                    "function of path and module"
                )

    def _check_blocks(self, activations: TensorQuantConfig) -> None:
        if activations.block_size is not None:
            raise QuantizationError("activations have one scale a tensor and no blocks")
        if self.weights.block_size is not None:
            raise QuantizationError(
                "weights in blocks are multiplied in floating point; write activations=None"
            )

    def at(self, point: QDQPoint) -> TensorQuantConfig:
        """How the tensor at a point is quantized.

        Raises:
            QuantizationError: Weights alone are quantized.
        """
        if self.activations is None:
            raise QuantizationError(f"weights alone are quantized, and nothing at {point.name}")
        if point is QDQPoint.PROBABILITIES:
            return self.probabilities or self.activations
        return self.activations

    @property
    def skips(self) -> tuple[Skip, ...]:
        """What to skip, each as a `Skip`."""
        return tuple(one if isinstance(one, Skip) else Skip(one) for one in self.skip)

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data, for JSON; `from_dict` reads it.

        Raises:
            QuantizationError: It has an observer that is none of the library's, or skips by a
                function, a module, or a class that is neither PyTorch's nor the library's.
        """
        return {
            "activations": _plain(self.activations),
            "weights": self.weights.to_dict(),
            "skip": [skip_to_dict(one) for one in self.skips],
            "attention": self.attention,
            "probabilities": _plain(self.probabilities),
            "residual": self.residual,
        }

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Self:
        """The config that `to_dict` wrote. What is left out has its default.

        Raises:
            QuantizationError: There are names or values that a config does not have.
        """
        known(stored, [one.name for one in fields(cls)], "a config")
        given = dict(stored)
        given["weights"] = TensorQuantConfig.from_dict(given.get("weights", {}))
        for name, default in (("activations", {}), ("probabilities", None)):
            one = given.get(name, default)
            given[name] = None if one is None else TensorQuantConfig.from_dict(one)
        return cls(**{**given, "skip": tuple(map(skip_from_dict, given.get("skip", ())))})


def _plain(config: TensorQuantConfig | None) -> dict[str, Any] | None:
    return None if config is None else config.to_dict()


def config_of(model: nn.Module) -> QuantConfig:
    """How a model is quantized where nothing else is said: as its target asks.

    A model that `transform` did not make has no target; its config is `QuantConfig()`.
    """
    target = target_of(model)
    return QuantConfig() if target is None else target.config


def _check_kind(name: str, one: object, *, none: bool) -> None:
    if not isinstance(one, TensorQuantConfig) and not (none and one is None):
        raise QuantizationError(
            f"{name} is a {type(one).__name__}; give a TensorQuantConfig, such as "
            "TensorQuantConfig(bits=8)"
        )


def _check_choice(name: str, value: str, choices: Any) -> None:
    if value not in get_args(choices):
        raise QuantizationError(f"{name} is one of {', '.join(get_args(choices))}, not {value!r}")
