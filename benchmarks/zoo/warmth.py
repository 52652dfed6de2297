"""Random weights under which an error shows: no layer is silent, none an identity."""

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from benchmarks.zoo.entry import Built

_SILENT = 1e-4
_WEAK = 0.5
_BIAS = 0.2
"""What was zero is a bias as a rule, and large ones would drown what depends on the input."""
_LEAST_VARIANCE = 0.1


def warm(built: Built) -> None:
    """No parameter is constant, and batch norms have the statistics of random inputs."""
    for parameter in built.model.parameters():
        if parameter.is_floating_point():
            _shake(parameter.data)
    norms = [one for one in built.model.modules() if isinstance(one, _BatchNorm)]
    tracking = [one for one in norms if one.track_running_stats]
    if tracking:
        _learn_statistics(built, tracking)
    built.model.eval()


def _shake(values: Tensor) -> None:
    """Factors of both signs for what is constant, a gain near one for a weak matrix."""
    fan_in = values[0].numel() if values.dim() > 3 else values.shape[-1] if values.dim() else 1
    spread, gain = float(values.std(correction=0)), fan_in**-0.5
    if values.dim() > 1 and fan_in > 1:
        if spread <= _SILENT:
            values.copy_(torch.randn_like(values) * gain)
        elif spread < _WEAK * gain:
            values.mul_(gain / spread)
    elif spread <= _SILENT:
        signs = torch.randint_like(values, 2) * 2 - 1
        largest = 1.0 if values.any() else _BIAS
        values.copy_((torch.rand_like(values) * 0.7 + 0.3) * signs * largest)


def _learn_statistics(built: Built, norms: list[_BatchNorm]) -> None:
    """The model runs as it infers, except for its batch norms, which learn from what they see."""
    built.model.eval()
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean of all batches
        norm.train()
    for _ in range(2):
        args, kwargs = built.draw(2)
        with torch.no_grad():
            built.model(*args, **kwargs)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        _widen(norm)


def _widen(norm: _BatchNorm) -> None:
    """A channel whose few values were alike by chance would drown all others."""
    variance = norm.running_var
    assert variance is not None  # it tracks its statistics
    variance.clamp_(min=_LEAST_VARIANCE * float(variance.mean()))
