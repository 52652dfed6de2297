"""Numbers that a model's code reads from its own tensors: they are known, whatever the inputs."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch._C import DisableTorchFunction
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import _disable_current_modes

from embedl_deploy.graph.writes import is_write

READS = frozenset({"__bool__", "__float__", "__index__", "__int__", "item", "tolist"})
"""Methods that give the values of a tensor to Python."""

NUMBERS: Mapping[str, int] = {
    **dict.fromkeys(("arange", "linspace", "logspace"), 0),
    **dict.fromkeys(("fill", "fill_", "full", "full_like", "new_full"), 1),
}
"""Functions that read a tensor of no dimension as a number, and their first such argument."""

_UNSET = frozenset({"empty", "empty_like", "empty_permuted", "empty_strided", "new_empty"})
"""Functions that give any numbers."""

_LEAVES = "embedl_deploy"
"""The namespace of the operators that stand for modules kept whole: they compute shapes alone."""

_LARGEST = 2**20
"""How many values a tensor may have that is computed for what may be read from it."""


def known_by(compute: Callable[[], Any]) -> Any:
    """What a computation of constants gives; `None` where chance is in it."""
    chance = torch.get_rng_state()
    with DisableTorchFunction(), torch.no_grad():  # torch.export would see where grad is off
        value = compute()
    if torch.equal(torch.get_rng_state(), chance):
        return value
    torch.set_rng_state(chance)
    return None


class KnownValues(TorchFunctionMode):
    """While `torch.export` runs, computes what follows from a model's own tensors for real.

    Args:
        model: The model; what it learns while it trains is not known.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        named = (*model.named_parameters(), *model.named_buffers())
        learns = model.training
        self._own = {
            name: one.detach() for name, one in named if not (learns and one.requires_grad)
        }
        self._owned = {_memory(one) for one in self._own.values()}
        self._known: dict[int, tuple[Tensor, Tensor]] = {}

    def start(self, model: nn.Module) -> None:
        """Note what stands for the tensors of `model` in this run of its code."""
        self._known = {}
        for name, stand_in in (*model.named_parameters(), *model.named_buffers()):
            if name in self._own:
                self._known[id(stand_in)] = (stand_in, self._own[name])

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name, kwargs = getattr(func, "__name__", ""), kwargs or {}
        if name in READS and (value := self._value(args[0])) is not None:
            with _disable_current_modes():
                return func(value)
        if name in NUMBERS:
            at = NUMBERS[name]
            args = (*args[:at], *map(self._number, args[at:]))
            kwargs = {key: self._number(one) for key, one in kwargs.items()}
        result = func(*args, **kwargs)
        written = is_write(name, kwargs)
        if not written and not isinstance(result, Tensor | tuple | list):
            return result
        if not self._note(func, (args, kwargs), result, written=written) and written:
            self._forget(args[0])
        return result

    def _value(self, tensor: object) -> Tensor | None:
        """The real tensor that a tensor stands for, if it is known."""
        if type(tensor) in {Tensor, nn.Parameter}:
            with _disable_current_modes():
                return tensor.detach()  # type: ignore[attr-defined]
        return self._known.get(id(tensor), (None, None))[1]

    def _number(self, value: Any) -> Any:
        known = self._value(value) if isinstance(value, Tensor) and not value.dim() else None
        if known is None:
            return value
        with _disable_current_modes():
            return known.item()

    def _note(self, func: Any, call: Any, result: Any, *, written: bool) -> bool:
        """Compute for real what follows from known values; whether that was possible."""
        made = [one for one in pytree.tree_leaves(result) if isinstance(one, Tensor)]
        leaves = pytree.tree_leaves(call)
        given = {id(one): self._value(one) for one in leaves if isinstance(one, Tensor)}
        if (
            getattr(func, "namespace", "") == _LEAVES
            or getattr(func, "__name__", "") in _UNSET
            or None in given.values()
            or (written and self._is_own(call[0][0]))
        ):
            return False
        if any(isinstance(one, torch.SymInt) for one in leaves) or _size(made) > _LARGEST:
            return False
        args, kwargs = pytree.tree_map_only(Tensor, lambda one: given[id(one)], call)
        with _disable_current_modes():
            values = pytree.tree_leaves(known_by(lambda: func(*args, **kwargs)))
        found = [one for one in values if isinstance(one, Tensor)]
        self._known |= {id(one): (one, two) for one, two in zip(made, found, strict=False)}
        return written or bool(found)

    def _is_own(self, tensor: object) -> bool:
        """Whether a tensor has the memory of the model's own, which stays as it is."""
        value = self._value(tensor)
        return value is None or id(tensor) not in self._known or _memory(value) in self._owned

    def _forget(self, written: object) -> None:
        """Drop what shares memory with a tensor that is written to."""
        value = self._value(written)
        if value is None:
            return
        memory = _memory(value)
        self._known = {key: pair for key, pair in self._known.items() if _memory(pair[1]) != memory}


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _size(tensors: list[Tensor]) -> int:
    return sum(one.numel() for one in tensors)
