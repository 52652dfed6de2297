"""Linear layers and what TensorRT runs in their kernel."""

from typing import ClassVar

from torch import nn

from embedl_deploy.modules import FusedLinear, FusedLinearReLU
from embedl_deploy.patterns import ACTIVATION, LINEAR, Pattern, QDQPoint, chain


class LinearReLUPattern(Pattern):
    """Linear layer and activation."""

    tree = chain(LINEAR, ACTIVATION)
    qdq_points: ClassVar[tuple[QDQPoint, ...]] = (QDQPoint.INPUT,)

    def build(self, linear: nn.Linear, activation: nn.Module) -> FusedLinearReLU:
        return FusedLinearReLU(linear, activation)


class LinearPattern(Pattern):
    """A linear layer by itself."""

    tree = LINEAR
    qdq_points: ClassVar[tuple[QDQPoint, ...]] = (QDQPoint.INPUT,)

    def build(self, linear: nn.Linear) -> FusedLinear:
        return FusedLinear(linear)
