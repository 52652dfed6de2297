"""Factors on channels: they change nothing, wherever the walk through a model allows them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import BertConfig, BertModel, LlamaConfig, LlamaModel

from embedl_deploy import transform
from embedl_deploy.quantize.correcting.rescale.report import rescaling
from tests.helpers import assert_close, net, run, warm
from tests.quantize.nets import NETS, batches, ready
from tests.quantize.rescaled import rescaled

CHANNELS = 4


@dataclass(frozen=True)
class Step:
    """An operation, and which values it takes."""

    op: str
    first: int
    second: int


class Machine(nn.Module):
    """Runs steps over images (N, 4, H, W); every layer is used once, and every value read."""

    def __init__(self, steps: Sequence[Step]) -> None:
        super().__init__()
        self.steps = tuple(steps)
        self.layers = nn.ModuleList(LAYERS.get(step.op, nn.Identity)() for step in self.steps)
        self.heads = nn.ModuleList(nn.Conv2d(CHANNELS, 2, 1) for _ in range(len(steps) + 1))
        self.stem = nn.Conv2d(CHANNELS, CHANNELS, 1)

    def forward(self, x: Tensor) -> Any:
        values = [self.stem(x)]
        for index, step in enumerate(self.steps):
            first, second = (values[at % len(values)] for at in (step.first, step.second))
            values.append(OPERATIONS[step.op](self.layers[index], first, second))
        return [head(one).mean((2, 3)) for head, one in zip(self.heads, values, strict=True)]


def attended(layers: Any, a: Tensor, b: Tensor) -> Tensor:
    """Attention of two heads over the pixels of one value to those of another."""
    mine, other = (one.flatten(2).transpose(1, 2) for one in (a, b))
    query, key, value = (
        layer(one).reshape(one.shape[0], one.shape[1], 2, 2).transpose(1, 2)
        for layer, one in zip(layers, (mine, other, other), strict=True)
    )
    mixed = F.scaled_dot_product_attention(query, key, value)
    return mixed.transpose(1, 2).flatten(2).transpose(1, 2).reshape(a.shape)


def normed(norm: Any, a: Tensor, _: Tensor) -> Tensor:
    result: Tensor = norm(a.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    return result


def windowed(linear: Any, a: Tensor, _: Tensor) -> Tensor:
    """A linear layer over the channels of 2×2 pixels, shifted and padded as windows are."""
    n, c, height, width = a.shape
    moved = F.pad(torch.roll(a.permute(0, 2, 3, 1), (1, 1), (1, 2)), (0, 0, 0, 2, 0, 2))
    parts = moved.reshape(n, (height + 2) // 2, 2, (width + 2) // 2, 2, c).permute(0, 1, 3, 2, 4, 5)
    mixed = linear(parts).permute(0, 5, 1, 3, 2, 4).reshape(n, c, height + 2, width + 2)
    result: Tensor = mixed[:, :, :height, :width]
    return result


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "conv": lambda: nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1),
    "conv norm relu": lambda: nn.Sequential(
        nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1), nn.BatchNorm2d(CHANNELS), nn.ReLU()
    ),
    "conv relu6": lambda: nn.Sequential(nn.Conv2d(CHANNELS, CHANNELS, 1), nn.ReLU6()),
    "depthwise": lambda: nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, groups=CHANNELS),
    "grouped": lambda: nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, groups=2, bias=False),
    "transposed": lambda: nn.ConvTranspose2d(CHANNELS, CHANNELS, 3, padding=1, groups=2),
    "residual": lambda: nn.Sequential(
        nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1), nn.BatchNorm2d(CHANNELS)
    ),
    "inner relu": lambda: nn.Conv2d(CHANNELS, CHANNELS, 1),
    "layer scale": lambda: net(
        lambda m, a: m.conv(a) * m.factors.reshape(-1, 1, 1),
        conv=nn.Conv2d(CHANNELS, CHANNELS, 1),
        factors=nn.Parameter(torch.rand(CHANNELS)),
    ),
    "written": lambda: net(
        lambda m, a: a / a.std((1, 2, 3), keepdim=True) * m.gain + m.shift,
        gain=nn.Parameter(torch.rand(CHANNELS, 1, 1)),
        shift=nn.Parameter(torch.rand(1, CHANNELS, 1, 1)),
    ),
    "affine": lambda: net(
        lambda m, a: (m.gain * a + m.shift) / m.share,
        gain=nn.Parameter(torch.rand(CHANNELS, 1, 1)),
        shift=nn.Parameter(torch.rand(CHANNELS, 1, 1)),
        share=nn.Parameter(torch.rand(CHANNELS, 1, 1)),
    ),
    "layer norm": lambda: nn.LayerNorm(CHANNELS),
    "group norm": lambda: nn.GroupNorm(2, CHANNELS),
    "attention": lambda: nn.ModuleList(nn.Linear(CHANNELS, CHANNELS) for _ in range(3)),
    "window": lambda: nn.Linear(CHANNELS, CHANNELS),
    "flat": lambda: nn.Linear(CHANNELS * 36, CHANNELS),
}
OPERATIONS: dict[str, Callable[[Any, Tensor, Tensor], Tensor]] = {
    **dict.fromkeys(
        ("conv", "conv norm relu", "conv relu6", "depthwise", "grouped"), lambda m, a, _: m(a)
    ),
    "transposed": lambda m, a, _: m(a),
    "residual": lambda m, a, b: F.leaky_relu(b + m(a)),
    "written": lambda m, a, _: m(a),
    "affine": lambda m, a, _: m(a),
    "inner relu": lambda m, a, b: b + F.relu(m(a)),
    "layer scale": lambda m, a, b: b + m(a),
    "layer norm": normed,
    "group norm": lambda m, a, _: m(a),
    "attention": attended,
    "window": windowed,
    "flat": lambda m, a, _: m(a.flatten(1))[:, :, None, None].expand_as(a),
    "relu": lambda _, a, __: F.relu(a),
    "sigmoid": lambda _, a, __: torch.sigmoid(a),
    "gate": lambda _, a, b: a * torch.sigmoid(b.mean((2, 3), keepdim=True)),
    "add": lambda _, a, b: a + b,
    "scale": lambda _, a, __: a * 1.5,
    "swap": lambda _, a, __: torch.cat([a[:, 2:], -a[:, :2]], 1),
    "rotate": lambda _, a, b: a * 0.6 + torch.cat([-b[:, 2:], b[:, :2]], 1) * 0.8,
    "halves": lambda _, a, b: torch.cat([a.chunk(2, 1)[0], b.chunk(2, 1)[1]], 1),
    "max pool": lambda _, a, __: F.max_pool2d(a, 3, 1, 1),
    "average pool": lambda _, a, __: F.avg_pool2d(a, 3, 1, 1),
    "shuffle": lambda _, a, __: F.pixel_unshuffle(F.pixel_shuffle(a, 2), 2),
    "turn": lambda _, a, __: a.transpose(2, 3).flip(1),
}
steps = st.builds(
    Step,
    st.sampled_from([*OPERATIONS]),
    st.sampled_from((-1, -1, -1, -2, -3, 0)),  # recent values more often, so that chains grow
    st.sampled_from((-1, -2, -3, 0)),
)


def test_random_factors_change_no_random_network() -> None:
    scaled: list[bool] = []

    @settings(max_examples=40, derandomize=True)
    @given(st.lists(steps, min_size=1, max_size=8))
    def compare(drawn: list[Step]) -> None:
        torch.manual_seed(len(drawn))
        model = warm(Machine(drawn)).double().eval()
        x = torch.randn(2, CHANNELS, 6, 6, dtype=torch.float64)
        result = transform(model, (x,))
        _, factors = rescaled(result.model, (x,))
        scaled.append(bool((factors != 1).any()))
        assert_close(run(result.model, (x,)), run(model, (x,)), 1e-10)

    compare()
    assert sum(scaled) > 30


def llama() -> tuple[nn.Module, Tensor]:
    """Norms, rotary embeddings, heads that share keys, and a gate."""
    config = LlamaConfig(
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=24,
        vocab_size=20,
        use_cache=False,
    )
    return LlamaModel(config), torch.randint(0, 20, (2, 5))


def bert() -> tuple[nn.Module, Tensor]:
    config = BertConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=24,
        vocab_size=20,
    )
    return BertModel(config), torch.randint(0, 20, (2, 5))


def cross() -> tuple[nn.Module, Tensor]:
    """Attention to another tensor, whose sizes differ."""

    def forward(self: Any, x: Tensor) -> Any:
        query, other = self.norm(self.query(x)), self.other(x)
        return self.head(self.attention(query, other, other, need_weights=False)[0])

    parts = {
        "query": nn.Linear(6, 8),
        "other": nn.Linear(6, 12),
        "norm": nn.LayerNorm(8),
        "attention": nn.MultiheadAttention(8, 2, kdim=12, vdim=12, batch_first=True),
        "head": nn.Linear(8, 3),
    }
    return net(forward, **parts), torch.randn(2, 5, 6)


def shorter() -> tuple[nn.Module, Tensor]:
    """Attention whose key and value, from one weight, are of every other token."""

    def forward(self: Any, x: Tensor) -> Any:
        query = self.query(x).unflatten(2, (2, 4)).transpose(1, 2)
        kv = self.kv(self.norm(x[:, ::2])).reshape(2, -1, 2, 2, 4).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, *kv.unbind(0))
        return self.head(mixed.transpose(1, 2).flatten(2))

    parts = {"query": nn.Linear(6, 8), "norm": nn.LayerNorm(6), "kv": nn.Linear(6, 16)}
    return net(forward, **parts, head=nn.Linear(8, 3)), torch.randn(2, 5, 6)


def tokens() -> tuple[nn.Module, Tensor]:
    """Attention to the tokens of two layers, one after the other's: no channel has one factor."""

    def forward(self: Any, x: Tensor) -> Any:
        both = torch.cat([self.mine(x), self.other(x[:, :2])], 1)
        query, other = (one.unflatten(2, (2, 4)).transpose(1, 2) for one in (self.query(x), both))
        mixed = F.scaled_dot_product_attention(query, other, other)
        return self.head(torch.relu(self.hidden(mixed.transpose(1, 2).flatten(2))))

    names = ("mine", "other", "query")
    layers = {name: nn.Linear(6, 8) for name in names}
    return net(forward, **layers, hidden=nn.Linear(8, 8), head=nn.Linear(8, 3)), torch.randn(
        2, 5, 6
    )


