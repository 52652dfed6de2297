"""What stands for a value while a model is traced.

`torch.fx` (2.13) traces `x += y` as `x = x + y`, which is another program where `x` has a second
name. These proxies keep the write.
"""

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx

_SIZES = frozenset({"dim", "element_size", "get_device", "ndimension", "nelement", "numel", "size"})
_SIZE_ATTRIBUTES = frozenset({"dtype", "device", "itemsize", "nbytes", "ndim", "shape"})


class ValueProxy(fx.Proxy):
    """A value of the graph; an augmented assignment to a tensor is one in-place operation.

    What Python reads of a value that follows from the model's own tensors alone is known.
    """

    def item(self) -> Any:
        """See `torch.Tensor.item`."""
        known = self._known()
        return self._call("item") if known is None else known.item()

    def tolist(self) -> Any:
        """See `torch.Tensor.tolist`."""
        known = self._known()
        return self._call("tolist") if known is None else known.tolist()

    def __float__(self) -> float:
        return float(self._must_be_known("float"))

    def __int__(self) -> int:
        return int(self._must_be_known("int"))

    def __bool__(self) -> bool:
        known = self._known()
        return super().__bool__() if known is None else bool(known)

    def _known(self) -> Any:
        return self.tracer.known(self.node)  # type: ignore[attr-defined]

    def _call(self, method: str) -> Any:
        return self.tracer.create_proxy("call_method", method, (self,), {})

    def _must_be_known(self, kind: str) -> Any:
        known = self._known()
        if known is None:
            raise TypeError(f"{kind}() of '{self.node}', which depends on the input")
        return known


class TensorProxy(ValueProxy):
    """A parameter or buffer of the model: its sizes are numbers, its values are not."""

    def __init__(self, node: fx.Node, tracer: fx.Tracer, tensor: Tensor) -> None:
        super().__init__(node, tracer)
        self._tensor = tensor

    @property
    def shape(self) -> torch.Size:
        """See `torch.Tensor.shape`."""
        return self._tensor.shape

    @property
    def ndim(self) -> int:
        """See `torch.Tensor.ndim`."""
        return self._tensor.ndim

    def size(self, dim: int | None = None) -> Any:
        """See `torch.Tensor.size`."""
        return self._tensor.shape if dim is None else self._tensor.shape[dim]

    def dim(self) -> int:
        """See `torch.Tensor.dim`."""
        return self._tensor.ndim

    def numel(self) -> int:
        """See `torch.Tensor.numel`."""
        return self._tensor.numel()

    def __len__(self) -> int:
        return len(self._tensor)


def is_size(value: object) -> bool:
    """Whether a value is a number, or sizes, and no tensor: there is nothing to write to."""
    if not isinstance(value, fx.Node):
        return isinstance(value, int | float | str | tuple | list | slice)
    if value.op == "call_method":
        return value.target in _SIZES
    if value.op != "call_function":
        return False
    if value.target is getattr:
        return value.args[1] in _SIZE_ATTRIBUTES
    if getattr(value.target, "__module__", "") in {"_operator", "builtins", "math"}:
        return all(is_size(argument) for argument in value.args)
    return False


def is_rank(value: object) -> bool:
    """Whether a value follows from numbers of dimensions alone, as `x.ndim == 4` does."""
    if not isinstance(value, fx.Node):
        return isinstance(value, int | str)
    if value.op == "call_method":
        return value.target in {"dim", "ndimension"}
    if value.op != "call_function":
        return False
    if value.target is getattr:
        return value.args[1] == "ndim"
    of_python = getattr(value.target, "__module__", "") == "_operator"
    return of_python and all(is_rank(argument) for argument in value.args)


def _augmented(function: Callable[..., Any], inplace: Callable[..., Any]) -> Callable[..., Any]:
    def assign(self: ValueProxy, other: Any) -> Any:
        target = function if is_size(self.node) else inplace
        return self.tracer.create_proxy("call_function", target, (self, other), {})

    return assign


OUT_OF_PLACE: dict[Callable[..., Any], Callable[..., Any]] = {
    operator.iadd: operator.add,
    operator.iand: operator.and_,
    operator.ifloordiv: operator.floordiv,
    operator.imod: operator.mod,
    operator.imul: operator.mul,
    operator.ior: operator.or_,
    operator.ipow: operator.pow,
    operator.isub: operator.sub,
    operator.itruediv: operator.truediv,
    operator.ixor: operator.xor,
}
"""Augmented assignments, and what they compute."""

for _inplace, _function in OUT_OF_PLACE.items():
    setattr(ValueProxy, f"__{_inplace.__name__}__", _augmented(_function, _inplace))
