"""Convolutions and linear layers with the addition of a residual.

A convolution and an addition are one kernel where the two tensors have one shape but for the
batch; the residual is then quantized, the branch of the convolution is not. NVIDIA's tool treats
it so for any addition, with an activation behind it or without.

Where both tensors come from convolutions, one takes in the addition: the one that lies deeper
in the graph, or the first where both lie equally deep.
"""

from typing import ClassVar

from torch import Tensor, nn

from embedl_deploy.modules import FusedConvBNAdd, FusedConvBNAddReLU, FusedLinearAdd
from embedl_deploy.modules.conv import BatchNorm, Convolution
from embedl_deploy.patterns import (
    ACTIVATION,
    ADD,
    BATCH_NORM,
    CONV,
    LINEAR,
    NOISE,
    Call,
    Pattern,
    QDQPoint,
    Site,
    chain,
    fork,
    hole,
    optional,
)
from embedl_deploy.tensorrt.fusions.groups import ConvolutionPattern


def no_residual(add: Call, site: Site) -> str | None:
    """Why an addition is not that of a residual, if it is not."""
    if any(isinstance(one, Tensor) for one in add.args):
        return "what is added is a tensor of the model, not a residual"
    one, other = site.input_shape("add", 0), site.input_shape("add", 1)
    if one is None or other is None:
        return None
    same = len(one) == len(other) and all(
        None in sizes or sizes[0] == sizes[1] for sizes in zip(one[1:], other[1:], strict=True)
    )
    return None if same else f"shapes {one} and {other} are added: no kernel spreads a residual"


_BRANCH = chain(CONV, optional(BATCH_NORM), optional(NOISE))


class ConvAddReLUPattern(ConvolutionPattern):
    """The end of a residual block that has no batch norm, or not two dimensions."""

    tree = chain(fork(ADD, _BRANCH, hole("residual")), ACTIVATION)
    qdq_points: ClassVar[tuple[QDQPoint, ...]] = (QDQPoint.INPUT, QDQPoint.RESIDUAL_INPUT)

    def refuse(self, add: Call, site: Site) -> str | None:
        return no_residual(add, site)

    def build(
        self,
        conv: Convolution,
        batch_norm: BatchNorm | None,
        noise: nn.Module | None,
        activation: nn.Module,
    ) -> FusedConvBNAddReLU:
        return FusedConvBNAddReLU(conv, batch_norm, activation, noise)


class ConvBNAddPattern(ConvolutionPattern):
    """The end of a residual block without activation, as in inverted residuals."""

    tree = fork(ADD, _BRANCH, hole("residual"))
    qdq_points: ClassVar[tuple[QDQPoint, ...]] = (QDQPoint.INPUT, QDQPoint.RESIDUAL_INPUT)

    def refuse(self, add: Call, site: Site) -> str | None:
        return no_residual(add, site)

    def build(
        self, conv: Convolution, batch_norm: BatchNorm | None, noise: nn.Module | None
    ) -> FusedConvBNAdd:
        return FusedConvBNAdd(conv, batch_norm, noise)


class LinearAddPattern(Pattern):
    """Linear layer and residual.

    The residual stays in floating point: layer norms read the sum, and they are not quantized.
    So the file is the same as for a `LinearPattern` and an addition, and a dropout between the
    two, which keeps them apart here, costs nothing.
    """

    tree = fork(ADD, LINEAR, hole("residual"))
    qdq_points: ClassVar[tuple[QDQPoint, ...]] = (QDQPoint.INPUT,)

    def refuse(self, add: Call, site: Site) -> str | None:
        return no_residual(add, site)

    def build(self, linear: nn.Linear) -> FusedLinearAdd:
        return FusedLinearAdd(linear)
