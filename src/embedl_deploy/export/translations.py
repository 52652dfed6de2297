"""Operators that `torch.onnx` does not translate, or translates for some of their inputs alone."""

from collections.abc import Callable
from typing import Any

import torch

from embedl_deploy.errors import ExportError

_ATEN = torch.ops.aten


def translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """What each becomes, for `torch.onnx.export`. Their arguments are those of the operator."""
    from onnxscript import opset18

    op: Any = opset18

    def copy(self: Any, src: Any, non_blocking: bool = False) -> Any:  # noqa: ARG001, FBT001, FBT002
        """`torch.onnx` leaves out that `src` is broadcast."""
        same = self.shape is not None and self.shape == src.shape
        return op.CastLike(src if same else op.Expand(src, op.Shape(self)), self)

    def kthvalue(self: Any, k: int, dim: int = -1, keepdim: bool = False) -> Any:  # noqa: FBT001, FBT002
        found = op.TopK(self, op.Constant(value_ints=[k]), axis=dim, largest=0)
        last = op.Constant(value_ints=[k - 1])
        kept = [op.Gather(one, last, axis=dim) for one in found]
        axes = op.Constant(value_ints=[dim])
        return tuple(kept if keepdim else [op.Squeeze(one, axes) for one in kept])

    def median(self: Any, dim: int, keepdim: bool = False) -> Any:  # noqa: FBT001, FBT002
        """Of an even number of values the lower one, as in PyTorch."""
        return kthvalue(self, _middle(self.shape[dim]), dim, keepdim)

    def median_of_all(self: Any) -> Any:
        flat = op.Reshape(self, op.Constant(value_ints=[-1]))
        count = 1
        for size in self.shape:
            count *= _known(size)
        return kthvalue(flat, _middle(count), 0)[0]

    def hypot(self: Any, other: Any) -> Any:
        """With the larger one factored out, so that no square overflows."""
        first, second = op.Abs(self), op.Abs(other)
        large, small = op.Max(first, second), op.Min(first, second)
        zero = op.CastLike(op.Constant(value_float=0.0), self)
        one = op.CastLike(op.Constant(value_float=1.0), self)
        share = op.Div(small, op.Where(op.Equal(large, zero), one, large))
        return op.Mul(large, op.Sqrt(op.Add(one, op.Mul(share, share))))

    return {
        _ATEN.copy.default: copy,
        _ATEN.kthvalue.default: kthvalue,
        _ATEN.median.dim: median,
        _ATEN.median.default: median_of_all,
        _ATEN.hypot.default: hypot,
    }


def _middle(count: Any) -> int:
    return (_known(count) + 1) // 2


def _known(size: Any) -> int:
    if not isinstance(size, int):
        raise ExportError(
            "the median of a dimension of any size has no ONNX operator; fix its size"
        )
    return size
