"""Convolutions with what a compiler runs in the same kernel: (N, C_in, H, W) to (N, C_out, H', W').

There may be one spatial size, or three. A residual has the shape of the result. The batch norm is
optional and stays live in training.
"""

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from embedl_deploy.modules.base import RESIDUAL, FusedModule
from embedl_deploy.modules.kernel import Kernel, ResidualKernel
from embedl_deploy.modules.parts import ConvPart, ConvTransposePart

Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d
TransposedConvolution = nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d
BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d


class LayerScale(nn.Module):
    """A factor for each channel, or one for all (Touvron et al., 2021).

    Args:
        weight: The factors.
        shape: What they are reshaped to, where they are; then they spread over the input.
    """

    def __init__(self, weight: nn.Parameter, shape: Sequence[int] | None = None) -> None:
        super().__init__()
        self.weight = weight
        self.shape = shape

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name for it
        """Multiply; any shape, unchanged."""
        return input * (self.weight if self.shape is None else self.weight.reshape(self.shape))

    def extra_repr(self) -> str:
        return f"factors={self.weight.numel()}"


class ConvKernel(Kernel):
    """What all fused convolutions share."""

    conv: Convolution
    batch_norm: BatchNorm | None
    layer = "conv"
    parts = (ConvPart("conv"),)


class FusedConvBN(ConvKernel):
    """Convolution and optional batch norm."""

    steps: ClassVar[tuple[str, ...]] = ("batch_norm",)


class FusedConvBNReLU(ConvKernel):
    """Convolution, optional batch norm and an activation."""

    steps: ClassVar[tuple[str, ...]] = ("batch_norm", "activation")


class FusedConvBNReLUMaxPool(FusedConvBNReLU):
    """Convolution, optional batch norm, activation and max pooling: the stem of a network."""

    pooling = "pool"


class FusedConvBNAdd(ResidualKernel, ConvKernel):
    """Convolution, optional batch norm, optional layer scale and the addition of a residual.

    `noise` and `depth` drop values or the whole branch in training, before and after the layer
    scale.
    """

    steps: ClassVar[tuple[str, ...]] = ("batch_norm", "noise", "scale", "depth", RESIDUAL)


class FusedConvBNAddReLU(FusedConvBNAdd):
    """Convolution, optional batch norm, the addition of a residual and an activation."""

    steps: ClassVar[tuple[str, ...]] = (*FusedConvBNAdd.steps, "activation")


class FusedConvBNReLUAdd(ResidualKernel, FusedConvBNReLU):
    """Convolution, optional batch norm, an activation and the addition of a residual."""

    steps: ClassVar[tuple[str, ...]] = ("batch_norm", "activation", "noise", RESIDUAL)


_TRANSPOSED = ConvTransposePart("conv")


class FusedConvTransposeBN(Kernel):
    """Transposed convolution and optional batch norm.

    With several groups no weight is quantized; see `ConvTransposePart`.
    """

    conv: TransposedConvolution
    batch_norm: BatchNorm | None
    layer = "conv"
    parts = (_TRANSPOSED,)
    steps: ClassVar[tuple[str, ...]] = ("batch_norm",)

    def product(self, input: Tensor, output_size: Sequence[int] | None = None) -> Tensor:  # noqa: A002 - torch's name for it
        """The transposed convolution alone, with its weight rounded where it is quantized."""
        if not self.weight_quantizers:
            output: Tensor = self.conv(input, output_size)
            return output
        return _TRANSPOSED.compute(self, input, output_size)

    def forward(self, input: Tensor, output_size: Sequence[int] | None = None) -> Tensor:  # noqa: A002 - torch's name for it
        """Apply; see `nn.ConvTranspose2d` for `output_size`."""
        return self.finish(self.product(input, output_size))


class FusedConvTransposeBNReLU(FusedConvTransposeBN):
    """Transposed convolution, optional batch norm and an activation."""

    steps: ClassVar[tuple[str, ...]] = ("batch_norm", "activation")


def with_norm(layer: object, norm: nn.Module | None) -> FusedModule | None:
    """A convolution and the batch norm after it as one kernel; `None` for another layer."""
    if isinstance(layer, Convolution):
        return FusedConvBN(layer, norm)
    return FusedConvTransposeBN(layer, norm) if isinstance(layer, TransposedConvolution) else None
