"""Kernels as data: a layer, and the steps that a compiler runs with it."""

from typing import ClassVar

from torch import Tensor, nn

from embedl_deploy.modules.base import RESIDUAL, FusedModule

OPTIONAL = ("noise", "scale", "depth")
"""Steps that are given by name: what drops values in training, a layer scale, what drops more."""


class Kernel(FusedModule):
    """A layer, or none, and its steps; see `FusedModule`.

    Args:
        *operations: The layer, then its steps in order; `None`, or nothing at the end, for one that
            is not there. An addition is no operation, and those in `OPTIONAL` are given by name.
        **optional: Steps that are there now and then.

    Attributes:
        layer: The name of the child with the weight; empty where there is none.
    """

    layer: ClassVar[str] = ""
    steps: ClassVar[tuple[str, ...]] = ()

    def __init__(self, *operations: nn.Module | None, **optional: nn.Module | None) -> None:
        super().__init__()
        every = [name for name in (self.layer, *self.steps, self.pooling) if name]
        names = [name for name in every if name not in {RESIDUAL, *OPTIONAL}]
        if len(operations) > len(names) or not optional.keys() <= {*every}:
            raise TypeError(f"{type(self).__name__} takes {', '.join(every)}")
        given = dict(zip(names, operations, strict=False)) | optional
        for name in every:
            if name != RESIDUAL:
                self.register_module(name, given.get(name))

    def product(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name for it
        """The layer alone, with its weight rounded where it is quantized."""
        if not self.layer:
            return input
        if not self.weight_quantizers:
            output: Tensor = getattr(self, self.layer)(input)
            return output
        (part,) = self.products
        return part.compute(self, input)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name for it
        """Apply the layer, the steps and the pooling."""
        output = self.finish(self.product(input))
        return getattr(self, self.pooling)(output) if self.pooling else output


class ResidualKernel(Kernel):
    """A kernel that adds a residual, of the shape of its product."""

    steps: ClassVar[tuple[str, ...]] = (RESIDUAL,)

    def forward(self, input: Tensor, residual: Tensor) -> Tensor:  # type: ignore[override]  # noqa: A002 - torch's name for it
        """Apply the layer and the steps."""
        return self.finish(self.product(input), residual)
