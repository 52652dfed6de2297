"""Linear layers and what TensorRT runs in their kernel."""

from typing import ClassVar

from torch import nn

from embedl_deploy.modules import FusedLinear, FusedLinearBN, FusedLinearBNReLU, FusedLinearReLU
from embedl_deploy.patterns import (
    ACTIVATION,
    BATCH_NORM1D,
    LINEAR,
    Pattern,
    QDQPoint,
    Site,
    chain,
)
from embedl_deploy.tensorrt.fusions.groups import no_statistics


def _other_norm(linear: nn.Linear, batch_norm: nn.BatchNorm1d, site: Site) -> str | None:
    """`BatchNorm1d` is over the last dimension of two, and over the second of three."""
    if reason := no_statistics(batch_norm):
        return reason
    shape = site.input_shape("batch_norm")
    if shape is None:
        return "whether its input has two dimensions is not known; pass example inputs"
    if len(shape) == 2 and linear.out_features == batch_norm.num_features:
        return None
    return f"its input has shape {shape}, so the norm is not over the features of the linear layer"


class LinearBNReLUPattern(Pattern):
    """Linear layer, batch norm, activation."""

    tree = chain(LINEAR, BATCH_NORM1D, ACTIVATION)
    qdq_points: ClassVar[tuple[QDQPoint, ...]] = (QDQPoint.INPUT,)

    def refuse(self, linear: nn.Linear, batch_norm: nn.BatchNorm1d, site: Site) -> str | None:
        return _other_norm(linear, batch_norm, site)

    def build(
        self, linear: nn.Linear, batch_norm: nn.BatchNorm1d, activation: nn.Module
    ) -> FusedLinearBNReLU:
        return FusedLinearBNReLU(linear, batch_norm, activation)


class LinearBNPattern(Pattern):
    """Linear layer and batch norm; export folds the norm as after a convolution."""

    tree = chain(LINEAR, BATCH_NORM1D)
    qdq_points: ClassVar[tuple[QDQPoint, ...]] = (QDQPoint.INPUT,)

    def refuse(self, linear: nn.Linear, batch_norm: nn.BatchNorm1d, site: Site) -> str | None:
        return _other_norm(linear, batch_norm, site)

    def build(self, linear: nn.Linear, batch_norm: nn.BatchNorm1d) -> FusedLinearBN:
        return FusedLinearBN(linear, batch_norm)


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
