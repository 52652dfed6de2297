"""Weights that a layer computes whenever it runs: `weight_norm`, `spectral_norm` and their kin."""

from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn.utils import parametrize, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from embedl_deploy.graph.known import known_by

_REMOVE = {WeightNorm: remove_weight_norm, SpectralNorm: remove_spectral_norm}


def stale_weights(model: nn.Module) -> list[Tensor]:
    """Weights that were computed for the last call, and that cannot be copied."""
    found = [getattr(module, hook.name, None) for module, hook in _hooks(model)]
    for module in model.modules():
        found += getattr(module, "_flat_weights", ())  # of a recurrent layer
    return [one for one in found if isinstance(one, Tensor) and one.grad_fn is not None]


def settle_weights(model: nn.Module) -> None:
    """Give layers that infer the weights that they compute, as parameters of their own.

    Layers that train stay as they are.
    """
    for module, hook in _hooks(model):
        if not module.training:
            _REMOVE[type(hook)](module, hook.name)
    for module in list(model.modules()):
        trains = any(one.training for one in module.modules())
        if parametrize.is_parametrized(module) and not trains:
            _settle(module)


def _hooks(model: nn.Module) -> list[tuple[nn.Module, Any]]:
    """The layers with norms of `torch.nn.utils`, and the hooks that compute their weights."""
    return [
        (module, hook)
        for module in model.modules()
        for hook in module._forward_pre_hooks.values()  # noqa: SLF001 - torch has no public way to ask
        if type(hook) in _REMOVE
    ]


def _settle(module: nn.Module) -> None:
    lists: Any = module.parametrizations
    values = {name: known_by(partial(getattr, module, name)) for name in lists}
    trains = {name: _trains(lists[name]) for name in lists}
    if not all(isinstance(value, Tensor) for value in values.values()):
        return
    module.__class__ = parametrize.type_before_parametrizations(module)
    del module.parametrizations
    for name, value in values.items():
        own = value.detach().clone()
        if trains[name] is None:
            module.register_buffer(name, own)
        else:
            setattr(module, name, nn.Parameter(own, requires_grad=bool(trains[name])))


def _trains(originals: nn.Module) -> bool | None:
    """Whether something trains that a tensor is computed from; `None` where it is no parameter."""
    named = originals.named_parameters(recurse=False)
    parameters = [one for name, one in named if name.startswith("original")]
    return any(one.requires_grad for one in parameters) if parameters else None
