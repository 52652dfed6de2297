"""Attention that is written out becomes the one operation that TensorRT has a kernel for."""

from typing import Any

import torch
from torch import Tensor, nn

from embedl_deploy.conversions.fills import broadcasts, fill_of, fills
from embedl_deploy.modules import ScaledDotProductAttention
from embedl_deploy.patterns import (
    ADD,
    DROPOUT,
    MATMUL,
    MUL,
    RESHAPE,
    SOFTMAX,
    Call,
    ConversionPattern,
    Site,
    Source,
    Value,
    chain,
    either,
    factor,
    fork,
    hole,
    op,
    optional,
    scaled,
)


def _swaps_last(call: Any) -> bool:
    """Whether the last two dimensions change places; of a permutation that may be a part."""
    if call.target is torch.permute:
        return len(call.args[1]) > 1
    rank = len(call.args[0].shape or ())
    return {one - rank if one >= 0 else one for one in call.args[1:]} == {-2, -1}


_TRANSPOSED = op("transposed", torch.transpose, torch.permute, predicate=_swaps_last)
_KEY = either(
    chain(fork(_TRANSPOSED, hole("key")), optional(scaled("key_scale"))),
    hole("key"),
)
_LOGITS = chain(fork(MATMUL.named("logits"), hole("query"), _KEY), optional(scaled("scale")))
_SCALED = either(_LOGITS, fork(MUL.named("tempered"), _LOGITS, hole("factor")))
_MASKED = fork(ADD.named("masked"), _SCALED, hole("mask"))
_FILL = op("filled", torch.masked_fill, predicate=fills)
_FILL_CHOSEN = op("filled", torch.where, predicate=fills, operands=(0, 2))
_FILL_OTHERS = op("filled", torch.where, predicate=fills)


def _filled(logits: Source) -> Source:
    return either(
        fork(_FILL, logits, hole("hidden")),
        fork(_FILL_CHOSEN, hole("hidden"), logits),
        fork(_FILL_OTHERS, hole("shown"), logits),
    )


_SPLIT = chain(either(_SCALED, _MASKED), RESHAPE.named("split"))
_ONE_WINDOW = fork(ADD.named("windowed"), _SPLIT, hole("window"))
_TWO_WINDOWS = fork(ADD.named("windowed_again"), _ONE_WINDOW, hole("window_again"))
_WINDOWED = chain(either(_ONE_WINDOW, _TWO_WINDOWS), RESHAPE.named("joined"))
"""With a mask for each window of an image, or two, for which batch and windows come apart."""
_BIASED = either(
    _SCALED,
    _MASKED,
    fork(ADD.named("masked_again"), _MASKED, hole("more")),
    _filled(either(_SCALED, _MASKED)),
    fork(ADD.named("masked_after"), _filled(_SCALED), hole("after")),
    _WINDOWED,
)


class WrittenAttentionPattern(ConversionPattern):
    """`softmax(q @ kᵀ · scale + mask) @ v` becomes attention; a factor that is a tensor goes to q.

    Keys, values and masks keep their places; dropout of the probabilities stays. A mask for each
    window, or two, is repeated for each image. What a boolean mask fills in by `masked_fill` or
    `torch.where` stays that number, so rows that are masked wholly stay what they are.
    """

    tree = fork(MATMUL.named("attended"), chain(_BIASED, SOFTMAX, optional(DROPOUT)), hole("value"))

    def refuse(  # noqa: PLR0917 - names of the tree
        self,
        softmax: nn.Softmax,
        tempered: Any,
        masked: Any,
        masked_again: Any,
        masked_after: Any,
        windowed: Any,
        windowed_again: Any,
        site: Site,
    ) -> str | None:
        logits = site.value("logits")
        if softmax.dim not in {-1, len(logits.shape or ()) - 1}:
            return f"its softmax is over dimension {softmax.dim}, not over the keys"
        shapes = [site.value(name).shape for name in ("query", "key", "value")]
        if any(shape is not None and len(shape) < 2 for shape in shapes):
            return "one of query, key and value is a vector"
        added = {"mask": masked, "more": masked_again, "after": masked_after}
        reasons = [_mask_reason(site.value(name), logits) for name in added if added[name]]
        of_windows = {"window": windowed, "window_again": windowed_again}
        reasons += [
            _window_reason(*map(site.value, (name, "split", "joined", "logits")))
            for name in of_windows
            if of_windows[name]
        ]
        if tempered is not None:
            reasons.append(_factor_reason(site.value("factor"), logits))
        return next((reason for reason in reasons if reason), None)

    def build(
        self,
        transposed: Call | None,
        key_scale: Call | None,
        scale: Call | None,
        filled: Call | None,
        masked_after: Call | None,
        dropout: nn.Dropout | None,
    ) -> nn.Module:
        attention = ScaledDotProductAttention(
            scale=factor(key_scale) * factor(scale),
            dropout=dropout.p if dropout else 0.0,
            fill=None if filled is None else fill_of(filled),
            fill_first=masked_after is not None,
        )
        return WrittenAttention(attention, _order(transposed))


