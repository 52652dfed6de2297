"""What traces, taken for a number by torch's own functions: torch 2.8 refuses it, 2.13 takes it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, wraps
from types import BuiltinFunctionType
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.utils import _pytree as pytree

_OF_DATA = frozenset({"as_tensor", "asarray", "from_numpy", "tensor"})
"""Functions that read Python's own values: no torch takes a stand-in there."""

_OVERRIDABLE = {*dir(torch._C._VariableFunctions), *dir(torch._C._nn)} - _OF_DATA  # noqa: SLF001 - torch has no list of them
"""Names of functions that record a call where an argument says so."""


class StandInTracer(fx.Tracer):
    """`torch.fx`'s tracer, where sizes may be arguments of any function of torch."""

    def trace(self, root: nn.Module | Callable[..., Any], concrete_args: Any = None) -> fx.Graph:
        """See `torch.fx.Tracer.trace`."""
        with _taken():
            return super().trace(root, concrete_args)


@cache
def torch_takes_stand_ins() -> bool:
    """Whether torch's functions take what traces for a number."""
    try:
        fx.Tracer().trace(lambda x: torch.full((x.shape[0],), x.shape[1]))
    except TypeError:
        return False
    return True


@contextmanager
def _taken() -> Iterator[None]:
    """While this holds, functions of torch that get a stand-in become nodes; buffers may be one."""
    if torch_takes_stand_ins():
        yield
        return
    spaces = [vars(torch), vars(F)]
    own = [_functions_in(space) for space in spaces]
    assign = nn.Module.__setattr__
    try:
        for space, functions in zip(spaces, own, strict=True):
            space.update({name: _recorded(one) for name, one in functions.items()})
        nn.Module.__setattr__ = _assign  # type: ignore[assignment]
        yield
    finally:
        nn.Module.__setattr__ = assign  # type: ignore[method-assign]
        for space, functions in zip(spaces, own, strict=True):
            space.update(functions)


def _functions_in(space: dict[str, Any]) -> dict[str, Callable[..., Any]]:
    named = [(name, one) for name, one in space.items() if name in _OVERRIDABLE]
    return {name: one for name, one in named if isinstance(one, BuiltinFunctionType)}


@cache
def _recorded(function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        for one in pytree.tree_leaves((args, kwargs)):
            if isinstance(one, fx.Proxy):
                return one.tracer.create_proxy("call_function", function, args, kwargs)
        return function(*args, **kwargs)

    return call


_set = nn.Module.__setattr__


def _assign(module: nn.Module, name: str, value: Any) -> None:
    if isinstance(value, fx.Proxy) and name in module._buffers:  # noqa: SLF001 - as torch does
        module._buffers[name] = value  # type: ignore[assignment]  # noqa: SLF001
    else:
        _set(module, name, value)
