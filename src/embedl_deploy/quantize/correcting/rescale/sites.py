"""Parameters that take the factors of channels: of a layer's results, or of what it reads."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from embedl_deploy.modules import FusedModule, LinearPart
from embedl_deploy.quantize.correcting.rescale.operations import SPATIAL


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
        after: Factors after it that stay as they are, if any: one a channel, or one for all.
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
    def weighted(self) -> bool:
        """Whether a weight is multiplied with the tensor."""
        return any(part.argument in self.arguments for part in self.module.parts)

    @property
    def ranged(self) -> bool:
        """Whether the tensor that it is multiplied with has one range too: in attention."""
        return self.module.attends is not None and self.arguments[0] != "value"

    def scale(self, factors: Tensor) -> None:
        """Divide the weights of every channel in place."""
        for matrix in self.matrices:
            matrix.scale_columns(1 / factors)


def matrix_of(module: FusedModule, part: LinearPart) -> Matrix:
    """The weight of a part."""
    return Matrix(part.matrix(module, part.tensor(module).detach()))


def quantized_arguments(module: FusedModule) -> set[str]:
    """The arguments of a fused module's `forward` whose quantization its pattern declared."""
    return {name for one in module.qdq_points for name in module.quantized_arguments(one)}


def axes_of(module: Any, rank: int) -> tuple[int, ...]:
    """The dimensions of a fused module's inputs that hold the channels, counted from the last.

    None where the module does not say what it computes.

    Args:
        module: A fused module.
        rank: How many dimensions the input has.
    """
    if module.attends is not None:
        return (-3, -1) if rank > 3 else (-1,)
    if module.products:
        return (-1 - module.products[0].spatial(module),)
    first = getattr(module, module.steps[0]) if module.described and module.steps else None
    return () if first is None or type(first) not in SPATIAL else (-1 - SPATIAL[type(first)],)


def storages(one: object) -> list[int]:
    """Where a tensor, or the tensors of a module, are in memory, without repeats."""
    match one:
        case Tensor():
            tensors = [one]
        case nn.Module():
            tensors = [*one.parameters(), *one.buffers()]
        case _:
            tensors = []
    return [*dict.fromkeys(tensor.untyped_storage()._cdata for tensor in tensors)]  # noqa: SLF001 - on any device


def _doubled(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", torch.float64)
