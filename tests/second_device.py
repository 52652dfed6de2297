"""A second device that behaves like an accelerator, on any machine.

Tensors on `seconddevice` hold their values in ordinary memory. As on a GPU, an operation takes the
tensors of one device alone (or numbers without dimensions beside them), and what brings values
to the host is noted as a wait.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self
from unittest.mock import patch

import pytest
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

try:
    from torch.utils.backend_registration import (
        _DummyBackendModule,
        _setup_privateuseone_for_python_backend,
    )
except ImportError:
    pytest.skip("this torch has no devices that Python defines", allow_module_level=True)

aten = torch.ops.aten

_COPIES = {aten._to_copy.default, aten.copy_.default}
_INDEXED = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default}
_WAITS = {
    *("_local_scalar_dense", "is_nonzero", "equal", "nonzero", "masked_select", "bincount"),
    *("_unique2", "unique_dim", "unique_consecutive", "repeat_interleave.Tensor"),
}
"""What a GPU cannot do without the host reading a value."""


class _Module(_DummyBackendModule):
    """What `torch` asks of a kind of device; its random numbers are those of the host."""

    def device_count(self) -> int:
        return 1

    def get_rng_state(self, device: Any = 0) -> Tensor:
        return torch.get_rng_state()

    def set_rng_state(self, state: Tensor, device: Any = 0) -> None:
        torch.set_rng_state(state)

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.float16, torch.bfloat16]


_setup_privateuseone_for_python_backend("seconddevice", _Module())
SECOND = torch.device("seconddevice:0")

_called: list[list[str]] = []
_waited: list[list[str]] = []


class _OnSecond(Tensor):
    """A tensor whose values the device alone sees."""

    held: Tensor

    @staticmethod
    def __new__(cls: type[Self], values: Tensor) -> Self:
        made: Self = Tensor._make_wrapper_subclass(
            cls,
            values.size(),
            strides=values.stride(),
            storage_offset=values.storage_offset(),
            dtype=values.dtype,
            device=SECOND,
        )
        made.held = values
        return made

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"seconddevice({self.held!r})"

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return _compute(func, args, kwargs or {})


def _compute(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    _check(func, args, kwargs)
    asked = kwargs.get("device")
    here = asked is None or torch.device(asked).type == SECOND.type
    _note(func, args, leaves=not here)
    if func is aten.copy_.default and not isinstance(args[0], _OnSecond):
        return args[0].copy_(args[1].held)
    given = pytree.tree_map_only(_OnSecond, lambda one: one.held, (args, kwargs))
    if here and asked is not None:
        given[1]["device"] = torch.device("cpu")
    result = _values(func, *given)
    written = _written(func, args, kwargs)
    if written is not None:
        return written
    return pytree.tree_map_only(Tensor, _OnSecond, result) if here else result


def _values(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if func is aten.histc.default and not args[0].is_floating_point():  # a GPU counts integers
        return func(args[0].double(), *args[1:], **kwargs).to(args[0].dtype)
    result = func(*args, **kwargs)
    if func in _COPIES and result is args[0] and func is aten._to_copy.default:
        return result.clone()
    return result


def _written(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The argument that an operation writes to and gives back."""
    returns = func._schema.returns
    if len(returns) != 1 or returns[0].alias_info is None or not returns[0].alias_info.is_write:
        return None
    return kwargs["out"] if "out" in kwargs else args[0]


def _check(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    tensors = [one for one in pytree.tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
    here = [one for one in tensors if isinstance(one, _OnSecond)]
    others = [one for one in tensors if not isinstance(one, _OnSecond)]
    if func in _COPIES or not here or not others:
        return
    if func in _INDEXED and isinstance(args[0], _OnSecond):
        return
    if torch.Tag.pointwise in func.tags and not any(one.dim() for one in others):
        return
    raise RuntimeError(
        f"Expected all tensors to be on the same device, but found {here[0].device} and "
        f"{others[0].device} in {func}"
    )


def _note(func: Any, args: tuple[Any, ...], *, leaves: bool) -> None:
    for calls in _called:
        calls.append(str(func))
    packet = str(func).removeprefix("aten.")
    waits = packet in _WAITS or packet.partition(".")[0] in _WAITS
    copied = func is aten.copy_.default and not isinstance(args[0], _OnSecond)
    fetched = func is aten._to_copy.default and leaves and isinstance(args[0], _OnSecond)
    masked = func in _INDEXED and any(
        isinstance(one, _OnSecond) and one.dtype == torch.bool
        for one in pytree.tree_leaves(args[1])
    )
    if waits or copied or fetched or masked:
        for waited in _waited:
            waited.append(packet)


def _fallback(func: Any, *args: Any, **kwargs: Any) -> Any:
    return _compute(func, args, kwargs)


_library = torch.library.Library("_", "IMPL")
_library.fallback(_fallback, "PrivateUse1")


@contextmanager
def made_on_it() -> Iterator[None]:
    """`torch.tensor(…, device=SECOND)`, which torch itself cannot do for a device in Python."""
    real = torch.tensor

    def tensor(data: Any, *, device: Any = None, **options: Any) -> Tensor:
        made = real(data, **options)
        return made if device is None else made.to(device)

    with patch.object(torch, "tensor", tensor):
        yield


@contextmanager
def waits() -> Iterator[list[str]]:
    """What made the host wait for the device inside."""
    _waited.append([])
    try:
        yield _waited[-1]
    finally:
        _waited.pop()


@contextmanager
def calls() -> Iterator[list[str]]:
    """The operations that the device computed inside."""
    _called.append([])
    try:
        yield _called[-1]
    finally:
        _called.pop()
