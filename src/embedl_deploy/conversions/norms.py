"""Norms that are written out become the modules they are."""

from typing import Any

import torch
from torch import Tensor, nn

from embedl_deploy.modules.frozen import FrozenBatchNorm1d, FrozenBatchNorm2d, FrozenBatchNorm3d
from embedl_deploy.patterns import (
    ADD,
    BATCH_NORM1D,
    CONV,
    CONV_TRANSPOSE,
    DIV,
    FLATTEN,
    LINEAR,
    MEAN,
    MUL,
    POW,
    RSQRT,
    SQRT,
    SUB,
    Call,
    ConversionPattern,
    Site,
    again,
    chain,
    either,
    fixed,
    fork,
    hole,
    op,
    own,
)
from embedl_deploy.patterns.tree import Either, Source

X = hole("x")


def _over_last(call: Any) -> bool:
    """Whether a mean or variance is over the last dimension, which is kept."""
    dims, keepdim, rank = call.args[1:2], call.args[-1], call.args[0].shape
    return keepdim is True and dims in {((-1,),), ((len(rank or ()) - 1,),)}


def _plus_eps(call: Any) -> bool:
    return isinstance(call.args[1], float)


def _square(x: Source, same: Source) -> Either:
    return either(fork(POW.named("square").taking(2), x), fork(MUL.named("square"), x, same))


def _over_root(x: Source, spread: Source) -> Either:
    """`x / √(spread + eps)` in three spellings."""
    eps = ADD.named("eps").where(_plus_eps)
    return either(
        fork(DIV, x, chain(fork(eps, spread), SQRT)),
        fork(DIV, x, chain(fork(eps, spread), POW.named("sqrt").taking(0.5))),
        fork(MUL, x, chain(fork(eps, spread), RSQRT)),
        fork(MUL, x, chain(fork(eps, spread), POW.named("rsqrt").taking(-0.5))),
    )


_MEAN = MEAN.where(_over_last)
_CENTRED = SUB.named("centred")
_SPREAD = _MEAN.named("spread")
_AGAIN = SUB.named("centred_again")
_VARIANCE = op("spread", torch.var, predicate=lambda call: _over_last(call) and not call.args[2])


class WrittenLayerNormPattern(ConversionPattern):
    """`(x - mean) / sqrt(variance + eps)` over the last dimension becomes `nn.LayerNorm`."""

    tree = _over_root(
        fork(_CENTRED, X, fork(_MEAN, X)),
        either(
            chain(_square(again(_CENTRED), again(_CENTRED)), _SPREAD),
            chain(_square(fork(_AGAIN, X, again(_MEAN)), again(_AGAIN)), _SPREAD),
            fork(_VARIANCE, X),
        ),
    )

    def refuse(self, site: Site) -> str | None:
        return _size_reason(site)

    def build(self, eps: Call, site: Site) -> nn.Module:
        return nn.LayerNorm(_size(site), eps.args[1], elementwise_affine=False)


class WrittenRMSNormPattern(ConversionPattern):
    """`x / sqrt(mean(x²) + eps)` over the last dimension becomes `nn.RMSNorm`."""

    tree = _over_root(X, chain(_square(X, X), _SPREAD))

    def refuse(self, site: Site) -> str | None:
        return _size_reason(site)

    def build(self, eps: Call, site: Site) -> nn.Module:
        return nn.RMSNorm(_size(site), eps.args[1], elementwise_affine=False)


_BARE = op("norm", nn.LayerNorm, nn.RMSNorm).where(lambda norm: norm.weight is None)
_UNSHIFTED = op("norm", nn.LayerNorm).where(
    lambda norm: norm.weight is not None and norm.bias is None
)


