"""Attention in three parts, as compilers see it: projection, attention, (a linear after it)."""

import math
from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from embedl_deploy.modules.base import FusedModule, LeafModule
from embedl_deploy.modules.points import QDQPoint


class ScaledDotProductAttention(LeafModule):
    """`softmax(query @ keyᵀ · scale + mask) @ value`, as `F.scaled_dot_product_attention`.

    Args:
        dropout: Probability of dropping an attention weight, in training only.
        is_causal: Whether a position attends to none after it.
        scale: Factor on the logits; `None` is one over the square root of the head size.
        enable_gqa: Whether several query heads share one key and value head.
        fill: What the logits become where `hidden` is true.
        fill_first: Whether they do before the mask is added.
    """

    def __init__(
        self,
        *,
        dropout: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
        fill: float | None = None,
        fill_first: bool = False,
    ) -> None:
        super().__init__()
        self.dropout = dropout
        self.is_causal = is_causal
        self.scale = scale
        self.enable_gqa = enable_gqa
        self.fill = fill
        self.fill_first = fill_first

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        hidden: Tensor | None = None,
    ) -> Tensor:
        """Attend.

        Shapes: query (…, heads, L, E), key (…, heads, S, E), value (…, heads, S, V); masks
        broadcast to (…, heads, L, S), and `hidden` is boolean.
        """
        if hidden is not None:
            return self.attend(query, key, value, attn_mask, hidden)
        return F.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=attn_mask,
            dropout_p=self.dropout if self.training else 0.0,
            is_causal=self.is_causal,
            scale=self.scale,
            enable_gqa=self.enable_gqa,
        )

    def attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None,
        hidden: Tensor | None = None,
        through: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """Attend step by step, with the probabilities passed through a function; see `forward`."""
        if self.enable_gqa:
            groups = query.shape[-3] // key.shape[-3]
            key, value = (one.repeat_interleave(groups, -3) for one in (key, value))
        scale = 1 / math.sqrt(query.shape[-1]) if self.scale is None else self.scale
        logits = query @ key.transpose(-2, -1) * scale
        if self.is_causal:
            later = torch.ones(logits.shape[-2:], dtype=torch.bool, device=logits.device).triu(1)
            logits = logits.masked_fill(later, float("-inf"))
        if hidden is None:
            probabilities = _softmax(logits, attn_mask)
        else:
            filled = fill_hidden(logits, attn_mask, hidden, self.fill, first=self.fill_first)
            probabilities = filled.softmax(-1)
        if through is not None:
            probabilities = through(probabilities)
        return F.dropout(probabilities, self.dropout, self.training) @ value


def fill_hidden(
    logits: Tensor, mask: Tensor | None, hidden: Tensor, fill: float | None, *, first: bool
) -> Tensor:
    """Logits with `mask` added, and with `fill`, before or after that, where they are hidden."""
    assert fill is not None  # noqa: S101 - comes with `hidden`
    if mask is None:
        return logits.masked_fill(hidden, fill)
    return (
        logits.masked_fill(hidden, fill) + mask
        if first
        else (logits + mask).masked_fill(hidden, fill)
    )


def _softmax(logits: Tensor, mask: Tensor | None) -> Tensor:
    """Softmax of masked logits; zeros where all is masked, as in PyTorch's attention."""
    if mask is None:
        return logits.softmax(-1)
    logits = logits + (additive(~mask, logits.dtype) if mask.dtype == torch.bool else mask)
    nothing = (logits == float("-inf")).all(-1, keepdim=True)
    return logits.softmax(-1).masked_fill(nothing, 0.0)


class AttentionMask(LeafModule):
    """Merge the two masks of `nn.MultiheadAttention` into the one that attention adds.

    In `nn.MultiheadAttention` a boolean `True` hides a position.

    Args:
        num_heads: Number of attention heads.
    """

    def __init__(self, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads

    def forward(
        self, query: Tensor, attn_mask: Tensor | None, key_padding_mask: Tensor | None
    ) -> Tensor | None:
        """Merge. Shapes: attn_mask (L, S) or (N·heads, L, S), key_padding_mask (N, S) or (S)."""
        merged = None
        if attn_mask is not None:
            merged = additive(attn_mask, query.dtype)
            if merged.dim() == 3 and query.dim() == 4:
                merged = merged.unflatten(0, (-1, self.num_heads))
        if key_padding_mask is None:
            return merged
        padding = additive(key_padding_mask, query.dtype)[..., None, None, :]
        return padding if merged is None else merged + padding


def additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """A mask to add to logits: a boolean `True` becomes minus infinity."""
    if mask.dtype != torch.bool:
        return mask.to(dtype)
    return torch.zeros_like(mask, dtype=dtype).masked_fill(mask, float("-inf"))


class FusedScaledDotProductAttention(FusedModule):
    """Attention as one kernel.

    Attributes:
        probabilities: The quantizer of what the softmax gives, where there is one.
    """

    inner_points: ClassVar[tuple[QDQPoint, ...]] = (QDQPoint.PROBABILITIES,)
    probabilities: nn.Module | None

    def __init__(self, attention: ScaledDotProductAttention) -> None:
        super().__init__()
        self.attention = attention
        self.register_module("probabilities", None)

    @property
    def attends(self) -> ScaledDotProductAttention:
        """The attention."""
        return self.attention

    def operations(self) -> Sequence[nn.Module]:
        """The attention alone."""
        return [self.attention]

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        hidden: Tensor | None = None,
    ) -> Tensor:
        """Attend; see `ScaledDotProductAttention.forward`."""
        if self.probabilities is None:
            result: Tensor = self.attention(query, key, value, attn_mask, hidden)
            return result
        return self.attention.attend(query, key, value, attn_mask, hidden, self.probabilities)
