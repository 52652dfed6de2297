"""Attention, taken apart into what TensorRT fuses."""

from typing import Any

from torch import Tensor, nn

from embedl_deploy.modules import AttentionMask, MHAInProjection, ScaledDotProductAttention
from embedl_deploy.patterns import MULTIHEAD_ATTENTION, ConversionPattern, chain, item

_WEIGHTS_USED = "the model uses the attention weights, which a fused kernel does not give"


class DecomposeMultiheadAttentionPattern(ConversionPattern):
    """`nn.MultiheadAttention` becomes in-projection, attention and out-projection."""

    tree = chain(MULTIHEAD_ATTENTION.named("mha").escaping(_WEIGHTS_USED), item(0))

    def refuse(self, mha: nn.MultiheadAttention) -> str | None:
        if mha.bias_k is not None or mha.add_zero_attn:
            return "it adds a bias or a zero to keys and values (add_bias_kv, add_zero_attn)"
        return None

    def build(self, mha: nn.MultiheadAttention) -> nn.Module:
        return DecomposedAttention(mha)


class DecomposedAttention(nn.Module):
    """Multi-head attention in parts; its forward has the signature of `nn.MultiheadAttention`."""

    def __init__(self, mha: nn.MultiheadAttention) -> None:
        super().__init__()
        self.batch_first = mha.batch_first
        self.in_projection = MHAInProjection.of(mha)
        self.mask = AttentionMask(mha.num_heads)
        self.attention = ScaledDotProductAttention(dropout=mha.dropout)
        self.out_proj = mha.out_proj

    def forward(  # noqa: PLR0917 - the signature of nn.MultiheadAttention
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,  # noqa: FBT001, FBT002
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,  # noqa: FBT001, FBT002
        is_causal: bool = False,  # noqa: FBT001, FBT002
    ) -> Any:
        """Attend; `is_causal` is a hint that `attn_mask` is causal, as in torch."""
        q, k, v = self.in_projection(query, key, value)
        merged = None
        if attn_mask is not None or key_padding_mask is not None:
            merged = self.mask(q, attn_mask, key_padding_mask)
        output = self.attention(q, k, v, merged)
        output = output.transpose(-3, -2) if self.batch_first else output.movedim(-2, 0)
        return self.out_proj(output.flatten(-2))