class NormWeightPattern(ConversionPattern):
    """A product with a parameter after a norm without weight, then a sum, become its own."""

    tree = either(fork(MUL, _BARE, own("weight")), fork(ADD, _UNSHIFTED, own("bias")))

    def refuse(
        self, norm: Any, weight: nn.Parameter | None, bias: nn.Parameter | None, site: Site
    ) -> str | None:
        given = bias if weight is None else weight
        assert given is not None  # noqa: S101 - the tree binds one
        if given.shape != tuple(norm.normalized_shape):
            return f"the parameter has shape {tuple(given.shape)}, not {norm.normalized_shape}"
        if site.value("norm").dtype not in {None, given.dtype}:
            return f"the parameter has another type, {given.dtype}"
        return None

    def build(self, norm: Any, weight: nn.Parameter | None, bias: nn.Parameter | None) -> nn.Module:
        with torch.device("meta"):
            affine: Any = type(norm)(norm.normalized_shape, norm.eps)
        affine.weight = norm.weight if weight is None else weight
        if isinstance(norm, nn.LayerNorm):
            affine.bias = bias
        return affine


class RowBatchNormPattern(ConversionPattern):
    """A batch norm over a linear layer's flattened rows: what the layer takes is flattened instead.

    Layer and norm are then one kernel.
    """

    tree = fork(
        op("back", "Tensor.reshape_as"),
        chain(LINEAR, FLATTEN.taking(0, 1), BATCH_NORM1D),
        again(LINEAR),
    )

    def build(self, linear: nn.Linear, batch_norm: nn.BatchNorm1d) -> nn.Module:
        return NormedRows(linear, batch_norm)


class NormedRows(nn.Module):
    """A linear layer and a batch norm, both of rows."""

    def __init__(self, linear: nn.Linear, batch_norm: nn.BatchNorm1d) -> None:
        super().__init__()
        self.linear = linear
        self.batch_norm = batch_norm

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name for it
        """Apply. Shapes: (N, L, …, in) to (N, L, …, out)."""
        rows: Tensor = self.batch_norm(self.linear(input.flatten(0, 1)))
        return rows.unflatten(0, (input.size(0), input.size(1)))


class WrittenBatchNormPattern(ConversionPattern):
    """`conv(x) * factor + shift`, neither of which trains, becomes a batch norm that is frozen.

    So the frozen batch norms of detectors come out, however they compute the two. The norm has
    mean 0, variance 1 and an epsilon of 0: it computes that product and that sum.
    """

    tree = fork(
        ADD,
        fork(MUL, op("conv", *CONV.kinds, *CONV_TRANSPOSE.kinds), fixed("factor")),
        fixed("shift"),
    )

    def refuse(self, conv: Any, factor: nn.Parameter, shift: nn.Parameter) -> str | None:
        channels = (conv.out_channels, *[1] * len(conv.kernel_size))
        for name, one in (("factor", factor), ("shift", shift)):
            if one.numel() > 1 and tuple(one.shape) not in {channels, (1, *channels)}:
                return f"its {name} of shape {tuple(one.shape)} has not one value for each channel"
            if one.dtype != conv.weight.dtype:
                return f"its {name} is of type {one.dtype}, the convolution of {conv.weight.dtype}"
        return None

    def build(self, conv: Any, factor: nn.Parameter, shift: nn.Parameter) -> nn.Module:
        return FrozenConv(conv, factor, shift)


class FrozenConv(nn.Module):
    """A convolution and a batch norm that multiplies and adds."""

    def __init__(self, conv: Any, factor: Tensor, shift: Tensor) -> None:
        super().__init__()
        kinds = (FrozenBatchNorm1d, FrozenBatchNorm2d, FrozenBatchNorm3d)
        norm = kinds[len(conv.kernel_size) - 1](conv.out_channels, eps=0.0).to(factor).eval()
        for parameter, values in ((norm.weight, factor), (norm.bias, shift)):
            parameter.requires_grad_(False).copy_(values.flatten())
        self.conv = conv
        self.batch_norm = norm

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Apply; arguments and shapes are those of the convolution."""
        return self.batch_norm(self.conv(*args, **kwargs))


def _size(site: Site) -> int:
    shape = site.value("x").shape
    assert shape is not None  # noqa: S101 - refuse() says so
    return shape[-1] or 0


def _size_reason(site: Site) -> str | None:
    shape = site.value("x").shape
    if shape is None or shape[-1] is None:
        return "the size of the last dimension is not known; pass example inputs"
    return None
