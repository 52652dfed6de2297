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
        return self.project(input)

    def project(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name for it
        """The linear layer, with its weight rounded where it is quantized."""
        if not self.weight_quantizers:
            output: Tensor = self.linear(input)
            return output
        return F.linear(input, self.weight("linear.weight"), self.linear.bias)


class FusedLinearReLU(FusedLinear):
    """A linear layer and an activation."""

    def __init__(self, linear: nn.Linear, activation: nn.Module) -> None:
        super().__init__(linear)
        self.activation = activation

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name for it
        """Apply. Shapes: (…, in_features) to (…, out_features)."""
        output: Tensor = self.activation(self.project(input))
        return output


class FusedLinearAdd(FusedLinear):
    """A linear layer and the addition of a residual."""

    def forward(self, input: Tensor, residual: Tensor) -> Tensor:  # type: ignore[override]  # noqa: A002 - torch's name for it
        """Apply. Shapes: input (…, in_features), residual and result (…, out_features)."""
        return self.project(input) + residual


class FusedLinearBN(FusedLinear):
    """A linear layer and a batch norm over its features.

    Args:
        linear: The linear layer.
        batch_norm: The batch norm after it; stays live in training.
    """

    def __init__(self, linear: nn.Linear, batch_norm: nn.BatchNorm1d) -> None:
        super().__init__(linear)
        self.batch_norm: nn.BatchNorm1d | None = batch_norm

    def project(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name for it
        """The linear layer, with its weight rounded where it is quantized, and the batch norm."""
        output = super().project(input)
        return output if self.batch_norm is None else self.batch_norm(output)


class FusedLinearBNReLU(FusedLinearBN):
    """A linear layer, a batch norm over its features and an activation."""

    def __init__(
        self, linear: nn.Linear, batch_norm: nn.BatchNorm1d, activation: nn.Module
    ) -> None:
        super().__init__(linear, batch_norm)
        self.activation = activation

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name for it
        """Apply. Shapes: (N, in_features) to (N, out_features)."""
        output: Tensor = self.activation(self.project(input))
        return output
