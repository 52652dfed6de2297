"""What a model's code writes to the model itself, and whether its next call depends on it."""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from logging import Logger
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import _disable_current_modes

from embedl_deploy.errors import CaptureError
from embedl_deploy.graph.paths import join

_CODE = (ModuleType, FunctionType, BuiltinFunctionType, MethodType, type, Logger)
_PLAIN = (str, int, float, complex, bytes)
_INNER = {"_parameters", "_buffers", "_modules"}
_OF_EVERY_MODULE = frozenset(vars(nn.Module()))
_DEPTH = 6
"""How far into containers and objects an attribute is followed."""


class State:
    """What a model holds besides the values of its tensors, as it is now."""

    def __init__(self, model: nn.Module) -> None:
        self._before = _held(model)
        self._versions = {path: _version(one) for path, one in self._before.items()}

    def changed(self) -> list[str]:
        """Paths of tensors that were written to in place."""
        return [path for path, one in self._before.items() if _version(one) != self._versions[path]]

    def written(self, model: nn.Module) -> list[str]:
        """Paths of what is another value by now, or was not there."""
        now = _held(model)
        paths = {**self._before, **now}
        return [one for one in paths if _differ(self._before.get(one), now.get(one))]


def _version(value: Any) -> int:
    """How often a tensor was written to."""
    counted = isinstance(value, Tensor) and not value.is_inference()
    return value._version if counted else 0  # noqa: SLF001 - has no public name


def _differ(before: Any, now: Any) -> bool:
    if type(before) is type(now) and isinstance(now, _PLAIN):
        return bool(before != now)
    return before is not now


def _held(model: nn.Module) -> dict[str, Any]:
    """Every value that a module or a container or object in it holds, by path."""
    found: dict[str, Any] = {}
    seen: set[int] = set()
    for name, module in model.named_modules():
        own = {**vars(module), **module._parameters, **module._buffers, **module._modules}  # noqa: SLF001 - by their own names
        pending = [(join(name, key), one, 0) for key, one in own.items() if key not in _INNER]
        while pending:
            path, value, depth = pending.pop()
            found[path] = value
            if id(value) not in seen and depth < _DEPTH:
                seen.add(id(value))
                pending += [(f"{path}{key}", one, depth + 1) for key, one in _items(value)]
    return found


def _items(value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, (nn.Module, Tensor, fx.Proxy, *_CODE, *_PLAIN)):
        return []
    if isinstance(value, Mapping):
        return [(f"[{key!r}]", one) for key, one in value.items()]
    if isinstance(value, list | tuple):
        return [(f"[{index}]", one) for index, one in enumerate(value)]
    return [(f".{key}", one) for key, one in getattr(value, "__dict__", {}).items()]


@contextmanager
def taken_back(model: nn.Module) -> Iterator[None]:
    """While this holds, a model's modules have copies of their attributes: code writes to those.

    Tensors and modules stay the same ones. torch takes back some writes, and not where an export
    ends with an error.
    """
    modules = list(model.modules())
    own = [_attributes(module) for module in modules]
    values = (*modules, *_held(model).values())
    shared: dict[int, Any] = {id(one): one for one in values if isinstance(one, nn.Module | Tensor)}
    with _disable_current_modes():
        copies = copy.deepcopy(own, shared)
    try:
        for module, attributes in zip(modules, copies, strict=True):
            vars(module).update(attributes)
        yield
    finally:
        for module, attributes in zip(modules, own, strict=True):
            for name in _attributes(module).keys() - attributes.keys():
                del vars(module)[name]
            vars(module).update(attributes)


def _attributes(module: nn.Module) -> dict[str, Any]:
    return {name: one for name, one in vars(module).items() if name not in _OF_EVERY_MODULE}


def check_calls_are_alike(
    model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], written: list[str]
) -> None:
    """Check that what a call writes to the model changes nothing in the next one.

    Runs copies of the model: one that was called before, with other numbers, and one that was not.

    Raises:
        CaptureError: The two compute something else.
    """
    called, fresh = copy.deepcopy(model).eval(), copy.deepcopy(model).eval()
    others = pytree.tree_map_only(Tensor, _other, (args, dict(kwargs)))
    with torch.no_grad(), torch.random.fork_rng():
        called(*others[0], **others[1])
        results = [_run(one, args, kwargs) for one in (called, fresh)]
    if len(results[0]) == len(results[1]) and all(map(_same, *results)):
        return
    raise CaptureError(
        f"forward() of {type(model).__name__} writes to {_named(written)}, and a second call "
        "computes something else: make what it keeps an input and an output of the model"
    )


def no_state(model: nn.Module, written: list[str]) -> CaptureError:
    """The error where nothing shows whether the next call depends on what was written."""
    return CaptureError(
        f"forward() of {type(model).__name__} writes to {_named(written)}; give example inputs, "
        "with which capture finds out whether a second call computes the same"
    )


def _named(written: list[str]) -> str:
    others = f" and {len(written) - 1} more" if len(written) > 1 else ""
    return f"'{written[0]}'{others}"


def _other(tensor: Tensor) -> Tensor:
    """Other numbers of the same kind."""
    turned = tensor.roll(1, -1) if tensor.dim() else tensor
    return turned * 0.5 if tensor.is_floating_point() else turned


def _run(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Tensor]:
    torch.manual_seed(0)
    tree = model(*args, **kwargs)
    return [one for one in pytree.tree_leaves(tree) if isinstance(one, Tensor)]


def _same(one: Tensor, other: Tensor) -> bool:
    one, other = one.double(), other.double()
    return one.shape == other.shape and torch.allclose(
        one, other, rtol=1e-4, atol=1e-6, equal_nan=True
    )
