"""How modules that hold the parameters of a call are made from its bound arguments.

Each maker gives `None` where this use of the operation has no module form.
"""

import copy
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from embedl_deploy.graph.makers import Maker, constant
from embedl_deploy.modules.attention import ScaledDotProductAttention
from embedl_deploy.modules.frozen import FROZEN

_PROJECTIONS = ("q_proj_weight", "k_proj_weight", "v_proj_weight")
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_BATCH_NORM_BY_RANK = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
_INSTANCE_NORM_BY_RANK = {3: nn.InstanceNorm1d, 4: nn.InstanceNorm2d, 5: nn.InstanceNorm3d}


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


def conv(kind: type[nn.Module]) -> Maker:
    """A maker of convolutions that hold the call's weight and bias."""

    def make(a: SimpleNamespace) -> nn.Module | None:
        options = (a.stride, a.padding, a.dilation, a.groups)
        if a.weight is None or not _parameters(a.weight, a.bias) or not constant(*options):
            return None
        out_channels, in_channels, *kernel = a.weight.shape
        sizes = (in_channels * a.groups, out_channels, tuple(kernel))
        biased = a.bias is not None
        return shell(kind, *sizes, *options, biased, weight=a.weight, bias=a.bias)

    return make


def conv_transpose(kind: type[nn.Module]) -> Maker:
    """A maker of transposed convolutions that hold the call's weight and bias."""

    def make(a: SimpleNamespace) -> nn.Module | None:
        options = (a.stride, a.padding, a.output_padding, a.groups, a.dilation)
        if a.weight is None or not _parameters(a.weight, a.bias) or not constant(*options):
            return None
        in_channels, out_channels, *kernel = a.weight.shape
        sizes = (in_channels, out_channels * a.groups, tuple(kernel))
        *spatial, groups, dilation = options
        biased = a.bias is not None
        arguments = (*sizes, *spatial, groups, biased, dilation)
        return shell(kind, *arguments, weight=a.weight, bias=a.bias)

    return make


def linear(a: SimpleNamespace) -> nn.Module | None:
    """A linear layer that holds the call's weight and bias."""
    if a.weight is None or not _parameters(a.weight, a.bias):
        return None
    out_features, in_features = a.weight.shape
    biased = a.bias is not None
    return shell(nn.Linear, in_features, out_features, biased, weight=a.weight, bias=a.bias)


def bilinear(a: SimpleNamespace) -> nn.Module | None:
    """A bilinear layer that holds the call's weight and bias."""
    if a.weight is None or not _parameters(a.weight, a.bias):
        return None
    out_features, *in_features = a.weight.shape
    biased = a.bias is not None
    return shell(nn.Bilinear, *in_features, out_features, biased, weight=a.weight, bias=a.bias)


def embedding(a: SimpleNamespace) -> nn.Module | None:
    """A lookup in a table of parameters; one that rescales the table stays a function."""
    if a.weight is None or not _parameters(a.weight) or a.max_norm is not None:
        return None
    options = (*a.weight.shape, a.padding_idx, None, 2.0, a.scale_grad_by_freq, a.sparse)
    return shell(nn.Embedding, *options, weight=a.weight) if constant(*options) else None


def prelu(a: SimpleNamespace) -> nn.Module | None:
    """A leaky ReLU with learned slopes."""
    if a.weight is None or not _parameters(a.weight):
        return None
    return shell(nn.PReLU, a.weight.numel(), weight=a.weight)


def layer_norm(a: SimpleNamespace) -> nn.Module | None:
    """A layer norm that holds the call's weight and bias."""
    shape = a.normalized_shape
    if not _parameters(a.weight, a.bias) or not constant(shape):
        return None
    if a.weight is None and a.bias is not None:
        return None
    options = (shape, a.eps, a.weight is not None, a.bias is not None)
    return shell(nn.LayerNorm, *options, weight=a.weight, bias=a.bias)


def rms_norm(a: SimpleNamespace) -> nn.Module | None:
    """An RMS norm that holds the call's weight."""
    shape = a.normalized_shape
    if not _parameters(a.weight) or not constant(shape, a.eps):
        return None
    return shell(nn.RMSNorm, shape, a.eps, a.weight is not None, weight=a.weight)


def group_norm(a: SimpleNamespace) -> nn.Module | None:
    """A group norm that holds the call's weight and bias."""
    if not _affine(a) or a.weight is None or not constant(a.num_groups, a.eps):
        return None
    options = (a.num_groups, len(a.weight), a.eps, True)
    return shell(nn.GroupNorm, *options, weight=a.weight, bias=a.bias)


def _affine(a: SimpleNamespace) -> bool:
    """Whether weight and bias are parameters, or neither is there."""
    return _parameters(a.weight, a.bias) and (a.weight is None) is (a.bias is None)


def batch_norm(a: SimpleNamespace) -> nn.Module | None:
    """A batch norm that holds the call's weight, bias and statistics.

    Of a subclass that normalises as its base does it is the plain form, with its counter.
    """
    if isinstance(a.owner, _BatchNorm) and a.owner.running_mean is not None:
        return _plain_batch_norm(a, a.owner)
    kind = _BATCH_NORM_BY_RANK.get(a.rank)
    if kind is None:
        return None
    if _normalises(a, a.training) and _affine(a):
        return _norm(kind, a, len(a.running_mean))
    return _frozen(FROZEN[kind], a)


