"""The quantizers: one module for activations, one for weights."""

import math
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Self

import torch
from torch import Tensor, nn

from embedl_deploy.errors import QuantizationError
from embedl_deploy.modules import LeafModule
from embedl_deploy.quantize.config import TensorQuantConfig
from embedl_deploy.quantize.observing.histogram import HistogramObserver
from embedl_deploy.quantize.observing.observers import Observer
from embedl_deploy.quantize.rounding import Grid, fake_quantize, in_steps, per_channel, scale_of

_PIECE = 2**8
"""Rows that are observed at a time where a histogram of each is in memory."""

_SMALLEST = torch.finfo(torch.float32).tiny


class _Quantizer(nn.Module):
    """What has a scale. It stays in float32 when the model is cast: half precision has no 1e-8.

    Attributes:
        scale: A parameter where it is learned. An optimizer may take it below zero; what counts
            is its size, which `eval()` writes.
    """

    scale: Tensor
    config: TensorQuantConfig

    @property
    def learns(self) -> bool:
        """Whether the scale is a parameter."""
        return self.config.scale == "learned"

    def _own_scale(self, scale: Tensor) -> None:
        if self.learns:
            self.scale = nn.Parameter(scale)
        else:
            self.register_buffer("scale", scale)

    @property
    def step(self) -> Tensor:
        """The scale as it is multiplied with: never below the smallest normal number."""
        return self.scale.abs().clamp(min=_SMALLEST) if self.learns else self.scale

    def fix(self) -> None:
        """Keep the scale as it is: a buffer, also where it was a parameter."""
        scale = self.step.detach()
        self.config = replace(self.config, scale="fixed")
        del self.scale
        self.register_buffer("scale", scale)

    def train(self, mode: bool = True) -> Self:  # noqa: FBT001, FBT002 - torch's signature
        if self.learns and not mode:
            self.scale.data.copy_(self.step.detach())
        return super().train(mode)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:  # noqa: FBT001 - torch's signature
        super()._save_to_state_dict(destination, prefix, keep_vars)
        metadata = getattr(destination, "_metadata", {})  # a user's own dict has none
        metadata.get(prefix[:-1], {})["numbers"] = self.config.numbers

    def _load_from_state_dict(
        self, state_dict: Any, prefix: str, local_metadata: Any, *args: Any
    ) -> None:
        # An assigned parameter would no longer be that of the stubs that share it.
        metadata = {**local_metadata, "assign_to_params_buffers": False}
        super()._load_from_state_dict(state_dict, prefix, metadata, *args)
        saved, errors = metadata.get("numbers", self.config.numbers), args[-1]
        if saved != self.config.numbers:
            errors.append(
                f"the scale of '{prefix[:-1]}' is for {saved}, not for {self.config.numbers}"
            )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:  # noqa: FBT001, FBT002 - torch's signature
        def kept(tensor: Tensor) -> Tensor:
            result = fn(tensor)
            return result if result.dtype == tensor.dtype else tensor.to(result.device)

        return super()._apply(kept, recurse)  # type: ignore[no-untyped-call]


