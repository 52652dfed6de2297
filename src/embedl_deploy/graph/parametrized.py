"""Weights that a layer computes whenever it runs: `weight_norm`, `spectral_norm`, pruned ones."""

from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn.utils import parametrize, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from embedl_deploy.graph.known import known_by

_REMOVE = {WeightNorm: remove_weight_norm, SpectralNorm: remove_spectral_norm}


def stale_weights(model: nn.Module) -> list[Tensor]:
    """Weights that were computed for the last call, and that cannot be copied."""
    found = [getattr(module, name, None) for module, name, _ in _hooks(model)]
    for module in model.modules():
        found += getattr(module, "_flat_weights", ())  # of a recurrent layer
    return [one for one in found if isinstance(one, Tensor) and one.grad_fn is not None]


def settle_weights(model: nn.Module) -> None:
    """Give layers that infer the weights that they compute, as parameters of their own.

    Layers that train stay as they are.
    """
    for module, name, hook in _hooks(model):
        if not module.training:
            _REMOVE.get(type(hook), _unpruned)(module, name)
    for module in list(model.modules()):
        trains = any(one.training for one in module.modules())
        if parametrize.is_parametrized(module) and not trains:
            _settle(module)


def _hooks(model: nn.Module) -> list[tuple[nn.Module, str, Any]]:
    """The layers that `torch.nn.utils` norms or prunes, with the weight's name and its hook."""
    hooks: list[tuple[nn.Module, Any]] = [
        (module, hook)
        for module in model.modules()
        for hook in module._forward_pre_hooks.values()  # noqa: SLF001 - torch has no public way to ask
    ]
    normed = [(one, hook.name, hook) for one, hook in hooks if type(hook) in _REMOVE]
    pruned = [(one, hook) for one, hook in hooks if isinstance(hook, BasePruningMethod)]
    return [*normed, *((one, hook._tensor_name, hook) for one, hook in pruned)]  # noqa: SLF001 - as torch does


def _unpruned(module: nn.Module, name: str) -> None:
    """Give a layer its pruned weight; `prune.remove` would write to one that is shared."""
    hooks = module._forward_pre_hooks  # noqa: SLF001 - as torch does
    (at,) = [at for at, one in hooks.items() if getattr(one, "_tensor_name", "") == name]
    del hooks[at]
    original, mask = getattr(module, f"{name}_orig"), getattr(module, f"{name}_mask")
    for gone in (name, f"{name}_orig", f"{name}_mask"):
        delattr(module, gone)
    pruned = (original * mask.to(original.dtype)).detach()
    setattr(module, name, nn.Parameter(pruned, requires_grad=original.requires_grad))


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
