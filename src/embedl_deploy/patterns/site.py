"""What a pattern may ask about the place where it matched."""

from typing import Protocol

from embedl_deploy.patterns.tree import Value


class Site(Protocol):
    """Where a match is. Names are those that the tree binds to operations."""

    def path(self, name: str) -> str:
        """The path of the operation's module in the source model."""

    def input_shape(self, name: str, index: int = 0) -> tuple[int | None, ...] | None:
        """The shape of an input of the operation: `None` for each size that is not known.

        Without example inputs only what the graph itself says is known, such as the channels
        after a convolution.
        """

    def value(self, name: str) -> Value:
        """The value of an operation or a hole: its shape and dtype where known."""

    def is_constant(self, name: str) -> bool:
        """Whether a value follows from the model's own tensors, numbers and sizes alone."""

    def is_unpacked(self, name: str) -> bool:
        """Whether an operation's value is only read item by item, as in `value[0]`."""

    def is_shared(self, name: str) -> bool:
        """Whether parameters of the operation are used elsewhere in the model as well."""
