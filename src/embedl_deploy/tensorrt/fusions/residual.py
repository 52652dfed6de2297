"""Convolutions and linear layers with the addition of a residual.

A convolution and an addition are one kernel where both tensors are computed and have one shape
but for the batch. The residual is then quantized, the branch of the convolution is not. NVIDIA's
tool treats it so for any addition, with an activation after it or without. Where shapes are not
known, without example inputs, they are taken to be the same: a computed tensor that is added to
a convolution nearly always is a residual, and `check_onnx` sees the shapes of the file.

Where both tensors come from convolutions, one takes in the addition: the one that lies deeper
in the graph, or the first where both lie equally deep.
"""

from typing import ClassVar

from torch import nn

from embedl_deploy.modules import (
    FusedConvBNAdd,
    FusedConvBNAddReLU,
    FusedConvBNReLUAdd,
    FusedLinearAdd,
)
from embedl_deploy.modules.conv import BatchNorm, Convolution, LayerScale
from embedl_deploy.patterns import (
    ACTIVATION,
    ADD,
    BATCH_NORM,
    CONV,
    LINEAR,
    MUL,
    NOISE,
    RESHAPE,
    Call,
    Pattern,
    QDQPoint,
    Site,
    chain,
    either,
    factor,
    fixed,
    fork,
    hole,
    optional,
    own,
    scaled,
)
from embedl_deploy.tensorrt.fusions.groups import ConvolutionPattern, no_statistics
from embedl_deploy.tensorrt.shapes import adds_in_place


def no_residual(site: Site, branch: str = "conv") -> str | None:
    """Why an addition to a branch's layer is not that of a residual, if it is not.

    `check_onnx` and `explain_onnx` ask the same of a file (`embedl_deploy.tensorrt.rules.joins`).
    """
    if site.is_constant("residual"):
        return "what is added is a tensor of the model, or follows from some, and no residual"
    if site.is_constant(branch):
        return "the branch follows from tensors of the model alone, and is stored in a file"
    dtype = site.value("residual").dtype
    if dtype is not None and not dtype.is_floating_point:
        return f"what is added is of type {dtype}, which no stub quantizes"
    one, other = site.input_shape("add", 0), site.input_shape("add", 1)
    if adds_in_place(one, other):
        return None
    return f"shapes {one} and {other} are added: no kernel spreads a residual"


def _to_numbers(reshape: Call) -> bool:
    """Whether the sizes are numbers; one that the model computes may be any."""
    return all(isinstance(size, int) for size in reshape.args[1])


_BARE = chain(CONV, optional(BATCH_NORM), optional(NOISE))
_BRANCH = chain(
    either(
        _BARE,
        chain(CONV, optional(BATCH_NORM), optional(NOISE), scaled("times")),
        fork(MUL, _BARE, own("gamma")),
        fork(MUL, _BARE, fixed("gamma")),
        fork(MUL, _BARE, fork(RESHAPE.where(_to_numbers), own("gamma"))),
    ),
    optional(NOISE.named("depth")),
)


class ResidualPattern(ConvolutionPattern):
    """A convolution with a residual, its branch perhaps scaled: layer scale, a constant, a number.

    The product with the layer scale stays in the file: NVIDIA's tool takes a constant factor as
    part of the convolution's kernel, and folded into the weight's scales it would often make them
    too small for half precision.
    """

    def refuse(
        self,
        conv: Convolution,
        batch_norm: BatchNorm | None,
        gamma: nn.Parameter | None,
        reshape: Call | None,
        site: Site,
    ) -> str | None:
        scale = _no_layer_scale(gamma, reshape, conv)
        return no_statistics(batch_norm) or scale or no_residual(site)


def _no_layer_scale(
    gamma: nn.Parameter | None, reshape: Call | None, conv: Convolution
) -> str | None:
    """Why a factor of the branch is not one for each channel or one for all, if it is not."""
    if gamma is None:
        return None
    shape = gamma.shape if reshape is None else gamma.reshape(reshape.args[1]).shape
    channels = (conv.out_channels, *[1] * len(conv.kernel_size))
    if gamma.numel() == 1 or shape in {channels, (1, *channels)}:
        return None
    return f"the branch is multiplied by {tuple(shape)}, not by a factor for each channel"


