"""What computes nothing, or hides what it computes, is taken out."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from embedl_deploy.patterns import Call, ConversionPattern, Value, op


class RemoveAssertionPattern(ConversionPattern):
    """Assertions of `torch._assert` are removed: a compiled engine checks nothing."""

    tree = op("assertion", torch._assert)  # noqa: SLF001 - has no public name

    def build(self) -> nn.Module:
        return Nothing()


def _is_same(call: Any) -> bool:
    """Whether a call gives back what it is given, in the same type."""
    if call.kwargs or not isinstance(call.args[0], Value):
        return False
    if call.target == "contiguous":
        return len(call.args) == 1
    return len(call.args) == 2 and call.args[1] is not None and call.args[1] == call.args[0].dtype


class RemoveCopyPattern(ConversionPattern):
    """`contiguous()`, and casts to the type that is there with the example inputs, are removed."""

    tree = op("copy", "Tensor.contiguous", "Tensor.to", predicate=_is_same)

    def build(self) -> nn.Module:
        return First()


def _asked_type(call: Any) -> torch.dtype | None:
    given = (*call.args, *call.kwargs.values())
    return next((one for one in given if isinstance(one, torch.dtype)), None)


def _dim(call: Any) -> Any:
    return call.kwargs.get("dim", next(iter(call.args[1:]), None))


def _is_typed(call: Any) -> bool:
    return type(_dim(call)) is int and _asked_type(call) is not None


class SoftmaxTypePattern(ConversionPattern):
    """A softmax in another type becomes a cast and a softmax."""

    tree = op("softmax", torch.softmax, F.softmax, "Tensor.softmax", predicate=_is_typed)

    def build(self, softmax: Call) -> nn.Module:
        return CastSoftmax(_dim(softmax), _asked_type(softmax))


class Nothing(nn.Module):
    """Gives nothing."""

    def forward(self, *_: Any) -> None:
        """Take anything."""


class First(nn.Module):
    """Gives its first input."""

    def forward(self, input: Tensor, *_: Any) -> Tensor:  # noqa: A002 - torch's name for it
        """Any shape, unchanged."""
        return input


class CastSoftmax(nn.Module):
    """A softmax that computes in the type `dtype`."""

    def __init__(self, dim: int, dtype: torch.dtype | None) -> None:
        super().__init__()
        self.dim = dim
        self.dtype = dtype

    def forward(self, input: Tensor, *_: Any) -> Tensor:  # noqa: A002 - torch's name for it
        """Any shape, unchanged."""
        return input.to(self.dtype).softmax(self.dim)
