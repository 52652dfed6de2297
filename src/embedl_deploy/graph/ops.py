"""The operations table: every operation the canonical graph normalises, with its spellings.

To teach the library a spelling, add it to its row; to teach it an operation, add a row.
"""

import operator
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from embedl_deploy.graph.rows import FunctionRow, ModuleRow, Spelling, Table
from embedl_deploy.modules.attention import ScaledDotProductAttention


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


def _make(build: Callable[[SimpleNamespace], nn.Module]) -> Callable[..., nn.Module | None]:
    """A maker for modules without parameters: declines where an option is computed."""

    def make(a: SimpleNamespace) -> nn.Module | None:
        options = [value for name, value in vars(a).items() if name != "input"]
        return build(a) if _constant(*options) else None

    return make


def _conv(kind: type[nn.Module]) -> Callable[[SimpleNamespace], nn.Module | None]:
    def make(a: SimpleNamespace) -> nn.Module | None:
        options = (a.stride, a.padding, a.dilation, a.groups)
        if a.weight is None or not _parameters(a.weight, a.bias) or not _constant(*options):
            return None
        out_channels, in_channels, *kernel = a.weight.shape
        sizes = (in_channels * a.groups, out_channels, tuple(kernel))
        biased = a.bias is not None
        return shell(kind, *sizes, *options, biased, weight=a.weight, bias=a.bias)

    return make


def _linear(a: SimpleNamespace) -> nn.Module | None:
    if a.weight is None or not _parameters(a.weight, a.bias):
        return None
    out_features, in_features = a.weight.shape
    biased = a.bias is not None
    return shell(nn.Linear, in_features, out_features, biased, weight=a.weight, bias=a.bias)


def _layer_norm(a: SimpleNamespace) -> nn.Module | None:
    shape = a.normalized_shape
    if not _parameters(a.weight, a.bias) or not _constant(shape):
        return None
    if a.weight is None and a.bias is not None:
        return None
    options = (shape, a.eps, a.weight is not None, a.bias is not None)
    return shell(nn.LayerNorm, *options, weight=a.weight, bias=a.bias)


def _attention(a: SimpleNamespace) -> nn.Module | None:
    if not _constant(a.dropout_p, a.is_causal, a.scale, a.enable_gqa):
        return None
    return ScaledDotProductAttention(
        dropout=a.dropout_p, is_causal=a.is_causal, scale=a.scale, enable_gqa=a.enable_gqa
    )


def _hardtanh(a: SimpleNamespace) -> nn.Module:
    low, high = a.min_val, a.max_val
    return nn.ReLU6() if (low, high) == (0, 6) else nn.Hardtanh(low, high)


def _plain(kind: type[nn.Module]) -> Callable[..., nn.Module | None]:
    return _make(lambda _: kind())


_ACTIVATIONS = (
    ModuleRow(
        "relu",
        "input, inplace=False",
        (F.relu, torch.relu, "relu"),
        inplace=(F.relu_, torch.relu_, "relu_"),
        make=_plain(nn.ReLU),
    ),
    ModuleRow("relu6", "input, inplace=False", (F.relu6,), make=_plain(nn.ReLU6)),
    ModuleRow(
        "leaky_relu",
        "input, negative_slope=0.01, inplace=False",
        (F.leaky_relu,),
        inplace=(F.leaky_relu_,),
        make=_make(lambda a: nn.LeakyReLU(a.negative_slope)),
    ),
    ModuleRow(
        "elu",
        "input, alpha=1.0, inplace=False",
        (F.elu,),
        inplace=(F.elu_,),
        make=_make(lambda a: nn.ELU(a.alpha)),
    ),
    ModuleRow(
        "gelu",
        "input, approximate='none'",
        (F.gelu,),
        make=_make(lambda a: nn.GELU(a.approximate)),
    ),
    ModuleRow("silu", "input, inplace=False", (F.silu,), make=_plain(nn.SiLU)),
    ModuleRow("hardswish", "input, inplace=False", (F.hardswish,), make=_plain(nn.Hardswish)),
    ModuleRow("hardsigmoid", "input, inplace=False", (F.hardsigmoid,), make=_plain(nn.Hardsigmoid)),
    ModuleRow(
        "hardtanh",
        "input, min_val=-1.0, max_val=1.0, inplace=False",
        (F.hardtanh,),
        inplace=(F.hardtanh_,),
        make=_make(_hardtanh),
    ),
    ModuleRow(
        "sigmoid",
        "input",
        (torch.sigmoid, F.sigmoid, "sigmoid"),
        inplace=(torch.sigmoid_, "sigmoid_"),
        make=_plain(nn.Sigmoid),
    ),
    ModuleRow(
        "tanh",
        "input",
        (torch.tanh, F.tanh, "tanh"),
        inplace=(torch.tanh_, "tanh_"),
        make=_plain(nn.Tanh),
    ),
    ModuleRow(
        "softmax",
        "input, dim=None, _stacklevel=3, dtype=None",
        (F.softmax,),
        make=_make(lambda a: nn.Softmax(a.dim)),
    ),
)

