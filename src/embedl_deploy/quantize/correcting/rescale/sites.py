"""Parameters that take the factors of channels: of a layer's results, or of what it reads."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from embedl_deploy.modules import (
    FusedAdaptiveAvgPool2d,
    FusedConvTransposeBN,
    FusedLinear,
    FusedMHAInProjection,
    FusedModule,
    FusedScaledDotProductAttention,
)
from embedl_deploy.modules.conv import ConvKernel

Kernel = ConvKernel | FusedConvTransposeBN | FusedLinear
"""A fused module with one weight."""


@dataclass(frozen=True, eq=False)
class Matrix:
    """A weight as matrices, one a group: (groups, rows, columns, …).

    Rows are the output channels, columns the input channels. It is a view of the parameter.
    """

    tensor: Tensor

    def scale_rows(self, factors: Tensor) -> None:
        """Multiply every output channel in place."""
        self.tensor.mul_(self._broadcast(factors, (self.tensor.shape[1], 1)))

    def scale_columns(self, factors: Tensor) -> None:
        """Multiply every input channel in place."""
        self.tensor.mul_(self._broadcast(factors, (1, self.tensor.shape[2])))

    def _broadcast(self, factors: Tensor, shape: tuple[int, int]) -> Tensor:
        ends = (1,) * (self.tensor.dim() - 3)
        return factors.to(self.tensor).view(self.tensor.shape[0], *shape, *ends)

    @property
    def rows(self) -> int:
        """How many output channels it has."""
        return self.tensor.shape[0] * self.tensor.shape[1]

    @property
    def columns(self) -> int:
        """How many input channels it has."""
        return self.tensor.shape[0] * self.tensor.shape[2]

    def column_ranges(self) -> Tensor:
        """The largest share of a row's range that each column takes up.

        A row has a scale of its own, so its magnitude makes no difference.
        """
        largest = _doubled(self.tensor).abs().reshape(*self.tensor.shape[:3], -1).amax(-1)
        return (largest / largest.amax(-1, keepdim=True).clamp(min=1e-30)).amax(1).flatten()

    def row_norms(self) -> Tensor:
        """The root of the sum of squares of every row."""
        return _doubled(self.tensor).flatten(2).norm(dim=-1).flatten()


@dataclass(frozen=True, eq=False)
class Producer:
    """What gives the channels of a tensor, each in proportion to parameters of its own.

    Attributes:
        path: Of the module.
        labels: One a channel.
        matrix: The weight whose rows give them, where no norm comes after it.
        gain: The factors of a norm, otherwise.
        shift: The bias of either, if any.
        after: Factors behind it that stay as they are, if any: one a channel, or one for all.
        known: Whether `gain` times a normal distribution is what is added to `shift`.
        rectified: Whether negative values become zero.
    """

    path: str
    labels: Tensor
    matrix: Matrix | None = None
    gain: Tensor | None = None
    shift: Tensor | None = None
    after: Tensor | None = None
    known: bool = True
    rectified: bool = False

    def range(self, deviations: float) -> Tensor:
        """How large each channel is to be expected, as so many standard deviations.

        What enters a norm's factors is taken to be standard normal, what enters a weight too.
        """
        if self.gain is not None:
            width = _doubled(self.gain)
        else:
            assert self.matrix is not None  # noqa: S101 - one of the two is there
            width = self.matrix.row_norms()
        shift = torch.zeros_like(width) if self.shift is None else _doubled(self.shift)
        if self.after is not None:
            width, shift = (one * _doubled(self.after) for one in (width, shift))
        if self.rectified:
            return torch.maximum(shift + deviations * width.abs(), width.abs())
        return shift.abs() + deviations * width.abs()

    def scale(self, factors: Tensor) -> None:
        """Multiply every channel in place."""
        if self.matrix is not None:
            self.matrix.scale_rows(factors)
        for vector in (self.gain, self.shift):
            if vector is not None:
                vector.mul_(factors.to(vector))


@dataclass(frozen=True, eq=False)
class Reading:
    """A tensor at a layer that computes with it.

    Attributes:
        path: Of the module.
        module: A fused module.
        arguments: Names of the arguments of its `forward` that are the tensor.
        labels: One a channel; `None` where no channel may have a factor.
        reason: Why, then.
        matrices: The weights that read it; none where it passes what has a factor on.
    """

    path: str
    module: FusedModule
    arguments: tuple[str, ...]
    labels: Tensor | None
    reason: str = ""
    matrices: tuple[Matrix, ...] = ()

    @property
    def key(self) -> tuple[str, str]:
        """The module's path and the argument."""
        return self.path, self.arguments[0]

    @property
    def quantized(self) -> bool:
        """Whether a pattern declared that it is quantized."""
        return not quantized_arguments(self.module).isdisjoint(self.arguments)

    @property
    def ranged(self) -> bool:
        """Whether the tensor that it is multiplied with has one range too: in attention."""
        attends = isinstance(self.module, FusedScaledDotProductAttention)
        return attends and self.arguments[0] != "value"

    def scale(self, factors: Tensor) -> None:
        """Divide the weights of every channel in place."""
        for matrix in self.matrices:
            matrix.scale_columns(1 / factors)


def matrix_of(module: Kernel) -> Matrix:
    """The weight of a fused layer."""
    if isinstance(module, FusedLinear):
        return Matrix(module.linear.weight.detach()[None])
    conv = module.conv
    groups = conv.weight.detach().unflatten(0, (conv.groups, -1))
    return Matrix(groups.transpose(1, 2) if isinstance(module, FusedConvTransposeBN) else groups)


def matrices_of(module: FusedMHAInProjection) -> list[Matrix]:
    """The weights for query, key and value."""
    projection = module.projection
    separate = (projection.q_proj_weight, projection.k_proj_weight, projection.v_proj_weight)
    packed = projection.in_proj_weight
    parts = separate if packed is None else packed.chunk(3)
    return [Matrix(part.detach()[None]) for part in parts if part is not None]


def biases_of(module: FusedMHAInProjection) -> Sequence[Tensor | None]:
    """The biases for query, key and value."""
    bias = module.projection.in_proj_bias
    return (None, None, None) if bias is None else bias.detach().chunk(3)


def quantized_arguments(module: FusedModule) -> set[str]:
    """The arguments of a fused module's `forward` whose quantization its pattern declared."""
    return {name for one in module.qdq_points for name in module.quantized_arguments(one)}


def axes_of(module: nn.Module, rank: int) -> tuple[int, ...]:
    """The dimensions of a fused module's inputs that hold the channels, counted from the last.

    None where the module is of no kind that is known here.

    Args:
        module: A fused module.
        rank: How many dimensions the input has.
    """
    match module:
        case FusedScaledDotProductAttention():
            return (-3, -1) if rank > 3 else (-1,)
        case FusedLinear() | FusedMHAInProjection():
            return (-1,)
        case ConvKernel() | FusedConvTransposeBN():
            return (-1 - len(module.conv.kernel_size),)
        case FusedAdaptiveAvgPool2d():
            return (-3,)
    return ()


def storages(one: object) -> list[int]:
    """Where a tensor, or the tensors of a module, are in memory, without repeats."""
    match one:
        case Tensor():
            tensors = [one]
        case nn.Module():
            tensors = [*one.parameters(), *one.buffers()]
        case _:
            tensors = []
    return [*dict.fromkeys(tensor.untyped_storage().data_ptr() for tensor in tensors)]


def _doubled(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", torch.float64)
