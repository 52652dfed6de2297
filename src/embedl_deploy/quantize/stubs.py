"""The quantizers: one module for activations, one for weights."""

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn

from embedl_deploy.errors import QuantizationError
from embedl_deploy.modules import LeafModule
from embedl_deploy.quantize.config import TensorQuantConfig
from embedl_deploy.quantize.observers import Observer
from embedl_deploy.quantize.rounding import fake_quantize, in_steps, per_channel, scale_of


class _Quantizer(nn.Module):
    """What has a scale. It stays in float32 when the model is cast: half precision has no 1e-8."""

    scale: Tensor

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:  # noqa: FBT001, FBT002 - torch's signature
        kept = self.scale
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if self.scale.dtype != kept.dtype:
            self.scale = kept.to(self.scale.device)
        return self


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
        observer: Set while calibrating.
    """

    def __init__(
        self, config: TensorQuantConfig, points: tuple[str, ...] = (), shares: str = ""
    ) -> None:
        super().__init__()
        self.config = config
        self.points = points
        self.shares = shares
        self.highest = 2 ** (config.bits - 1) - 1
        self.lowest = -self.highest - 1
        self.observer: Observer | None = None
        self.calibrated = False
        self.register_buffer("scale", torch.tensor(float("nan")))

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name for it
        """Simulate quantization; any shape, unchanged.

        Raises:
            QuantizationError: The stub has no scale yet.
        """
        if self.observer is not None:
            self.observer.collect(input)
            return input
        if not self.calibrated:
            raise QuantizationError(
                f"the stub at {', '.join(self.points)} has no scale yet; calibrate the model first"
            )
        return fake_quantize(input, self.scale, self.lowest, self.highest)

    def set_range(self, largest: Tensor) -> None:
        """Set the scale so that the largest integer stands for `largest`."""
        self.scale.copy_(scale_of(largest, self.highest))
        self.calibrated = True

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self.calibrated = bool(torch.isfinite(self.scale))

    def extra_repr(self) -> str:
        scale = f"{self.scale.item():.4g}" if self.calibrated else "not calibrated"
        return f"bits={self.config.bits}, scale={scale}, at {', '.join(self.points)}"


class WeightFakeQuantize(_Quantizer):
    """The quantizer of a weight: symmetric, one scale per output channel.

    The range is symmetric, −127 to 127 for 8 bits, so that negating a channel negates its
    integers: folding a batch norm with a negative factor then changes no rounding. In training
    the scales follow the weight, since it moves.

    Args:
        config: How to quantize.
        weight: Gives the number of channels and the first scales.
        axis: The weight's dimension that holds the output channels.

    Attributes:
        scale: Shape (channels).
        enabled: Whether to quantize; off while activations are calibrated.
    """

    def __init__(self, config: TensorQuantConfig, weight: Tensor, axis: int = 0) -> None:
        super().__init__()
        self.config = config
        self.axis = axis
        self.highest = 2 ** (config.bits - 1) - 1
        self.enabled = True
        self.register_buffer("scale", torch.ones(weight.shape[axis], device=weight.device))
        self.observe(weight)

    def observe(self, weight: Tensor) -> None:
        """Set the scales from a weight."""
        channels = weight.detach().abs().movedim(self.axis, 0)
        largest = channels.flatten(1).amax(1).to(self.scale.dtype)
        self.scale.copy_(scale_of(largest, self.highest))

    def forward(self, weight: Tensor) -> Tensor:
        """Simulate quantization; the shape is unchanged."""
        if not self.enabled:
            return weight
        if self.training:
            self.observe(weight)
        return fake_quantize(weight, self.scale_for(weight), -self.highest, self.highest)

    def scale_for(self, weight: Tensor) -> Tensor:
        """The scales, shaped to broadcast against the weight."""
        return per_channel(self.scale, weight, self.axis)

    def integers(self, weight: Tensor) -> Tensor:
        """The int8 tensor that stands for a weight; its value times the scale is `forward`'s."""
        steps = in_steps(weight.detach(), self.scale_for(weight)).round()
        return steps.clamp(-self.highest, self.highest).to(torch.int8)

    def extra_repr(self) -> str:
        return f"bits={self.config.bits}, channels={self.scale.numel()}, axis={self.axis}"
