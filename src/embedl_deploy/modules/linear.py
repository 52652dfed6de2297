"""Linear layers with what a compiler runs in the same kernel."""

import torch.nn.functional as F
from torch import Tensor, nn

from embedl_deploy.modules.base import FusedModule


class FusedLinear(FusedModule):
    """A linear layer."""

    weights = ("linear.weight",)

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.linear = linear

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name for it
        """Apply. Shapes: (…, in_features) to (…, out_features)."""
        return self.finish(self.product(input))

    def product(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name for it
        """The linear layer alone, with its weight rounded where it is quantized."""
        if not self.weight_quantizers:
            output: Tensor = self.linear(input)
            return output
        return F.linear(input, self.weight("linear.weight"), self.linear.bias)

    def finish(self, product: Tensor) -> Tensor:
        """What comes after the linear layer, row by row: here nothing."""
        return product


class FusedLinearReLU(FusedLinear):
    """A linear layer and an activation."""

    def __init__(self, linear: nn.Linear, activation: nn.Module) -> None:
        super().__init__(linear)
        self.activation = activation

    def finish(self, product: Tensor) -> Tensor:
        """The activation."""
        output: Tensor = self.activation(super().finish(product))
        return output


class FusedLinearAdd(FusedLinear):
    """A linear layer and the addition of a residual."""

    def forward(self, input: Tensor, residual: Tensor) -> Tensor:  # type: ignore[override]  # noqa: A002 - torch's name for it
        """Apply. Shapes: input (…, in_features), residual and result (…, out_features)."""
        return self.finish(self.product(input), residual)

    def finish(self, product: Tensor, residual: Tensor) -> Tensor:  # type: ignore[override]
        """The addition."""
        return product + residual


class FusedLinearBN(FusedLinear):
    """A linear layer and a batch norm over its features.

    Args:
        linear: The linear layer.
        batch_norm: The batch norm after it; stays live in training.
    """

    def __init__(self, linear: nn.Linear, batch_norm: nn.BatchNorm1d) -> None:
        super().__init__(linear)
        self.batch_norm: nn.BatchNorm1d | None = batch_norm

    def finish(self, product: Tensor) -> Tensor:
        """The batch norm."""
        return product if self.batch_norm is None else self.batch_norm(product)


class FusedLinearBNReLU(FusedLinearBN):
    """A linear layer, a batch norm over its features and an activation."""

    def __init__(
        self, linear: nn.Linear, batch_norm: nn.BatchNorm1d, activation: nn.Module
    ) -> None:
        super().__init__(linear, batch_norm)
        self.activation = activation

    def finish(self, product: Tensor) -> Tensor:
        """The batch norm and the activation."""
        output: Tensor = self.activation(super().finish(product))
        return output
