"""Convolutions with what a compiler runs in the same kernel."""

from torch import Tensor, nn

from embedl_deploy.modules.base import FusedModule


class ConvKernel(FusedModule):
    """What all fused convolutions share: the convolution and an optional batch norm.

    Args:
        conv: The convolution.
        batch_norm: The batch norm after it, if any; stays live in training.
    """

    weights = ("conv.weight",)

    def __init__(self, conv: nn.Conv2d, batch_norm: nn.BatchNorm2d | None = None) -> None:
        super().__init__()
        self.conv = conv
        self.batch_norm = batch_norm

    def convolve(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name for it
        """The convolution, with its weight rounded where it is quantized, and the batch norm."""
        if self.weight_quantizers:
            weight = self.weight("conv.weight")
            output = self.conv._conv_forward(input, weight, self.conv.bias)  # noqa: SLF001 - applies the padding mode
        else:
            output = self.conv(input)
        return output if self.batch_norm is None else self.batch_norm(output)


class FusedConvBN(ConvKernel):
    """Convolution and optional batch norm."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name for it
        """Apply. Shapes: (N, C_in, H, W) to (N, C_out, H', W')."""
        return self.convolve(input)


class FusedConvBNReLU(ConvKernel):
    """Convolution, optional batch norm and an activation."""

    def __init__(
        self, conv: nn.Conv2d, batch_norm: nn.BatchNorm2d | None, activation: nn.Module
    ) -> None:
        super().__init__(conv, batch_norm)
        self.activation = activation

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name for it
        """Apply. Shapes: (N, C_in, H, W) to (N, C_out, H', W')."""
        output: Tensor = self.activation(self.convolve(input))
        return output


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


class FusedConvBNAddReLU(ConvKernel):
    """Convolution, batch norm, the addition of a residual and an activation."""

    def __init__(self, conv: nn.Conv2d, batch_norm: nn.BatchNorm2d, activation: nn.Module) -> None:
        super().__init__(conv, batch_norm)
        self.activation = activation

    def forward(self, input: Tensor, residual: Tensor) -> Tensor:  # noqa: A002 - torch's name for it
        """Apply. Shapes: input (N, C_in, H, W), residual and result (N, C_out, H', W')."""
        output: Tensor = self.activation(self.convolve(input) + residual)
        return output
