"""What all modules built by patterns have in common: the contract that later stages rely on."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor, nn

from embedl_deploy.modules.parts import LinearPart, Part
from embedl_deploy.modules.points import QDQPoint

if TYPE_CHECKING:
    from embedl_deploy.target import Target

RESIDUAL = "residual"
"""The step that adds the argument of this name."""


class LeafModule(nn.Module):
    """A module that stays one node of the graph, however often the model is traced."""


class FusedModule(LeafModule):
    """A sequence of operations that runs as one hardware kernel.

    It keeps the operations as children and computes what they compute, with no weight folded:
    it trains like the sequence, batch norm included.

    A subclass writes `forward`, and says of itself as much as it can:

    - `parts`: its weights. Without them no weight is quantized. A `Part` is enough for that;
      a `LinearPart`, a `ConvPart` or a `ConvTransposePart` is enough for bias correction and
      learned rounding too.
    - `steps`: the children that `finish` applies to the product of its only part, or to its input
      where it has no part. With them a batch norm is folded into the weight, and factors of
      channels pass through. A class that writes its own `forward` or `finish` is taken to
      compute something else than its base, and names its steps again if they still hold.

    What a later stage cannot do without such a word, it leaves as it is, and says so.

    Attributes:
        parts: Its weighted products.
        steps: Names of children, or `"residual"` for the addition of the argument of this name,
            in the order in which `finish` applies them. A child that is `None` is left out.
        pooling: The child that `forward` applies to what `finish` gives; empty where there is none.
        described: Whether `steps` says what it computes.
        inner_points: Points inside its `forward`; the quantizer of one, where there is one, is
            the child named by the point's value.
        qdq_points: Where its pattern declared quantization.
        kept_float: Why its pattern declared none here, where it does elsewhere; else empty.
        target: The `Target` that it was fused for; `None` where none is known.
        weight_quantizers: One quantizer per quantized weight.
    """

    parts: tuple[Part, ...] = ()
    steps: ClassVar[tuple[str, ...]] = ()
    pooling: ClassVar[str] = ""
    described: ClassVar[bool] = False
    inner_points: ClassVar[tuple[QDQPoint, ...]] = ()

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        own = vars(cls)
        if "steps" in own:
            cls.described = True
        elif {"forward", "finish"} & own.keys():
            cls.described = False

    def __init__(self) -> None:
        super().__init__()
        self.qdq_points: tuple[QDQPoint, ...] = ()
        self.kept_float = ""
        self.target: Target | None = None
        self.weight_quantizers = nn.ModuleDict()

    # --- the contract -------------------------------------------------------------------------

    @property
    def products(self) -> tuple[LinearPart, ...]:
        """The parts, where each says how it is multiplied; else none."""
        parts = self.parts
        known = tuple(part for part in parts if isinstance(part, LinearPart))
        return known if len(known) == len(parts) else ()

    @property
    def norm(self) -> Any:
        """The norm that `finish` applies to the product first, if it does."""
        first = self.steps[0] if self.described and self.steps and self.parts else ""
        return self.batch_norm if first == "batch_norm" else None

    @property
    def attends(self) -> nn.Module | None:
        """The attention that it is, if it is one."""
        return None

    def finish(self, product: Tensor, residual: Any = None) -> Tensor:
        """Apply the steps to a product, position by position."""
        for name in self.steps:
            if name == RESIDUAL:
                product = product + residual
                continue
            step = getattr(self, name)
            product = product if step is None else step(product)
        return product

    def unpacked(self, split: Callable[[nn.Module, Part], nn.Module]) -> "FusedModule":
        """The same with a weight for each part: itself, where no two parts share one.

        Args:
            split: Gives the quantizer of a part from the one of the shared weight.
        """
        del split
        return self

    def packed(
        self, weight: nn.Module, after: Callable[[Tensor | None], nn.Module]
    ) -> "FusedModule":
        """The same of one input by one product: itself, where no two parts share a weight.

        Args:
            weight: The quantizer of the shared weight.
            after: Gives what is applied to the product, from the bias of all parts.
        """
        del weight, after
        return self

    # --- Q/DQ points and weights --------------------------------------------------------------

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

    def weights(self) -> tuple[str, ...]:
        """The paths of its weights."""
        return tuple(dict.fromkeys(part.weight for part in self.parts))

    def quantizable_weights(self) -> tuple[str, ...]:
        """The paths of those weights that may be quantized."""
        parts = [part for part in self.parts if part.quantizable(self)]
        return tuple(dict.fromkeys(part.weight for part in parts))

    def axis(self, path: str) -> int:
        """The dimension of a weight that holds the output channels."""
        return next(part.axis for part in self.parts if part.weight == path)

    def quantizer(self, path: str) -> nn.Module | None:
        """The quantizer of a weight, where it has one."""
        key = quantizer_key(path)
        return self.weight_quantizers[key] if key in self.weight_quantizers else None  # noqa: SIM401 - it has no get

    def set_quantizer(self, path: str, quantizer: nn.Module) -> None:
        """Give a weight a quantizer."""
        self.weight_quantizers[quantizer_key(path)] = quantizer

    def unrounded(self, path: str) -> Tensor:
        """The tensor at `path`."""
        owner: Any = self
        for name in path.split("."):
            owner = getattr(owner, name)
        tensor: Tensor = owner
        return tensor

    def weight(self, path: str) -> Tensor:
        """The weight at `path`, rounded by its quantizer where it has one."""
        tensor, key = self.unrounded(path), quantizer_key(path)
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


def quantizer_key(path: str) -> str:
    """The name in `weight_quantizers` of the quantizer of the weight at `path`."""
    return path.replace(".", "_")


def forward_arguments(kind: type[nn.Module]) -> tuple[str, ...]:
    """Names of the arguments of a module class's `forward`, in order."""
    return tuple(inspect.signature(kind.forward).parameters)[1:]


def by_name(module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a call of a module, by their names."""
    return dict(zip(forward_arguments(type(module)), args, strict=False)) | {**kwargs}
