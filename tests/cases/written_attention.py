"""Attention and its projections, written out by hand."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from embedl_deploy.conversions.einsum import EinsumPattern
from embedl_deploy.conversions.fills import FillNumberPattern
from embedl_deploy.conversions.projection import (
    ComputedBiasPattern,
    PackedProjectionPattern,
    SplitProjectionPattern,
)
from embedl_deploy.conversions.written_attention import WrittenAttentionPattern
from tests.cases.case import Case, Near, rand
from tests.helpers import net

HEADS = rand((2, 3, 5, 4), (2, 3, 7, 4), (2, 3, 7, 6))
ATTENTION = {"ScaledDotProductAttention": 1, "Softmax": 0, "matmul": 0}
Function = Callable[..., Any]


def attend(function: Function, **parts: object) -> Callable[[], nn.Module]:
    return lambda: net(function, **parts)


def masked(m: Any, q: Tensor, k: Tensor, v: Tensor) -> Any:
    return (q @ k.mT + m.mask).softmax(-1) @ v


def filled(function: Function) -> Function:
    """Attention with something done to its logits."""
    return lambda m, q, k, v: function(m, q @ k.mT).softmax(-1) @ v


def bias(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape))


def windowed(before: Function, *masks: Function) -> Function:
    """Attention within windows, two for each image, that have masks of their own."""

    def forward(m: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        logits = before(m, q @ k.mT).view(-1, 2, 3, 5, 5)
        for mask in masks:
            logits = logits + mask(m)
        return logits.view(-1, 3, 5, 5).softmax(-1) @ v

    return forward


FAR = (
    Near(
        attend(
            lambda m, q, k, v: (
                ((q @ k.mT).view(-1, 3, 3, 5, 5) + m.window).view(-1, 3, 5, 5).softmax(-1) @ v
            ),
            window=bias(1, 3, 5, 5),
        ),
        "is not one for each window",
        rand((6, 3, 5, 4), (6, 3, 5, 4), (6, 3, 5, 6)),
    ),
    Near(
        attend(
            windowed(lambda _, a: a, lambda m: m.window, lambda m: m.window[:, 0, 0]),
            window=bias(1, 2, 3, 5, 5),
        ),
        "(1, 5, 5) is not one for each window",
    ),
    Near(
        attend(windowed(lambda _, a: a, lambda m: m.window), window=bias(5, 5)),
        "(5, 5) is not one for each window",
    ),
    Near(
        attend(windowed(lambda _, a: a, lambda m: m.window), window=bias(2, 1, 1, 5, 5)),
        "(2, 1, 1, 5, 5) is not one for each window",
    ),
    Near(
        attend(
            lambda m, q, k, v: (
                ((q @ k.mT).view(2, 3, 2, 5, 5) + m.window).view(-1, 3, 5, 5).softmax(-1) @ v
            ),
            window=bias(1, 3, 1, 5, 5),
        ),
        "is not one for each window",
    ),
)
WRITTEN = (
    *(
        Case(
            WrittenAttentionPattern,
            attend(function),
            HEADS,
            becomes=ATTENTION | {"mul": 0, "truediv": 0, "transpose": 0},
        )
        for function in (
            lambda _, q, k, v: (q @ k.transpose(-2, -1)).softmax(-1) @ v,
            lambda _, q, k, v: F.softmax(q @ k.transpose(3, 2) / 2.0, dim=-1) @ v,
            lambda _, q, k, v: torch.matmul(torch.softmax(0.3 * (q @ k.mT), 3), v),
            lambda _, q, k, v: (q @ (k.transpose(-1, -2) * 0.3)).softmax(-1) @ v,
            lambda _, q, k, v: (q @ (k.mT * 0.3) * 0.7).softmax(-1) @ v,
            lambda _, q, k, v: (q @ k.permute(0, 1, 3, 2) * 0.5).softmax(dim=-1) @ v,
        )
    ),
    Case(
        WrittenAttentionPattern,
        attend(lambda _, q, k, v: ((q * 0.3) @ (k * 0.5).mT).softmax(-1) @ v),
        HEADS,
        becomes=ATTENTION | {"mul": 2},
    ),
    Case(
        WrittenAttentionPattern,
        attend(lambda _, q, k, v: (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1) @ v),
        HEADS,
        becomes=ATTENTION,
    ),
    Case(
        WrittenAttentionPattern,
        attend(lambda _, q, k, v: (q @ k.permute(0, 2, 3, 1)).softmax(-1) @ v),
        rand((2, 3, 5, 4), (2, 7, 3, 4), (2, 3, 7, 6)),
        becomes=ATTENTION | {"permute": 1},
    ),
    Case(
        WrittenAttentionPattern,
        attend(lambda _, q, k, v: (q @ k).softmax(-1) @ v),
        rand((2, 5, 4), (2, 4, 7), (2, 7, 6)),
        becomes=ATTENTION | {"transpose": 1},
    ),
    *(
        Case(
            WrittenAttentionPattern,
            attend(lambda _, q, k, v: (torch.bmm(q, k.transpose(1, 2)) * 0.5).softmax(2) @ v),
            inputs,
            becomes=ATTENTION,
        )
        for inputs in (rand((6, 5, 4), (6, 7, 4), (6, 7, 3)), rand((1, 5, 4), (1, 1, 4), (1, 1, 3)))
    ),
    *(
        Case(
            WrittenAttentionPattern,
            attend(lambda m, q, k, v: (q @ k.mT * 0.5 + m.mask).softmax(-1) @ v, mask=bias(*shape)),
            HEADS,
            becomes=ATTENTION | {"add": 0},
        )
        for shape in ((5, 7), (1, 3, 5, 7), (2, 1, 1, 7), (3, 1, 1), ())
    ),
    *(
        Case(
            WrittenAttentionPattern,
            attend(function, **parts),
            rand((4, 3, 5, 4), (4, 3, 5, 4), (4, 3, 5, 6)),
            becomes=ATTENTION | {"reshape": 0, "add": adds},
            near=near,
        )
        for function, parts, adds, near in (
            (
                windowed(lambda m, a: a + m.bias, lambda m: m.window[:, None][None]),
                {"bias": bias(3, 5, 5), "window": bias(2, 5, 5)},
                1,
                FAR,
            ),
            (
                windowed(lambda _, a: a, lambda m: m.window[None]),
                {"window": bias(2, 3, 5, 5)},
                0,
                (),
            ),
            (
                windowed(lambda _, a: a, *[lambda m: m.window[:, None][None]] * 2),
                {"window": bias(2, 5, 5)},
                1,
                (),
            ),
            (
                windowed(
                    lambda m, a: a + m.bias, lambda m: m.window[None], lambda m: m.again[None]
                ),
                {"bias": bias(3, 5, 5), "window": bias(2, 1, 5, 5), "again": bias(2, 3, 5, 5)},
                2,
                (),
            ),
        )
    ),
    Case(
        WrittenAttentionPattern,
        attend(
            lambda m, q, k, v: (m.second + (m.first + q @ k.mT)).softmax(-1) @ v,
            first=bias(3, 5, 7),
            second=bias(2, 1, 1, 7),
        ),
        HEADS,
        becomes=ATTENTION | {"add": 1},
    ),
    *(
        Case(
            WrittenAttentionPattern,
            attend(
                lambda m, q, k, v: (
                    (
                        (F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).mT)
                        * m.scale.clamp(max=4.6).exp()
                        + m.mask
                    ).softmax(-1)
                    @ v
                ),
                scale=bias(*shape),
                mask=bias(3, 5, 7),
            ),
            HEADS,
            becomes=ATTENTION | {"mul": 1, "add": 0},
        )
        for shape in ((3, 1, 1), (5, 1), ())
    ),
    *(
        Case(
            WrittenAttentionPattern,
            attend(function, hidden=torch.ones(5, 7).triu(1) > 0, mask=torch.randn(5, 7)),
            HEADS,
            becomes=ATTENTION | {"add": 0, "where": 0, "masked_fill": 0, "logical_not": inverted},
        )
        for inverted, function in (
            (0, filled(lambda m, a: a.masked_fill(m.hidden, -torch.inf))),
            (0, filled(lambda m, a: (a * 0.3 + m.mask).masked_fill_(m.hidden, -1e4))),
            (0, filled(lambda m, a: a.masked_fill(m.hidden, -1.5) + m.mask)),
            (0, filled(lambda m, a: torch.where(m.hidden, -1e9, a))),
            (1, filled(lambda m, a: torch.where(~m.hidden, a, -3.4028234663852886e38) + m.mask)),
            (1, filled(lambda m, a: a.where(m.mask > 0, -20))),
        )
    ),
    Case(
        WrittenAttentionPattern,
        attend(lambda m, q, k, v: m.drop((q @ k.mT * 0.5).softmax(-1)) @ v, drop=nn.Dropout(0.4)),
        HEADS,
        becomes=ATTENTION | {"Dropout": 0},
        random=True,
        near=(
            Near(
                attend(lambda _, q, k, v: ((p := (q @ k.mT).softmax(-1)) @ v, p)),
                "softmax' is also used by 'output'",
            ),
            Near(
                attend(lambda _, q, k, v: (q @ k.mT).softmax(-2) @ v),
                "its softmax is over dimension -2, not over the keys",
            ),
            *(
                Near(
                    attend(lambda _, q, k, v: (q @ k.mT).softmax(0) @ v),
                    "its softmax is over dimension 0, not over the keys",
                    example=example,
                )
                for example in (True, False)
            ),
            Near(attend(masked, mask=bias(7)), "(7,) has no dimension for queries"),
            Near(
                attend(lambda _, q, k, v: (q[0, 0, 0] @ k[0, 0].mT).softmax(-1) @ v[0, 0]),
                "one of query, key and value is a vector",
            ),
            Near(
                attend(
                    lambda m, q, k, v: (q @ k.mT * m.scale).softmax(-1) @ v.double(),
                    scale=torch.tensor([2.0], dtype=torch.float64),
                ),
                "of type torch.float64, and they are torch.float32",
            ),
            Near(attend(lambda _, q, k, v: (q @ k.mT).sigmoid() @ v)),
            Near(
                attend(
                    filled(lambda m, a: a.masked_fill(m.hidden, -9.0) + m.mask),
                    hidden=torch.ones(5, 7).triu(1) > 0,
                    mask=bias(7),
                ),
                "(7,) has no dimension for queries",
            ),
            Near(
                attend(
                    filled(lambda m, a: a.masked_fill(m.hidden, m.fill)),
                    hidden=torch.ones(5, 7).triu(1) > 0,
                    fill=nn.Parameter(torch.tensor(-9.0)),
                ),
            ),
            Near(attend(lambda _, q, k, v: ((q @ k.mT) ** 2).softmax(-1) @ v)),
            Near(attend(lambda _, q, k, v: v.mT @ (q @ k.mT).softmax(-1).mT)),
            Near(
                attend(masked, mask=bias(2, 1, 3, 5, 7)),
                "does not broadcast to its logits (2, 3, 5, 7)",
            ),
            Near(
                attend(masked, mask=torch.randint(0, 9, (5, 7))),
                "its mask is of type torch.int64",
            ),
            Near(
                attend(lambda m, q, k, v: (q @ k.mT * m.scale).softmax(-1) @ v, scale=bias(5, 7)),
                "the factor on its logits has shape (5, 7), which differs between keys",
            ),
            Near(
                attend(masked, mask=bias(5, 7)),
                "the shape of its mask is not known; pass example inputs",
                example=False,
            ),
        ),
    ),
)


def filled_net(function: Callable[..., Any]) -> Any:
    """A network that fills in what a mask hides."""
    return net(function, mask=torch.rand(5, 7) > 0.5, fill=torch.tensor(-1e4))


FILLED = (
    *(
        Case(
            FillNumberPattern,
            partial(filled_net, function),
            rand((2, 3, 5, 7)),
            becomes={"full_like": 0, "full": 0, "new_full": 0, "tensor": 0},
        )
        for function in (
            lambda m, x: torch.where(m.mask, x, torch.full_like(x, -1e4)),
            lambda m, x: torch.where(m.mask, torch.full_like(x, fill_value=-torch.inf), x).exp(),
            lambda m, x: torch.where(m.mask, x, torch.full((), -9.0, dtype=x.dtype)),
            lambda m, x: torch.where(m.mask, x.new_full((1, 1), 3), x),
            lambda m, x: torch.where(m.mask, x, torch.tensor(-1e9)),
            lambda m, x: x.where(m.mask, m.fill),
            lambda m, x: x.masked_fill(m.mask, m.fill),
        )
    ),
    Case(
        FillNumberPattern,
        lambda: net(lambda m, x: x.masked_fill(x > m.fill, m.fill), fill=torch.tensor(0.5)),
        rand((2, 3, 5)),
        becomes={"masked_fill": 1},
        near=(
            Near(lambda: net(lambda _, x: torch.where(x > 0, x, 0.0))),
            Near(lambda: net(lambda _, x: torch.where(x > 0, x, x.exp()))),
            Near(
                lambda: net(lambda m, x: torch.where(x > 0, x, m.fill), fill=torch.randn(5)),
                "the values that it fills in differ",
            ),
            Near(
                lambda: net(
                    lambda m, x: torch.where(x > 0, x, m.fill), fill=torch.zeros(2, 1, 1, 1)
                ),
                "of shape (2, 1, 1, 1) into (2, 3, 5)",
            ),
            Near(
                lambda: net(lambda _, x: torch.where(x > 0, x, torch.full((1,), 2.0).double())),
                "it fills values of torch.float64 into torch.float32",
            ),
            Near(
                lambda: net(lambda m, x: torch.where(x > 0, x, m.fill), fill=torch.zeros(5)),
                "not known; pass example inputs",
                example=False,
            ),
        ),
    ),
)

EINSUM = (
    Case(
        EinsumPattern,
        attend(
            lambda _, q, k, v: torch.einsum(
                "b h i j, b h j d -> b h i d",
                torch.einsum("bhid,bhjd->bhij", q, k).softmax(-1),
                v,
            )
        ),
        HEADS,
        count=2,
        becomes={"einsum": 0, "matmul": 2, "transpose": 1},
        near=(
            Near(attend(lambda _, q, k, v: torch.einsum("bhid,bhjd->bhji", q, k) * v.mean())),
            Near(attend(lambda _, q, k, v: torch.einsum("bhid,bhjd->bij", q, k) * v.mean())),
            Near(
                attend(
                    lambda _, q, k, v: torch.einsum("bhid,bhjd->bhij", q[..., :1], k) * v.mean()
                ),
                "it sums over sizes 1 and 4 at once",
            ),
            Near(
                attend(
                    lambda _, q, k, v: (
                        torch.einsum(q, [0, 1, 2], k, [0, 3, 2], [0, 1, 3]) * v.mean()
                    )
                ),
                inputs=rand((2, 5, 4), (2, 7, 4), (2, 7, 6)),
            ),
            Near(attend(lambda _, q, k, v: torch.einsum("bhid->bhdi", q) * v.mean() * k.mean())),
        ),
    ),
)

TOKENS = rand((2, 5, 8))
PROJECTED = {"MHAInProjection": 1, "Linear": 1}


def attention(split: Function, **parts: object) -> Callable[[], nn.Module]:
    """Self-attention whose query, key and value come from `split(model, x)`."""

    def forward(m: Any, x: Tensor) -> Tensor:
        q, k, v = split(m, x)
        y = F.scaled_dot_product_attention(q, k, v)
        return m.proj(y.transpose(1, 2).flatten(2))

    def model() -> nn.Module:
        return net(forward, **{"qkv": nn.Linear(8, 24), "proj": nn.Linear(8, 8), **parts})

    return model


def packed(m: Any, x: Tensor) -> Tensor:
    batch, length, _ = x.shape
    return m.qkv(x).reshape(batch, length, 3, 2, 4).permute(2, 0, 3, 1, 4)


def items(m: Any, x: Tensor) -> tuple[Tensor, ...]:
    qkv = packed(m, x)
    return qkv[0], qkv[1], qkv[2]


def both(m: Any, x: Tensor) -> Tensor:
    batch, _, width = x.shape
    return m.kv(x).reshape(batch, -1, 2, 2, width // 2).permute(2, 0, 3, 1, 4)


def last_three(m: Any, x: Tensor) -> tuple[Tensor, ...]:
    _, q, k, v = m.qkv(x).reshape(2, 5, 4, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
    return q, k, v


def two_items(m: Any, x: Tensor) -> tuple[Tensor, ...]:
    kv = both(m, x)
    return kv[0], kv[1]


def reduced(split: Function, *, biased: bool = True) -> Callable[[], nn.Module]:
    """Attention to a shorter sequence, whose key and value come from `split(model, x)`."""

    def forward(m: Any, x: Tensor) -> Tensor:
        k, v = split(m, m.pool(x.transpose(1, 2)).transpose(1, 2))
        return F.scaled_dot_product_attention(heads(m.q(x)), k, v)

    return lambda: net(
        forward,
        q=nn.Linear(8, 8),
        pool=nn.AvgPool1d(2),
        kv=nn.Linear(8, 16, bias=biased),
    )


LAYOUT = "its output is not laid out as (N, L, 2 or 3, heads, size)"

PACKED = (
    *(
        Case(
            PackedProjectionPattern,
            attention(split, qkv=nn.Linear(8, 24, bias=biased)),
            TOKENS,
            becomes=PROJECTED | {"permute": 0, "reshape": 0},
        )
        for split, biased in (
            (items, False),
            (lambda m, x: m.qkv(x).view(2, 5, 3, 2, -1).permute(2, 0, 3, 1, 4), True),
            (lambda m, x: m.qkv(x).view(2, 5, 3, -1, 4).permute(2, 0, 3, 1, 4), True),
            (
                lambda m, x: m.qkv(x).view(2, 5, 3, x.shape[2] // 4, 4).permute(2, 0, 3, 1, 4),
                True,
            ),
        )
    ),
    Case(
        PackedProjectionPattern,
        attention(lambda m, x: packed(m, x).unbind(0)),
        TOKENS,
        becomes=PROJECTED | {"permute": 0, "reshape": 0},
        near=(
            Near(attention(lambda m, x: packed(m, x) * 2), "not read as query, key and value"),
            Near(
                attention(lambda m, x: m.qkv(x).reshape(2, 5, 2, 3, 4).permute(3, 0, 2, 1, 4)),
                LAYOUT,
            ),
            Near(
                attention(lambda m, x: m.qkv(x).reshape(2, 5, 2, 4, 3).permute(4, 0, 2, 1, 3)),
                LAYOUT,
            ),
            Near(
                attention(lambda m, x: m.qkv(x).reshape(5, 2, 3, 2, 4).permute(2, 0, 3, 1, 4)),
                "is not split as (N, L, 3, heads, size)",
            ),
            Near(
                attention(lambda m, x: [y + m.qkv(x).mean() for y in items(m, x)]),
                "used elsewhere",
            ),
            Near(
                attention(lambda m, x: packed(m, x).unbind(0)),
                "the shape of its output is not known; pass example inputs",
                example=False,
            ),
        ),
    ),
    Case(
        PackedProjectionPattern,
        reduced(two_items, biased=False),
        TOKENS,
        becomes=PROJECTED | {"permute": 0},
    ),
    Case(
        PackedProjectionPattern,
        reduced(lambda m, x: both(m, x).unbind(0)),
        TOKENS,
        becomes=PROJECTED | {"permute": 0},
        near=(
            Near(
                reduced(lambda m, x: (both(m, x) * 2).unbind(0)),
                "not read as query, key and value",
            ),
            Near(
                reduced(
                    lambda m, x: m.kv(x).reshape(2, 2, 2, 2, 4).permute(1, 0, 3, 2, 4).unbind(0)
                ),
                LAYOUT,
            ),
            Near(attention(last_three, qkv=nn.Linear(8, 32)), LAYOUT),
            Near(
                reduced(
                    lambda m, x: m.kv(x).reshape(1, 4, 2, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
                ),
                "is not split as (N, L, 2, heads, size)",
            ),
            Near(reduced(lambda m, x: [y + m.kv(x).mean() for y in both(m, x)]), "used elsewhere"),
            Near(
                reduced(lambda m, x: both(m, x).unbind(0)),
                "the shape of its output is not known; pass example inputs",
                example=False,
            ),
        ),
    ),
)


def split_heads(parts: Any) -> tuple[Tensor, ...]:
    q, k, v = parts
    return heads(q), heads(k), heads(v)


sdpa: Function = F.scaled_dot_product_attention


def heads(x: Tensor, count: int = 2) -> Tensor:
    return x.view(2, 5, count, -1).transpose(1, 2)


SPLIT = (
    *(
        Case(
            SplitProjectionPattern,
            attention(split),
            TOKENS,
            becomes=PROJECTED | {"ScaledDotProductAttention": 1, "chunk": 0, "split": 0},
        )
        for split in (
            lambda m, x: split_heads(m.qkv(x).chunk(3, dim=2)),
            lambda m, x: split_heads(m.qkv(x).split(x.size(-1), -1)),
            lambda m, x: split_heads(torch.split(m.qkv(x), [8, 8, 8], dim=-1)),
        )
    ),
    Case(
        SplitProjectionPattern,
        lambda: net(
            lambda m, x: sdpa(*split_heads(m.qkv(x).chunk(3, -1)), m.mask),
            qkv=nn.Linear(8, 24, bias=False),
            mask=torch.randn(5, 5),
        ),
        TOKENS,
        becomes={"MHAInProjection": 1, "ScaledDotProductAttention": 1},
        near=(
            Near(attention(lambda m, x: [y * 2 for y in split_heads(m.qkv(x).chunk(3, -1))])),
            Near(
                attention(lambda m, x: split_heads(m.qkv(x).chunk(3, -1))),
                "not known; pass example inputs",
                example=False,
            ),
            Near(
                lambda: net(
                    lambda m, x: sdpa(
                        heads((y := m.qkv(x).split((8, 4, 4), -1))[0]),
                        heads(y[1], 1),
                        heads(y[2], 1),
                        enable_gqa=True,
                    ),
                    qkv=nn.Linear(8, 16),
                ),
                "not split into heads alike",
            ),
        ),
    ),
)

COMPUTED = (
    Case(
        ComputedBiasPattern,
        lambda: net(
            lambda m, x: F.linear(x, m.qkv.weight, torch.cat((m.q, m.none, m.v))),
            qkv=nn.Linear(8, 24, bias=False),
            q=bias(8),
            v=bias(8),
            none=torch.zeros(8),
        ),
        TOKENS,
        becomes={"Linear": 1, "linear": 0, "add": 1},
        near=(
            Near(lambda: net(lambda m, x: F.linear(x, m.weight * 2), weight=bias(3, 8))),
            Near(
                lambda: net(
                    lambda m, x: F.linear(x, m.weight * 2, m.bias * 2),
                    weight=bias(3, 8),
                    bias=bias(3),
                )
            ),
            Near(
                lambda: net(
                    lambda m, x: F.linear(x, m.weight, m.bias),
                    weight=bias(3, 8),
                    bias=torch.ones(3),
                )
            ),
            Near(lambda: nn.Sequential(nn.Linear(8, 3))),
        ),
    ),
)

CASES = (*WRITTEN, *FILLED, *EINSUM, *PACKED, *SPLIT, *COMPUTED)
