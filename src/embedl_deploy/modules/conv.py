"""Convolutions with what a compiler runs in the same kernel.

Spatial sizes stand as H and W; there may be one of them, or three.
"""

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from embedl_deploy.modules.base import FusedModule

Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d
TransposedConvolution = nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d
BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d


class ConvKernel(FusedModule):
    """What all fused convolutions share: the convolution and an optional batch norm.

    Args:
        conv: The convolution.
        batch_norm: The batch norm after it, if any; stays live in training.
    """

    weights = ("conv.weight",)

    def __init__(self, conv: Convolution, batch_norm: BatchNorm | None = None) -> None:
        super().__init__()
        self.conv = conv
        self.batch_norm = batch_norm

    def product(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name for it
        """The convolution alone, with its weight rounded where it is quantized."""
        if not self.weight_quantizers:
            output: Tensor = self.conv(input)
            return output
        weight = self.weight("conv.weight")
        return self.conv._conv_forward(input, weight, self.conv.bias)  # noqa: SLF001 - applies the padding mode

    def finish(self, product: Tensor) -> Tensor:
        """What comes after the convolution, position by position: here the batch norm."""
        return product if self.batch_norm is None else self.batch_norm(product)


class FusedConvBN(ConvKernel):
    """Convolution and optional batch norm."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name for it
        """Apply. Shapes: (N, C_in, H, W) to (N, C_out, H', W')."""
        return self.finish(self.product(input))


class FusedConvBNReLU(ConvKernel):
    """Convolution, optional batch norm and an activation."""

    def __init__(
        self, conv: Convolution, batch_norm: BatchNorm | None, activation: nn.Module
    ) -> None:
        super().__init__(conv, batch_norm)
        self.activation = activation

    def finish(self, product: Tensor) -> Tensor:
        """The batch norm and the activation."""
        output: Tensor = self.activation(super().finish(product))
        return output

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name for it
        """Apply. Shapes: (N, C_in, H, W) to (N, C_out, H', W')."""
        return self.finish(self.product(input))


class FusedConvBNReLUMaxPool(FusedConvBNReLU):
    """Convolution, optional batch norm, activation and max pooling: the stem of a network."""

    def __init__(
        self,
        conv: nn.Conv2d,
        batch_norm: nn.BatchNorm2d | None,
        activation: nn.Module,
        pool: nn.MaxPool2d,
    ) -> None:
        super().__init__(conv, batch_norm, activation)
        self.pool = pool

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name for it
        """Apply. Shapes: (N, 3, H, W) to (N, C_out, H', W')."""
        output: Tensor = self.pool(super().forward(input))
        return output


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


class FusedConvBNAdd(ConvKernel):
    """Convolution, optional batch norm and the addition of a residual.

    Args:
        conv: The convolution.
        batch_norm: The batch norm after it, if any.
        noise: What drops values or the whole branch in training, if anything; it does nothing
            at inference.
        scale: The branch's layer scale, if any.
        depth: What drops more of the branch behind that, if anything.
    """

    def __init__(
        self,
        conv: Convolution,
        batch_norm: BatchNorm | None = None,
        noise: nn.Module | None = None,
        scale: LayerScale | None = None,
        depth: nn.Module | None = None,
    ) -> None:
        super().__init__(conv, batch_norm)
        self.noise = noise
        self.scale = scale
        self.depth = depth

    def finish(self, product: Tensor, residual: Tensor) -> Tensor:  # type: ignore[override]
        """The batch norm, the layer scale between what drops values, and the addition."""
        branch = super().finish(product)
        for part in (self.noise, self.scale, self.depth):
            branch = branch if part is None else part(branch)
        return branch + residual

    def forward(self, input: Tensor, residual: Tensor) -> Tensor:  # noqa: A002 - torch's name for it
        """Apply. Shapes: input (N, C_in, H, W), residual and result (N, C_out, H', W')."""
        return self.finish(self.product(input), residual)


class FusedConvBNAddReLU(FusedConvBNAdd):
    """Convolution, optional batch norm, the addition of a residual and an activation."""

    def __init__(
        self,
        conv: Convolution,
        batch_norm: BatchNorm | None,
        activation: nn.Module,
        noise: nn.Module | None = None,
        scale: LayerScale | None = None,
        depth: nn.Module | None = None,
    ) -> None:
        super().__init__(conv, batch_norm, noise, scale, depth)
        self.activation = activation

    def finish(self, product: Tensor, residual: Tensor) -> Tensor:  # type: ignore[override]
        """What comes before the addition, the addition and the activation."""
        output: Tensor = self.activation(super().finish(product, residual))
        return output


class FusedConvBNReLUAdd(FusedConvBNReLU):
    """Convolution, optional batch norm, an activation and the addition of a residual.

    Args:
        conv: The convolution.
        batch_norm: The batch norm after it, if any.
        activation: The activation.
        noise: What drops values or the whole branch in training, if anything.
    """

    def __init__(
        self,
        conv: Convolution,
        batch_norm: BatchNorm | None,
        activation: nn.Module,
        noise: nn.Module | None = None,
    ) -> None:
        super().__init__(conv, batch_norm, activation)
        self.noise = noise

    def finish(self, product: Tensor, residual: Tensor) -> Tensor:  # type: ignore[override]
        """The batch norm, the activation, what drops values, and the addition."""
        branch = super().finish(product)
        return (branch if self.noise is None else self.noise(branch)) + residual

    def forward(self, input: Tensor, residual: Tensor) -> Tensor:  # type: ignore[override]  # noqa: A002 - torch's name for it
        """Apply. Shapes: input (N, C_in, H, W), residual and result (N, C_out, H', W')."""
        return self.finish(self.product(input), residual)


class FusedConvTransposeBN(FusedModule):
    """Transposed convolution and optional batch norm.

    Its weight is (C_in, C_out/groups, …). One scale for each index of the second dimension is
    one for each output channel only where there is one group; with more, no weight is quantized.

    Args:
        conv: The transposed convolution.
        batch_norm: The batch norm after it, if any; stays live in training.
    """

    weights = ("conv.weight",)
    channel_axis = 1

    def __init__(self, conv: TransposedConvolution, batch_norm: BatchNorm | None = None) -> None:
        super().__init__()
        self.conv = conv
        self.batch_norm = batch_norm

    def quantizable_weights(self) -> tuple[str, ...]:
        """The weight, where there is one group."""
        return super().quantizable_weights() if self.conv.groups == 1 else ()

    def forward(self, input: Tensor, output_size: Sequence[int] | None = None) -> Tensor:  # noqa: A002 - torch's name for it
        """Apply. Shapes: (N, C_in, H, W) to (N, C_out, H', W')."""
        return self.finish(self.product(input, output_size))

    def finish(self, product: Tensor) -> Tensor:
        """What comes after the convolution, position by position: here the batch norm."""
        return product if self.batch_norm is None else self.batch_norm(product)

    def product(self, input: Tensor, output_size: Sequence[int] | None = None) -> Tensor:  # noqa: A002 - torch's name for it
        """The transposed convolution alone, with its weight rounded where it is quantized."""
        conv = self.conv
        if not self.weight_quantizers:
            output: Tensor = conv(input, output_size)
            return output
        dimensions = len(conv.kernel_size)
        sizes: Any = (conv.stride, conv.padding, conv.kernel_size, dimensions, conv.dilation)
        padding = conv._output_padding(input, output_size, *sizes)  # type: ignore[arg-type]  # noqa: SLF001 - as the module's own forward
        options: Any = (conv.stride, conv.padding, padding, conv.groups, conv.dilation)
        function = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[dimensions - 1]
        return function(input, self.weight("conv.weight"), conv.bias, *options)


class FusedConvTransposeBNReLU(FusedConvTransposeBN):
    """Transposed convolution, optional batch norm and an activation."""

    def __init__(
        self, conv: TransposedConvolution, batch_norm: BatchNorm | None, activation: nn.Module
    ) -> None:
        super().__init__(conv, batch_norm)
        self.activation = activation

    def finish(self, product: Tensor) -> Tensor:
        """The batch norm and the activation."""
        output: Tensor = self.activation(super().finish(product))
        return output
