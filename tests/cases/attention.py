"""Attention, whole and in parts."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.swin_transformer import ShiftedWindowAttention, ShiftedWindowAttentionV2

from embedl_deploy.conversions.attention import DecomposeMultiheadAttentionPattern
from embedl_deploy.conversions.window import DecomposeShiftedWindowAttentionPattern
from embedl_deploy.patterns import QDQPoint
from embedl_deploy.tensorrt.fusions.attention import (
    MHAInProjectionPattern,
    ScaledDotProductAttentionPattern,
)
from tests.cases.case import Case, Near, rand
from tests.helpers import net

PARTS = {"MHAInProjection": 1, "ScaledDotProductAttention": 1, "Linear": 1, "MultiheadAttention": 0}
BATCH = rand((2, 5, 8))
ALONE = rand((5, 8))
CROSS = rand((2, 5, 8), (2, 7, 8))
HEADS = rand((2, 2, 5, 4), (2, 2, 7, 4), (2, 2, 7, 3))


def self_attention(mha: nn.Module, **call: Any) -> nn.Module:
    """`mha(x, x, x)`; tensors among the options are buffers of the model."""
    masks = {name: value for name, value in call.items() if isinstance(value, Tensor)}

    def forward(m: Any, x: Tensor) -> Tensor:
        options = {name: getattr(m, name) if name in masks else call[name] for name in call}
        return m.mha(x, x, x, **options)[0]

    return net(forward, mha=mha, **masks)


def mha(**options: Any) -> nn.MultiheadAttention:
    attention = nn.MultiheadAttention(8, 2, **{"batch_first": True, **options})
    assert attention.out_proj.bias is None or not attention.out_proj.bias.any()
    return attention


def hides(*shape: int) -> Tensor:
    """A boolean mask that hides some positions and no row wholly."""
    mask = torch.rand(shape) < 0.4
    mask[..., 0] = False
    return mask


CAUSAL = torch.ones(5, 5).triu(1).bool()
LENGTH_FIRST = rand((5, 3, 8))

SELF = tuple(
    Case(DecomposeMultiheadAttentionPattern, model, inputs, becomes=PARTS)
    for model, inputs in (
        (lambda: self_attention(mha()), BATCH),
        (lambda: self_attention(mha(), need_weights=False), BATCH),
        (lambda: self_attention(mha(bias=False)), BATCH),
        (lambda: self_attention(mha(batch_first=False)), LENGTH_FIRST),
        (lambda: self_attention(mha(batch_first=False), need_weights=False), LENGTH_FIRST),
        (lambda: self_attention(mha()), ALONE),
        (lambda: self_attention(mha(batch_first=False)), ALONE),
        (lambda: self_attention(mha(), attn_mask=hides(5, 5)), BATCH),
        (lambda: self_attention(mha(), attn_mask=torch.randn(5, 5)), BATCH),
        (lambda: self_attention(mha(), attn_mask=hides(4, 5, 5)), BATCH),
        (lambda: self_attention(mha(), attn_mask=torch.randn(4, 5, 5)), BATCH),
        (lambda: self_attention(mha(batch_first=False), attn_mask=hides(6, 5, 5)), LENGTH_FIRST),
        (lambda: self_attention(mha(), attn_mask=hides(2, 5, 5)), ALONE),
        (lambda: self_attention(mha(), key_padding_mask=hides(2, 5)), BATCH),
        (lambda: self_attention(mha(), key_padding_mask=torch.randn(2, 5)), BATCH),
        (lambda: self_attention(mha(), key_padding_mask=hides(5)), ALONE),
        (
            lambda: self_attention(mha(batch_first=False), key_padding_mask=hides(3, 5)),
            LENGTH_FIRST,
        ),
        (
            lambda: self_attention(
                mha(), attn_mask=torch.randn(4, 5, 5), key_padding_mask=torch.randn(2, 5)
            ),
            BATCH,
        ),
        (lambda: self_attention(mha(), attn_mask=CAUSAL, is_causal=True), BATCH),
        (
            lambda: self_attention(mha(), attn_mask=CAUSAL, is_causal=True, need_weights=False),
            BATCH,
        ),
    )
)

CROSSED = (
    Case(
        DecomposeMultiheadAttentionPattern,
        lambda: net(lambda m, q, kv: m.mha(q, kv, kv)[0], mha=mha()),
        CROSS,
        becomes=PARTS,
    ),
    Case(
        DecomposeMultiheadAttentionPattern,
        lambda: net(lambda m, q, kv: m.mha(q, kv, kv)[0], mha=mha(batch_first=False)),
        rand((5, 2, 8), (7, 2, 8)),
        becomes=PARTS,
    ),
    Case(
        DecomposeMultiheadAttentionPattern,
        lambda: net(
            lambda m, q, k, v: m.mha(query=q, key=k, value=v, need_weights=False)[0],
            mha=mha(kdim=6, vdim=3),
        ),
        rand((2, 5, 8), (2, 7, 6), (2, 7, 3)),
        becomes=PARTS,
    ),
    Case(
        DecomposeMultiheadAttentionPattern,
        lambda: net(
            lambda m, q, k, v, mask: m.mha(q, k, v, mask)[0], mha=mha(kdim=6, vdim=3, bias=False)
        ),
        lambda: (torch.randn(2, 5, 8), torch.randn(2, 7, 6), torch.randn(2, 7, 3), hides(2, 7)),
        becomes=PARTS,
    ),
)

_USED = "the model uses the attention weights"

WHOLE = (
    Case(
        DecomposeMultiheadAttentionPattern,
        lambda: self_attention(mha(dropout=0.4)),
        BATCH,
        becomes=PARTS,
        random=True,
        near=(
            Near(lambda: net(lambda m, x: m.mha(x, x, x), mha=mha()), _USED),
            Near(lambda: net(lambda m, x: m.mha(x, x, x)[1], mha=mha()), _USED),
            Near(
                lambda: net(lambda m, x: (y := m.mha(x, x, x))[0] + y[1].mean(), mha=mha()), _USED
            ),
            Near(lambda: self_attention(mha(add_bias_kv=True)), "add_bias_kv"),
            Near(lambda: self_attention(mha(add_zero_attn=True)), "add_zero_attn"),
            Near(lambda: self_attention(hooked_attention()), "'mha' has hooks"),
        ),
    ),
    Case(
        DecomposeMultiheadAttentionPattern,
        lambda: net(lambda m, x: (y := m.mha(x, x, x))[0] * y[0].mean(), mha=mha()),
        BATCH,
        becomes=PARTS,
    ),
    Case(
        DecomposeMultiheadAttentionPattern,
        lambda: net(
            lambda m, x: m.two(y := m.one(x, x, x)[0], y, y)[0] + m.one(y, y, y)[0],
            one=mha(),
            two=mha(),
        ),
        BATCH,
        count=3,
        becomes={name: 3 * count for name, count in PARTS.items()},
    ),
)


def hooked_attention() -> nn.Module:
    attention = mha()
    attention.register_forward_pre_hook(lambda _module, args: tuple(one * 2 for one in args))
    return attention


QUERY_KEY_VALUE = (QDQPoint.INPUT, QDQPoint.KEY_INPUT, QDQPoint.VALUE_INPUT)


def attend(dropout_p: float = 0.0, **options: Any) -> nn.Module:
    def forward(m: nn.Module, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        drop = dropout_p if m.training else 0.0
        return F.scaled_dot_product_attention(q, k, v, dropout_p=drop, **options)

    return net(forward)


FUSIONS = (
    Case(
        MHAInProjectionPattern,
        lambda: net(
            lambda m, x, y: m.two(m.one(x, x, x)[0], y, y)[0], one=mha(), two=mha(kdim=6, vdim=6)
        ),
        rand((2, 5, 8), (2, 7, 6)),
        (QDQPoint.INPUT,),
        "FusedMHAInProjection",
        count=2,
        first=(DecomposeMultiheadAttentionPattern,),
        near=(Near(lambda: self_attention(mha(add_zero_attn=True)), "add_zero_attn", BATCH),),
    ),
    *(
        Case(
            ScaledDotProductAttentionPattern,
            lambda options=options: attend(**options),  # type: ignore[misc]
            HEADS,
            QUERY_KEY_VALUE,
            "FusedScaledDotProductAttention",
            random="dropout_p" in options,
        )
        for options in ({}, {"is_causal": True}, {"scale": 0.3}, {"dropout_p": 0.3})
    ),
    Case(
        ScaledDotProductAttentionPattern,
        lambda: net(
            lambda m, q, k, v: F.scaled_dot_product_attention(q, k, v, attn_mask=m.mask),
            mask=torch.randn(5, 7),
        ),
        HEADS,
        QUERY_KEY_VALUE,
        "FusedScaledDotProductAttention",
        near=(
            Near(lambda: net(lambda _, q, k, v: (q @ k.transpose(-2, -1)).softmax(-1) @ v)),
            Near(
                lambda: net(
                    lambda _, q, k, v: F.scaled_dot_product_attention(
                        q, k, v, scale=q.shape[-1] ** -1
                    )
                )
            ),
        ),
    ),
)


def windows(shift: int, size: int = 4, **options: Any) -> nn.Module:
    return nn.Sequential(ShiftedWindowAttention(8, [size, size], [shift, shift], 2, **options))


WINDOW = (
    *(
        Case(
            DecomposeShiftedWindowAttentionPattern,
            lambda shift=shift: windows(shift),  # type: ignore[misc]
            rand((2, high, wide, 8)),
            becomes={"MHAInProjection": 1, "ScaledDotProductAttention": 1, "Linear": 1},
            traced=True,
        )
        for shift, high, wide in (
            (0, 8, 8),
            (2, 8, 8),
            (0, 7, 10),
            (2, 7, 10),
            (1, 4, 9),
            (2, 3, 3),
        )
    ),
    Case(
        DecomposeShiftedWindowAttentionPattern,
        lambda: windows(2, qkv_bias=False, proj_bias=False, attention_dropout=0.3, dropout=0.2),
        rand((2, 8, 8, 8)),
        becomes={"MHAInProjection": 1, "ScaledDotProductAttention": 1, "Linear": 1, "Dropout": 1},
        random=True,
        traced=True,
        near=(Near(lambda: windows(2), "pass example inputs", example=False),),
    ),
    *(
        Case(
            DecomposeShiftedWindowAttentionPattern,
            lambda shift=shift, options=options: nn.Sequential(  # type: ignore[misc]
                ShiftedWindowAttentionV2(8, [4, 4], [shift, shift], 2, **options)
            ),
            rand((2, 7, 8, 8)),
            becomes={"MHAInProjection": 1, "ScaledDotProductAttention": 1, "Linear": 3},
            traced=True,
        )
        for shift, options in ((0, {}), (2, {}), (2, {"qkv_bias": False}))
    ),
)

CASES = (*SELF, *CROSSED, *WHOLE, *FUSIONS, *WINDOW)