class QuantStub(_Quantizer, LeafModule):
    """The activation quantizer of one tensor.

    Before calibration it has no scale and refuses to run. While an observer is attached it
    lets values pass and shows them to it.

    Args:
        config: How to quantize.
        points: Where the tensor is quantized, as text such as `"layer1.0.conv1 INPUT"`.
        shares: Path of the stub whose scale this one has too; empty where it has its own.

    Attributes:
        scale: Scalar; not a number before calibration.
        signed: Whether the numbers have a sign.
        enabled: Whether to quantize; without, values pass as they are.
        observer: Set while calibrating.
    """

    unsigned: Tensor

    def __init__(
        self, config: TensorQuantConfig, points: tuple[str, ...] = (), shares: str = ""
    ) -> None:
        super().__init__()
        self.config = config
        self.points = points
        self.shares = shares
        self.signed = True
        self.enabled = True
        self.observer: Observer | None = None
        self.calibrated = False
        self._own_scale(torch.tensor(float("nan")))
        if not config.signed:
            self.register_buffer("unsigned", torch.tensor(data=False))

    @property
    def grid(self) -> Grid:
        """The numbers that the scale multiplies."""
        return self.config.grid(signed=self.signed)

    @property
    def lowest(self) -> int:
        """The smallest of them."""
        return self.grid.lowest

    @property
    def highest(self) -> int:
        """The largest of them."""
        return self.grid.highest

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name for it
        """Simulate quantization; any shape, unchanged.

        Raises:
            QuantizationError: The stub has no scale yet.
        """
        if self.observer is not None:
            self.observer.collect(input)
            return input
        return self.rounded(input) if self.enabled else input

    def rounded(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name for it
        """The tensor, rounded to the numbers that a compiler computes with.

        Raises:
            QuantizationError: The stub has no scale yet.
        """
        if not self.calibrated:
            raise QuantizationError(
                f"the stub at {', '.join(self.points)} has no scale yet; calibrate the model first"
            )
        features = max(1, math.prod(input.shape[1:]))  # of a sample: the same for any batch size
        return fake_quantize(input, self.step, self.grid, sharing=features)

    @torch.no_grad()
    def set_range(self, largest: Tensor, *, signed: bool = True) -> None:
        """Set the scale to `largest` (amax) divided by the largest number, quant_max.

        Args:
            largest: A scalar.
            signed: Whether the tensor has negative values; asked where the config leaves it open.
        """
        if not self.config.signed:
            self.signed = signed
            self.unsigned.fill_(not signed)
        self.scale.copy_(scale_of(largest, self.highest))
        self.calibrated = True

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:  # noqa: FBT001 - torch's signature
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.shares and self.learns:  # a parameter of several stubs; safetensors takes no twins
            destination[f"{prefix}scale"] = self.scale.detach().clone()

    def _load_from_state_dict(self, *args: Any) -> None:
        super()._load_from_state_dict(*args)
        self.calibrated = bool(torch.isfinite(self.scale))
        self.signed = self.config.signed or not bool(self.unsigned)

    def extra_repr(self) -> str:
        scale = f"{self.scale.item():.4g}" if self.calibrated else "not calibrated"
        return f"{self.config.numbers}, scale={scale}, at {', '.join(self.points)}"


class WeightFakeQuantize(_Quantizer):
    """The quantizer of a weight: symmetric, one scale per output channel.

    The range is symmetric, −127 to 127 for 8 bits, so that negating a channel negates its
    integers: folding a batch norm with a negative factor then changes no rounding.

    Args:
        config: How to quantize.
        weight: Gives the number of channels and the first scales.
        axis: The weight's dimension that holds the output channels.

    Attributes:
        scale: Shape (channels), or (channels, blocks).
        enabled: Whether to quantize; off while activations are calibrated.
    """

    def __init__(self, config: TensorQuantConfig, weight: Tensor, axis: int = 0) -> None:
        super().__init__()
        self.config = config
        self.axis = axis
        self.grid = config.grid().symmetric
        self.enabled = True
        self._own_scale(torch.ones(_scales(weight, axis, config.block_size), device=weight.device))
        self.observe(weight)

    @property
    def highest(self) -> int:
        """The largest number that a scale multiplies."""
        return self.grid.highest

    @property
    def follows(self) -> bool:
        """Whether the scales are observed anew at every step in training."""
        return self.config.scale == "observed"

    @torch.no_grad()
    def observe(self, weight: Tensor) -> None:
        """Set the scales from a weight."""
        rows = weight.movedim(self.axis, 0).reshape(self.scale.numel(), -1)
        many = _PIECE if isinstance(self.config.observer(), HistogramObserver) else len(rows)
        largest = torch.cat([self._largest(piece) for piece in rows.split(many)])
        self.scale.copy_(scale_of(largest.to(self.scale.dtype), self.highest).view_as(self.scale))

    def _largest(self, rows: Tensor) -> Tensor:
        observer = self.config.observer()
        observer.axis = 0
        observer.collect(rows)
        largest = observer.compute(self.config.grid())
        assert largest is not None  # noqa: S101 - it has collected
        return largest

    def forward(self, weight: Tensor) -> Tensor:
        """Simulate quantization; the shape is unchanged."""
        if not self.enabled:
            return weight
        if self.training and self.follows:
            self.observe(weight)
        sharing = weight.numel() // self.scale.numel()
        return fake_quantize(weight, self.scale_for(weight), self.grid, sharing=sharing)

    def scale_for(self, weight: Tensor) -> Tensor:
        """The scales, shaped to broadcast against the weight."""
        return per_channel(self.step, weight, self.axis)

    def stored(self, weight: Tensor) -> Tensor:
        """The integers, or FP8 numbers, of a weight: `forward` gives them times the scale."""
        steps = in_steps(weight.detach(), self.scale_for(weight).detach())
        clamped = steps.clamp(self.grid.lowest, self.grid.highest)
        return self.grid.round(clamped).to(self.grid.dtype)

    def extra_repr(self) -> str:
        return f"{self.config.numbers}, channels={self.scale.numel()}, axis={self.axis}"


def _scales(weight: Tensor, axis: int, block_size: int | None) -> tuple[int, ...]:
    channels = weight.shape[axis]
    return (channels,) if block_size is None else (channels, weight.shape[1] // block_size)


def quantizers_of(model: nn.Module) -> list[QuantStub | WeightFakeQuantize]:
    """All quantizers of a model."""
    return [one for one in model.modules() if isinstance(one, QuantStub | WeightFakeQuantize)]


@contextmanager
def enabled_only(model: nn.Module, chosen: Collection[nn.Module] = ()) -> Iterator[None]:
    """Of all quantizers of a model only those chosen quantize; as before afterwards."""
    before = {one: one.enabled for one in quantizers_of(model)}
    try:
        for one in before:
            one.enabled = one in chosen
        yield
    finally:
        for one, was in before.items():
            one.enabled = was