def images(name: str) -> Callable[[], tuple[nn.Module, Tensor]]:
    return lambda: (ready(NETS[name]), batches(1)[0])


KNOWN: dict[str, tuple[Callable[[], tuple[nn.Module, Tensor]], int, int]] = {
    "vit": (images("vit"), 11, 3),
    "convnext": (images("convnext"), 4, 5),
    "bert": (bert, 3, 6),
    "llama": (llama, 9, 0),
    "cross": (cross, 6, 2),
    "shorter": (shorter, 4, 1),
    "tokens": (tokens, 1, 6),
}
"""Models, and how many inputs of their layers take factors and how many do not."""


@pytest.mark.parametrize("name", KNOWN)
def test_random_factors_change_no_known_network(name: str) -> None:
    make, free, held = KNOWN[name]
    model, x = make()
    model = warm(model).eval()
    result = transform(model, (x,))
    result.model.double()
    x = x.double() if x.is_floating_point() else x
    before = run(result.model, (x,))
    channels, factors = rescaled(result.model, (x,))
    assert_close(run(result.model, (x,)), before, 1e-6 if name == "llama" else 1e-10)
    rows = rescaling(channels, factors)
    assert (len(rows.scaled), len(rows.left)) == (free, held)
    assert all(row.largest / row.smallest > 1.5 for row in rows.scaled)
    assert all(row.reason for row in rows.left)
