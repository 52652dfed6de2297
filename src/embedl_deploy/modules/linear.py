"""Linear layers with what a compiler runs in the same kernel.

Shapes: (…, in_features) to (…, out_features). The batch norm is over the features of (N, features).
"""

from typing import ClassVar

from torch import nn

from embedl_deploy.modules.base import RESIDUAL
from embedl_deploy.modules.kernel import Kernel, ResidualKernel
from embedl_deploy.modules.parts import LinearPart


class FusedLinear(Kernel):
    """A linear layer."""

    linear: nn.Linear
    layer = "linear"
    parts = (LinearPart("linear"),)


class FusedLinearReLU(FusedLinear):
    """A linear layer and an activation."""

    steps: ClassVar[tuple[str, ...]] = ("activation",)


class FusedLinearAdd(ResidualKernel, FusedLinear):
    """A linear layer and the addition of a residual."""

    steps: ClassVar[tuple[str, ...]] = (RESIDUAL,)


class FusedLinearBN(FusedLinear):
    """A linear layer and a batch norm, which stays live in training."""

    steps: ClassVar[tuple[str, ...]] = ("batch_norm",)


class FusedLinearBNReLU(FusedLinear):
    """A linear layer, a batch norm and an activation."""

    steps: ClassVar[tuple[str, ...]] = ("batch_norm", "activation")