def _frozen(kind: type[nn.Module], a: SimpleNamespace) -> nn.Module | None:
    """A batch norm in eval mode whose factor and shift are buffers, as in detectors."""
    given = (a.running_mean, a.running_var, a.weight, a.bias)
    fixed = not any(getattr(one, "requires_grad", True) for one in given)
    if a.training is not False or not fixed or not constant(a.momentum, a.eps):
        return None
    a.weight, a.bias = (nn.Parameter(one, requires_grad=False) for one in (a.weight, a.bias))
    return _norm(kind, a, len(a.running_mean)).eval()


def _normalises(a: SimpleNamespace, training: object) -> bool:
    """Whether a call has statistics of its own and the mode of the module that makes it."""
    buffers = all(isinstance(one, Tensor) for one in (a.running_mean, a.running_var))
    options = constant(a.momentum, a.eps)
    return buffers and options and training is a.owner.training


def _norm(kind: type[nn.Module], a: SimpleNamespace, features: int) -> nn.Module:
    options = (features, a.eps, a.momentum, a.weight is not None)
    statistics = {"running_mean": a.running_mean, "running_var": a.running_var}
    affine = {"weight": a.weight, "bias": a.bias}
    return shell(kind, *options, **affine, **statistics, num_batches_tracked=None)


def _plain_batch_norm(a: SimpleNamespace, owner: _BatchNorm) -> nn.Module | None:
    mine = (owner.running_mean, owner.running_var, owner.weight, owner.bias)
    given = (a.running_mean, a.running_var, a.weight, a.bias)
    if any(one is not other for one, other in zip(mine, given, strict=True)) or a.eps != owner.eps:
        return None
    if a.training is not owner.training or (a.training and a.momentum != owner.momentum):
        return None
    kind: Any = next((one for one in _BATCH_NORMS if isinstance(owner, one)), None)
    if kind is not None and _stays_in_eval(owner):
        kind = FROZEN[kind]
    options = (owner.num_features, owner.eps, owner.momentum, owner.affine)
    kept = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    return kind and shell(kind, *options, **{name: getattr(owner, name) for name in kept})


def _stays_in_eval(owner: _BatchNorm) -> bool:
    """Whether a class of its own keeps the norm in eval mode when the model is to train."""
    if owner.training or type(owner).train is nn.Module.train:
        return False
    return not copy.copy(owner).train().training


def instance_norm(a: SimpleNamespace) -> nn.Module | None:
    """An instance norm that holds the call's weight and bias; with statistics it has no form."""
    kind = _INSTANCE_NORM_BY_RANK.get(a.rank)
    if kind is None or not a.use_input_stats or a.running_mean is not None or not _affine(a):
        return None
    if a.weight is None or not constant(a.momentum, a.eps):
        return None
    options = (len(a.weight), a.eps, a.momentum, True)
    return shell(kind, *options, weight=a.weight, bias=a.bias)


def attention(a: SimpleNamespace) -> nn.Module | None:
    """Attention; masks stay inputs. What drops weights in eval mode stays a function."""
    if not constant(a.dropout_p, a.is_causal, a.scale, a.enable_gqa):
        return None
    if a.dropout_p and not a.owner.training:
        return None
    return ScaledDotProductAttention(
        dropout=a.dropout_p, is_causal=a.is_causal, scale=a.scale, enable_gqa=a.enable_gqa
    )


def multi_head_attention(a: SimpleNamespace) -> nn.Module | None:
    """Multi-head attention that holds the call's weights and biases."""
    more = (a.bias_k, a.bias_v, a.static_k, a.static_v)
    if a.add_zero_attn or any(one is not None for one in more):
        return None
    names = _PROJECTIONS if a.use_separate_proj_weight else ("in_proj_weight",)
    weights = {name: getattr(a, name) for name in names}
    needed = (*weights.values(), a.out_proj_weight)
    known = None not in needed and _parameters(*needed, a.in_proj_bias, a.out_proj_bias)
    if not known or not constant(a.num_heads, a.dropout_p):
        return None
    if a.dropout_p and a.training is not a.owner.training:
        return None
    options = (a.out_proj_weight.shape[1], a.num_heads, a.dropout_p)
    unpacked = dict.fromkeys((*_PROJECTIONS, "in_proj_weight"))
    module = shell(
        nn.MultiheadAttention, *options, **unpacked | weights, in_proj_bias=a.in_proj_bias
    )
    module._qkv_same_embed_dim = not a.use_separate_proj_weight  # type: ignore[assignment]  # noqa: SLF001 - how it computes
    features = a.out_proj_weight.shape[::-1]
    projection = shell(
        NonDynamicallyQuantizableLinear, *features, weight=a.out_proj_weight, bias=a.out_proj_bias
    )
    module.out_proj = projection
    return module.train(a.owner.training)
