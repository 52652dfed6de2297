"""How modules are made from the bound arguments of a call.

Each maker gives `None` where this use of the operation has no module form.
"""

from collections.abc import Callable
from types import SimpleNamespace

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from embedl_deploy.modules.attention import ScaledDotProductAttention

Maker = Callable[[SimpleNamespace], nn.Module | None]

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def shell(kind: type[nn.Module], *args: object, **tensors: Tensor | None) -> nn.Module:
    """A `kind(*args)` that allocates nothing and holds the given `tensors` themselves."""
    with torch.device("meta"):
        module = kind(*args)
    for name, tensor in tensors.items():
        slots = module._buffers if name in module._buffers else module._parameters  # noqa: SLF001 - torch has no public slot setter
        slots[name] = tensor  # type: ignore[assignment]
    return module


def _parameters(*tensors: object) -> bool:
    return all(tensor is None or isinstance(tensor, nn.Parameter) for tensor in tensors)


def _constant(*values: object) -> bool:
    """Whether no value is a graph node (torch.fx stores sizes as ints, tuples and lists)."""
    plain = (int, float, bool, str, type(None), torch.dtype)
    return all(
        _constant(*value) if isinstance(value, (tuple, list)) else isinstance(value, plain)
        for value in values
    )


def simple(build: Callable[[SimpleNamespace], nn.Module]) -> Maker:
    """A maker for modules without parameters: declines where an option is computed."""

    def make(a: SimpleNamespace) -> nn.Module | None:
        options = [value for name, value in vars(a).items() if name not in {"input", "owner"}]
        return build(a) if _constant(*options) else None

    return make


def conv(kind: type[nn.Module]) -> Maker:
    """A maker of convolutions that hold the call's weight and bias."""

    def make(a: SimpleNamespace) -> nn.Module | None:
        options = (a.stride, a.padding, a.dilation, a.groups)
        if a.weight is None or not _parameters(a.weight, a.bias) or not _constant(*options):
            return None
        out_channels, in_channels, *kernel = a.weight.shape
        sizes = (in_channels * a.groups, out_channels, tuple(kernel))
        biased = a.bias is not None
        return shell(kind, *sizes, *options, biased, weight=a.weight, bias=a.bias)

    return make


def linear(a: SimpleNamespace) -> nn.Module | None:
    """A linear layer that holds the call's weight and bias."""
    if a.weight is None or not _parameters(a.weight, a.bias):
        return None
    out_features, in_features = a.weight.shape
    biased = a.bias is not None
    return shell(nn.Linear, in_features, out_features, biased, weight=a.weight, bias=a.bias)


def layer_norm(a: SimpleNamespace) -> nn.Module | None:
    """A layer norm that holds the call's weight and bias."""
    shape = a.normalized_shape
    if not _parameters(a.weight, a.bias) or not _constant(shape):
        return None
    if a.weight is None and a.bias is not None:
        return None
    options = (shape, a.eps, a.weight is not None, a.bias is not None)
    return shell(nn.LayerNorm, *options, weight=a.weight, bias=a.bias)


def attention(a: SimpleNamespace) -> nn.Module | None:
    """Attention; masks stay inputs. What drops weights in eval mode stays a function."""
    if not _constant(a.dropout_p, a.is_causal, a.scale, a.enable_gqa):
        return None
    if a.dropout_p and not a.owner.training:
        return None
    return ScaledDotProductAttention(
        dropout=a.dropout_p, is_causal=a.is_causal, scale=a.scale, enable_gqa=a.enable_gqa
    )


def hardtanh(a: SimpleNamespace) -> nn.Module:
    """A clamp; from 0 to 6 it is `nn.ReLU6`."""
    low, high = a.min_val, a.max_val
    return nn.ReLU6() if (low, high) == (0, 6) else nn.Hardtanh(low, high)


def softmax(a: SimpleNamespace) -> nn.Module | None:
    """A softmax in the dtype of its input."""
    if a.dtype is not None or not _constant(a.dim):
        return None
    return nn.Softmax(a.dim)


def dropout(kind: Callable[[float], nn.Module]) -> Maker:
    """A maker of dropouts, for calls that follow the train or eval mode of the model."""

    def make(a: SimpleNamespace) -> nn.Module | None:
        follows = a.training is a.owner.training and isinstance(a.p, float | int)
        return kind(a.p) if follows else None

    return make


def batch_norm(a: SimpleNamespace) -> nn.Module | None:
    """The plain form of a batch norm's subclass that normalises as its base does."""
    owner = a.owner
    if not isinstance(owner, _BatchNorm) or owner.running_mean is None:
        return None
    mine = (owner.running_mean, owner.running_var, owner.weight, owner.bias)
    given = (a.running_mean, a.running_var, a.weight, a.bias)
    if any(one is not other for one, other in zip(mine, given, strict=True)) or a.eps != owner.eps:
        return None
    if a.training is not owner.training or (a.training and a.momentum != owner.momentum):
        return None
    kind = next((one for one in _BATCH_NORMS if isinstance(owner, one)), None)
    options = (owner.num_features, owner.eps, owner.momentum, owner.affine)
    kept = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    return kind and shell(kind, *options, **{name: getattr(owner, name) for name in kept})


def plain(kind: type[nn.Module]) -> Maker:
    """A maker of modules without options."""
    return simple(lambda _: kind())
