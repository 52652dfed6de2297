"""How modules without parameters are made from the bound arguments of a call.

Each maker gives `None` where this use of the operation has no module form.
"""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

Maker = Callable[[SimpleNamespace], nn.Module | None]


def constant(*values: object) -> bool:
    """Whether no value is a graph node (torch.fx stores sizes as ints, tuples and lists)."""
    plain = (int, float, bool, str, type(None), torch.dtype)
    return all(
        constant(*value) if isinstance(value, (tuple, list)) else isinstance(value, plain)
        for value in values
    )


def simple(build: Callable[[SimpleNamespace], nn.Module]) -> Maker:
    """A maker for modules without parameters: declines where an option is computed."""

    def make(a: SimpleNamespace) -> nn.Module | None:
        options = {k: value for k, value in vars(a).items() if k not in {"input", "owner"}}
        if not constant(*options.values()):
            return None
        return build(SimpleNamespace(**{name: _one(value) for name, value in options.items()}))

    return make


def following(build: Callable[[SimpleNamespace], nn.Module]) -> Maker:
    """A maker for calls that follow the train or eval mode of the model."""
    make = simple(build)
    return lambda a: make(a) if a.training is a.owner.training else None


def along(kind: Callable[[int | None], nn.Module]) -> Maker:
    """A maker of softmaxes along a dimension, in the dtype of their input."""

    def make(a: SimpleNamespace) -> nn.Module | None:
        plain = a.dtype is None and (a.dim is None or type(a.dim) is int)
        return kind(a.dim) if plain else None

    return make


def plain(kind: type[nn.Module]) -> Maker:
    """A maker of modules without options."""
    return simple(lambda _: kind())


def dropout(kind: Callable[[float], nn.Module]) -> Maker:
    """A maker of dropouts."""
    return following(lambda a: kind(a.p))


def hardtanh(a: SimpleNamespace) -> nn.Module:
    """A clamp; from 0 to 6 it is `nn.ReLU6`."""
    low, high = a.min_val, a.max_val
    return nn.ReLU6() if (low, high) == (0, 6) else nn.Hardtanh(low, high)


def upsample(a: SimpleNamespace) -> nn.Module | None:
    """Resampling by a constant size or factor; with antialiasing it stays a function."""
    options = (a.size, a.scale_factor, a.mode, a.align_corners, a.recompute_scale_factor)
    if a.antialias or not constant(*options):
        return None
    corners = None if a.mode in {"nearest", "nearest-exact", "area"} else bool(a.align_corners)
    return nn.Upsample(
        _one(a.size), _one(a.scale_factor), a.mode, corners, a.recompute_scale_factor
    )


def _one(sizes: Any) -> Any:
    """Equal sizes as one: `(2, 2)` as `2`."""
    if not isinstance(sizes, tuple | list):
        return sizes
    return sizes[0] if len(set(sizes)) == 1 else tuple(sizes)
