"""Numbers that half precision cannot hold: too large, or so small that they become zero."""

import logging
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from embedl_deploy.export.operators import DequantizedWeight
from embedl_deploy.export.tensors import floating_tensors
from embedl_deploy.graph.writes import called
from embedl_deploy.quantize import QuantStub

_logger = logging.getLogger(__name__)

_DIVIDES = {
    "div",
    "divide",
    "log",
    "log10",
    "log2",
    "reciprocal",
    "rsqrt",
    "truediv",
    "true_divide",
}
"""Operations for which zero is not as good as a small number."""

DROPPED = 1e-8
"""The largest summand that the exporter takes for zero, where it is a number."""

_EPSILONS = {"normalize": 1e-12, "cosine_similarity": 1e-8}
"""Functions that divide, and what by default keeps them from dividing by zero."""


def within(number: Any, dtype: torch.dtype) -> Any:
    """A finite number or tensor between the largest numbers of a type; anything else as it is."""
    limit = torch.finfo(dtype).max
    if isinstance(number, Tensor) and number.is_floating_point():
        return torch.where(number.isinf(), number, number.clamp(-limit, limit))
    if type(number) is not float or math.isinf(number) or math.isnan(number):
        return number
    return max(-limit, min(limit, number))


def warn_of_limited(names: Sequence[str], dtype: torch.dtype) -> None:
    """Say which constants became another number."""
    if names:
        others = f" and {len(names) - 1} more" if len(names) > 1 else ""
        limit = torch.finfo(dtype).max
        _logger.warning(
            "a constant of '%s'%s is beyond %s and becomes ±%.5g",
            names[0],
            others,
            name_of(dtype),
            limit,
        )


def vanishing(model: fx.GraphModule, dtype: torch.dtype) -> dict[str, str]:
    """Nodes whose small constant would be zero, and what divides by it; with the reason."""
    found: dict[str, str] = {}
    for node in model.graph.nodes:
        least = next((one for one in _constants(node) if _is_lost(one, dtype)), None)
        if least is not None and (ends := _divisions(node)):
            reason = f"its constant of {least:.3g} is zero in {name_of(dtype)}"
            found |= dict.fromkeys((one.name for one in ends), reason)
    return found


def spell_out(model: fx.GraphModule, kept: Collection[str] | None) -> None:
    """Write small summands as tensors: the exporter takes a number below 1e-8 for zero.

    Args:
        model: In the types of the file; changed in place.
        kept: Nodes that compute in float32; `None` where all do.
    """
    for node in model.graph.nodes:
        if called(node) not in {"add", "sub"} or (kept is not None and node.name not in kept):
            continue
        small = [one for one in node.args if isinstance(one, float) and 0 < abs(one) <= DROPPED]
        if not small:
            continue
        path = f"{node.name}_constant"
        model.register_buffer(path, torch.tensor(small))
        with model.graph.inserting_before(node):
            stored = model.graph.get_attr(path)
        node.args = tuple(
            stored if isinstance(one, float) and one in small else one for one in node.args
        )
    model.recompile()


def _constants(node: fx.Node) -> Iterator[float]:
    """The floating-point numbers of a call."""
    if node.op not in {"call_function", "call_method"}:
        return
    for one in (*node.args, *node.kwargs.values()):
        if isinstance(one, float):
            yield one
    if "eps" not in node.kwargs and len(node.args) < 4 and called(node) in _EPSILONS:
        yield _EPSILONS[called(node)]


def _is_lost(number: float, dtype: torch.dtype) -> bool:
    return number != 0 and float(torch.tensor(number, dtype=torch.float64).to(dtype)) == 0


def _divisions(node: fx.Node) -> list[fx.Node]:
    """A node, and what is computed from it until something divides by it; empty if nothing does."""
    if called(node) in _DIVIDES | _EPSILONS.keys():
        return [node]
    pending, paths = [(node, [node])], []
    while pending:
        last, path = pending.pop()
        for user in last.users:
            if user.op in {"call_function", "call_method"} and called(user) in _DIVIDES:
                paths += [*path, user]
            elif user.op in {"call_function", "call_method"} and len(path) < _STEPS:
                pending.append((user, [*path, user]))
    return list(dict.fromkeys(paths))


_STEPS = 5
"""How far a small number is followed."""


@dataclass(frozen=True)
class Unfit:
    """Why a module stays in float32: a text with a number in it."""

    text: str
    number: float

    def __str__(self) -> str:
        return self.text.format(f"{self.number:.3g}")


def unfit_for(module: nn.Module, dtype: torch.dtype) -> Unfit | None:
    """Why a module stays in float32, if it has to."""
    return _unfit_scale(module, dtype) if isinstance(module, QuantStub) else _large(module, dtype)


def _large(module: nn.Module, dtype: torch.dtype) -> Unfit | None:
    tensors = [getattr(owner, name) for owner, name in floating_tensors(module)]
    sizes = [
        one.detach().abs().max() for one in tensors if one.numel() and isinstance(one, nn.Parameter)
    ]
    weights = [one.values() for one in module.modules() if isinstance(one, DequantizedWeight)]
    largest = max(map(float, (*sizes, *(one.abs().max() for one in weights))), default=0.0)
    if largest <= torch.finfo(dtype).max:
        return None
    return Unfit(f"a weight of {{}} is beyond {name_of(dtype)}", largest)


def _unfit_scale(stub: QuantStub, dtype: torch.dtype) -> Unfit | None:
    limits, scale = torch.finfo(dtype), float(stub.scale)
    if scale * -stub.lowest > limits.max:
        return Unfit(f"values up to {{}} are beyond {name_of(dtype)}", scale * stub.highest)
    if scale < limits.smallest_normal:
        return Unfit(f"its scale of {{}} is below what {name_of(dtype)} holds precisely", scale)
    return None


def name_of(dtype: torch.dtype) -> str:
    """`float16` of `torch.float16`."""
    return str(dtype).removeprefix("torch.")


def warn_of(unfit: Mapping[str, Unfit]) -> None:
    """One warning for each kind of reason; every module by itself for who asks for details."""
    kinds: dict[str, list[str]] = {}
    for path, why in unfit.items():
        _logger.info("'%s' stays in float32: %s", path, why)
        kinds.setdefault(why.text, []).append(path)
    for paths in kinds.values():
        others = f" and {len(paths) - 1} more like it" if len(paths) > 1 else ""
        stay = "stay" if others else "stays"
        _logger.warning("'%s'%s %s in float32: %s", paths[0], others, stay, unfit[paths[0]])
