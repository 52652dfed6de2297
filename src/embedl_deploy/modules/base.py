"""What all modules built by patterns have in common."""

import inspect
from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor, nn

from embedl_deploy.modules.points import QDQPoint

if TYPE_CHECKING:
    from embedl_deploy.target import Target


class LeafModule(nn.Module):
    """A module that stays one node of the graph, however often the model is traced."""


class FusedModule(LeafModule):
    """A sequence of operations that stands for one hardware kernel.

    It keeps the operations as children and computes what they compute, with no weight folded:
    it trains like the sequence, batch norm included.

    Attributes:
        weights: Paths of the weights that a weight quantizer may round.
        channel_axis: The dimension of these weights that holds the output channels.
        inner_points: Points inside its `forward`; the quantizer of one, where there is one, is
            the child named by the point's value.
        qdq_points: Where its pattern declared quantization.
        kept_float: Why its pattern declared none here, where it does elsewhere; else empty.
        target: The `Target` that it was fused for; `None` where none is known.
        weight_quantizers: One quantizer per quantized weight, by path with `_` for `.`.
    """

    weights: ClassVar[tuple[str, ...]] = ()
    channel_axis: ClassVar[int] = 0
    inner_points: ClassVar[tuple[QDQPoint, ...]] = ()

    def __init__(self) -> None:
        super().__init__()
        self.qdq_points: tuple[QDQPoint, ...] = ()
        self.kept_float = ""
        self.target: Target | None = None
        self.weight_quantizers = nn.ModuleDict()

    @classmethod
    def quantized_arguments(cls, point: QDQPoint) -> tuple[str, ...]:
        """The arguments of `forward` that `point` names; none where there is no such point."""
        names = forward_arguments(cls)
        if point is QDQPoint.INPUT:
            return names[:1]
        return (point.value,) if point.value in names else ()

    @classmethod
    def has_point(cls, point: QDQPoint) -> bool:
        """Whether a pattern may declare `point` for this kind of module."""
        inside = point is QDQPoint.OUTPUT or point in cls.inner_points
        return inside or bool(cls.quantized_arguments(point))

    def quantizable_weights(self) -> tuple[str, ...]:
        """The paths in `weights` that this instance has."""
        return tuple(path for path in self.weights if attrgetter(path)(self) is not None)

    def weight(self, path: str) -> Tensor:
        """The weight at `path`, rounded by its quantizer where it has one."""
        tensor: Tensor = attrgetter(path)(self)
        key = path.replace(".", "_")
        return self.weight_quantizers[key](tensor) if key in self.weight_quantizers else tensor

    def train(self, mode: bool = True) -> Self:  # noqa: FBT001, FBT002 - torch's signature
        """Set the mode; scales that follow a weight see it as the last step has left it."""
        if not mode:
            self._catch_up()
        return super().train(mode)

    def _save_to_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._catch_up()
        super()._save_to_state_dict(*args, **kwargs)

    @torch.no_grad()
    def _catch_up(self) -> None:
        if self.training:
            for path in self.quantizable_weights():
                self.weight(path)

    def operations(self) -> Sequence[nn.Module]:
        """The operations that were fused, in order."""
        return [child for child in self.children() if child is not self.weight_quantizers]


def forward_arguments(kind: type[nn.Module]) -> tuple[str, ...]:
    """Names of the arguments of a module class's `forward`, in order."""
    return tuple(inspect.signature(kind.forward).parameters)[1:]


def by_name(module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a call of a module, by their names."""
    return dict(zip(forward_arguments(type(module)), args, strict=False)) | {**kwargs}