_LAYERS = (
    ModuleRow(
        "conv2d",
        "input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1",
        (F.conv2d, torch.conv2d),
        make=_conv(nn.Conv2d),
    ),
    ModuleRow("linear", "input, weight, bias=None", (F.linear,), make=_linear),
    ModuleRow(
        "layer_norm",
        "input, normalized_shape, weight=None, bias=None, eps=1e-05, cudnn_enable=True",
        (F.layer_norm, torch.layer_norm),
        make=_layer_norm,
    ),
    ModuleRow(
        "attention",
        "query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, "
        "enable_gqa=False",
        (F.scaled_dot_product_attention,),
        make=_attention,
        inputs=4,
    ),
    ModuleRow(
        "adaptive_avg_pool2d",
        "input, output_size",
        (F.adaptive_avg_pool2d,),
        make=_make(lambda a: nn.AdaptiveAvgPool2d(a.output_size)),
    ),
    ModuleRow(
        "max_pool2d",
        "input, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, "
        "return_indices=False",
        (F.max_pool2d, torch.max_pool2d),
        make=_make(
            lambda a: nn.MaxPool2d(
                a.kernel_size, a.stride, a.padding, a.dilation, a.return_indices, a.ceil_mode
            )
        ),
    ),
    ModuleRow(
        "avg_pool2d",
        "input, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True, "
        "divisor_override=None",
        (F.avg_pool2d,),
        make=_make(
            lambda a: nn.AvgPool2d(
                a.kernel_size,
                a.stride,
                a.padding,
                a.ceil_mode,
                a.count_include_pad,
                a.divisor_override,
            )
        ),
    ),
)


def _varargs(a: SimpleNamespace) -> tuple[Any, ...]:
    """`x.permute(0, 2, 1)` and `torch.permute(x, (0, 2, 1))` alike as `(x, (0, 2, 1))`."""
    sizes = a.sizes[0] if len(a.sizes) == 1 and isinstance(a.sizes[0], (tuple, list)) else a.sizes
    return (a.input, tuple(sizes))


def _reshape(a: SimpleNamespace) -> tuple[Any, ...] | None:
    if len(a.sizes) == 1 and isinstance(a.sizes[0], torch.dtype):
        return None
    return _varargs(a)


def _arithmetic(a: SimpleNamespace) -> tuple[Any, ...] | None:
    return (a.input, a.other) if a.alpha == 1 else None


def _binary(function: Callable[..., Any], *spellings: Spelling, inplace: str = "") -> FunctionRow:
    name = function.__name__
    augmented = (getattr(operator, "i" + name), inplace) if inplace else ()
    return FunctionRow(
        name, "input, other", (function, *spellings), inplace=augmented, target=function
    )


def _sum(function: Callable[..., Any], augmented: Callable[..., Any]) -> FunctionRow:
    name = function.__name__
    return FunctionRow(
        name,
        "input, other, alpha=1",
        (function, getattr(torch, name), name),
        inplace=(augmented, name + "_"),
        target=function,
        positional=_arithmetic,
    )


_FUNCTIONS = (
    _sum(operator.add, operator.iadd),
    _sum(operator.sub, operator.isub),
    _binary(operator.mul, torch.mul, torch.multiply, "mul", inplace="mul_"),
    _binary(operator.truediv, torch.true_divide, torch.div, "div", inplace="div_"),
    _binary(operator.matmul, torch.matmul, torch.bmm, "matmul", "bmm"),
    FunctionRow(
        "flatten",
        "input, start_dim=0, end_dim=-1",
        (torch.flatten, "flatten"),
        target=torch.flatten,
    ),
    FunctionRow("cat", "tensors, dim=0", (torch.cat, torch.concat), target=torch.cat),
    FunctionRow(
        "reshape",
        "input, *sizes",
        (torch.reshape, "reshape", "view"),
        target=torch.reshape,
        positional=_reshape,
    ),
    FunctionRow(
        "permute",
        "input, *sizes",
        (torch.permute, "permute"),
        target=torch.permute,
        positional=_varargs,
    ),
    FunctionRow(
        "transpose",
        "input, dim0, dim1",
        (torch.transpose, torch.swapaxes, "transpose", "swapaxes"),
        target=torch.transpose,
    ),
)

TABLE = Table((*_ACTIVATIONS, *_LAYERS, *_FUNCTIONS))