class WrittenAttention(nn.Module):
    """Attention whose keys may have to be laid out first.

    Args:
        attention: The attention.
        order: How to permute the keys; empty where they are in order already, and `None` where
            the last two dimensions have changed places.
    """

    def __init__(self, attention: ScaledDotProductAttention, order: tuple[int, ...] | None) -> None:
        super().__init__()
        self.attention = attention
        self.order = order

    def forward(  # noqa: PLR0913, PLR0917 - the holes of the tree, in order
        self,
        query: Tensor,
        key: Tensor,
        factor: Tensor | None,
        mask: Tensor | None,
        more: Tensor | None,
        hidden: Tensor | None,
        shown: Tensor | None,
        after: Tensor | None,
        window: Tensor | None,
        window_again: Tensor | None,
        value: Tensor,
    ) -> Any:
        """Attend; shapes as in `ScaledDotProductAttention.forward`."""
        if self.order is None:
            key = key.transpose(-2, -1)
        elif self.order:
            key = key.permute(self.order)
        if factor is not None:
            query = query * factor
        if window is not None:
            window = window if window_again is None else window + window_again
            more = window[0].repeat(query.shape[0] // window.shape[1], 1, 1, 1)
            mask, more = (more, None) if mask is None else (mask, more)
        if mask is not None and more is not None:
            mask = mask + more
        if shown is not None:
            hidden = shown.logical_not()
        return self.attention(query, key, value, mask if after is None else after, hidden)


def _order(transposed: Call | None) -> tuple[int, ...] | None:
    if transposed is None:
        return None
    if transposed.target is torch.transpose:
        return ()
    *first, last, before = transposed.args[1]
    order = tuple(one % len(transposed.args[1]) for one in (*first, before, last))
    return () if order == tuple(range(len(order))) else order


def _mask_reason(mask: Value, logits: Value) -> str | None:
    if mask.shape is None or logits.shape is None:
        return "the shape of its mask is not known; pass example inputs"
    if mask.dtype != logits.dtype:
        return f"its mask is of type {mask.dtype}, and its logits are of type {logits.dtype}"
    if len(mask.shape) == 1:
        return f"its mask of shape {mask.shape} has no dimension for queries"
    if not broadcasts(mask.shape, logits.shape):
        return f"its mask of shape {mask.shape} does not broadcast to its logits {logits.shape}"
    return None


def _window_reason(window: Value, split: Value, joined: Value, logits: Value) -> str | None:
    shapes = [one.shape for one in (window, split, joined, logits)]
    if None in shapes:
        return "the shape of its mask is not known; pass example inputs"
    of_window, of_split, of_joined, whole = (one or () for one in shapes)
    if window.dtype != logits.dtype:
        return f"its mask is of type {window.dtype}, and its logits are of type {logits.dtype}"
    if (
        of_joined != whole
        or of_split[2:] != whole[1:]
        or len(of_window) != len(of_split)
        or of_window[:2] != (1, *of_split[1:2])
        or not broadcasts(of_window, of_split)
    ):
        return f"its mask of shape {of_window} is not one for each window of its logits {whole}"
    return None


def _factor_reason(by: Value, logits: Value) -> str | None:
    if by.shape is None or logits.shape is None:
        return "its scale is computed, and the shape is not known; pass example inputs"
    if by.dtype not in {None, logits.dtype}:
        return f"the factor on its logits is of type {by.dtype}, and they are {logits.dtype}"
    if not broadcasts(by.shape, (*logits.shape[:-1], 1)):
        return f"the factor on its logits has shape {by.shape}, which differs between keys"
    return None