def _layer_scale(
    conv: Convolution,
    gamma: nn.Parameter | None,
    reshape: Call | None,
    times: Call | None,
) -> LayerScale | None:
    if times is not None:
        number = conv.weight.new_tensor(factor(times))
        return LayerScale(nn.Parameter(number, requires_grad=False))
    if gamma is None:
        return None
    return LayerScale(gamma, None if reshape is None else reshape.args[1])


class ConvAddReLUPattern(ResidualPattern):
    """The end of a residual block that has no batch norm, or not two dimensions."""

    tree = chain(fork(ADD, _BRANCH, hole("residual")), ACTIVATION)
    qdq_points: ClassVar[tuple[QDQPoint, ...]] = (QDQPoint.INPUT, QDQPoint.RESIDUAL_INPUT)

    def build(
        self,
        conv: Convolution,
        batch_norm: BatchNorm | None,
        *,
        gamma: nn.Parameter | None,
        reshape: Call | None,
        times: Call | None,
        noise: nn.Module | None,
        depth: nn.Module | None,
        activation: nn.Module,
    ) -> FusedConvBNAddReLU:
        scale = _layer_scale(conv, gamma, reshape, times)
        return FusedConvBNAddReLU(
            conv, batch_norm, activation, noise=noise, scale=scale, depth=depth
        )


class ConvBNAddPattern(ResidualPattern):
    """The end of a residual block without activation, as in inverted residuals."""

    tree = fork(ADD, _BRANCH, hole("residual"))
    qdq_points: ClassVar[tuple[QDQPoint, ...]] = (QDQPoint.INPUT, QDQPoint.RESIDUAL_INPUT)

    def build(
        self,
        conv: Convolution,
        batch_norm: BatchNorm | None,
        *,
        gamma: nn.Parameter | None,
        reshape: Call | None,
        times: Call | None,
        noise: nn.Module | None,
        depth: nn.Module | None,
    ) -> FusedConvBNAdd:
        return FusedConvBNAdd(
            conv,
            batch_norm,
            noise=noise,
            scale=_layer_scale(conv, gamma, reshape, times),
            depth=depth,
        )


class ConvBNReLUAddPattern(ConvolutionPattern):
    """A residual block that ends in the activation of its branch, as in YOLO's and CSPNet's.

    NVIDIA's tool counts such a branch as a convolution's (Model-Optimizer #425 and #450).
    """

    tree = fork(
        ADD,
        chain(CONV, optional(BATCH_NORM), ACTIVATION, optional(NOISE)),
        hole("residual"),
    )
    qdq_points: ClassVar[tuple[QDQPoint, ...]] = (QDQPoint.INPUT, QDQPoint.RESIDUAL_INPUT)

    def refuse(self, batch_norm: BatchNorm | None, site: Site) -> str | None:
        return no_statistics(batch_norm) or no_residual(site)

    def build(
        self,
        conv: Convolution,
        batch_norm: BatchNorm | None,
        activation: nn.Module,
        noise: nn.Module | None,
    ) -> FusedConvBNReLUAdd:
        return FusedConvBNReLUAdd(conv, batch_norm, activation, noise=noise)


class LinearAddPattern(Pattern):
    """Linear layer and residual.

    The residual stays in floating point: layer norms read the sum, and they are not quantized.
    So the file is the same as for a `LinearPattern` and an addition, and a dropout between the
    two, which keeps them apart here, costs nothing.
    """

    tree = fork(ADD, LINEAR, hole("residual"))
    qdq_points: ClassVar[tuple[QDQPoint, ...]] = (QDQPoint.INPUT,)

    def refuse(self, site: Site) -> str | None:
        return no_residual(site, "linear")

    def build(self, linear: nn.Linear) -> FusedLinearAdd:
        return FusedLinearAdd(linear)
