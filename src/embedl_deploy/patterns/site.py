"""What a pattern may ask about the place where it matched."""

from typing import Protocol


class Site(Protocol):
    """Where a match is. Names are those that the tree binds to operations."""

    def path(self, name: str) -> str:
        """The path of the operation's module in the source model."""

    def input_shape(self, name: str, index: int = 0) -> tuple[int | None, ...] | None:
        """The shape of an input of the operation: `None` for each size that is not known.

        Without example inputs only what the graph itself says is known, such as the channels
        behind a convolution.
        """

    def is_shared(self, name: str) -> bool:
        """Whether parameters of the operation are used elsewhere in the model as well."""
