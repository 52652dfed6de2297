"""Multiply-accumulates, held against torch's own counter, and why some are in no fused module."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from embedl_deploy import Result, transform
from embedl_deploy.rewrite import Coverage
from embedl_deploy.table import amount, percent
from embedl_deploy.tensorrt import LinearPattern, PackedProjectionPattern
from tests.helpers import net


class Everything(nn.Module):
    """Convolutions of all kinds, attention with other key and value sizes, a matrix product."""

    def __init__(self) -> None:
        super().__init__()
        self.grouped = nn.Conv2d(4, 8, 3, groups=2, padding=1)
        self.up = nn.ConvTranspose2d(8, 4, 2, stride=2)
        self.attention = nn.MultiheadAttention(16, 2, kdim=12, vdim=10, batch_first=True)
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor, key: Tensor, value: Tensor) -> Tensor:
        query = self.up(self.grouped(x)).flatten(2)[:, :, :16]
        y, _ = self.attention(query, key, value, need_weights=False)
        return self.head(y @ y.transpose(1, 2) @ y)


class Dimensions(nn.Module):
    """Convolutions of one and of three dimensions, there and back."""

    def __init__(self) -> None:
        super().__init__()
        self.line, self.line_up = nn.Conv1d(4, 6, 3), nn.ConvTranspose1d(6, 4, 3, groups=2)
        self.cube, self.cube_up = nn.Conv3d(4, 6, 2, groups=2), nn.ConvTranspose3d(6, 4, 2)

    def forward(self, line: Tensor, cube: Tensor) -> tuple[Tensor, Tensor]:
        return self.line_up(self.line(line)), self.cube_up(self.cube(cube))


class Functions(nn.Module):
    """Products that are in no module, in many spellings."""

    def forward(self, x: Tensor) -> Tensor:
        y = torch.einsum("bij,bkj->bik", x, x) + torch.baddbmm(x[:, :, :1], x, x.mT)
        z = torch.addmm(y[0], x[0], x[1].mT).mm(y[1]) + F.linear(y[0], y[1])
        z = z + F.conv1d(y[:1], y[:, :, :1]).sum() + torch.tensordot(y, y, 3)
        y = (y + z)[:, None]
        return F.scaled_dot_product_attention(y, y, y, scale=y.shape[-1] ** -1)


class Recurrent(nn.Module):
    """Layers that stay whole, over several layers and in both directions."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(5, 7, 2, bidirectional=True, batch_first=True)
        self.rnn = nn.RNN(14, 3)
        self.cell = nn.GRUCell(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.rnn(self.gru(x)[0])
        return self.cell(y[0])


class Whole(nn.Module):
    """Attention that its conversion leaves whole, since the weights are used."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 2, kdim=12, vdim=10, batch_first=True)

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        return self.attention(query, key, value)


class Unusual(nn.Module):
    """What patterns do not take: functions with computed weights, recurrence, kept attention."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 6))
        self.kernel = nn.Parameter(torch.randn(4, 6, 3))
        self.lstm = nn.LSTM(8, 4, num_layers=2, bidirectional=True, batch_first=True)
        self.attention = nn.MultiheadAttention(8, 2, kdim=4, vdim=4)

    def forward(self, x: Tensor) -> Tensor:
        factor = x.mean()
        y = self.lstm(F.linear(x, self.weight * factor))[0]
        z = F.conv1d(x.transpose(1, 2), self.kernel * factor, padding=1).transpose(1, 2)
        attended, weights = self.attention(y, z, z)
        mixed = torch.einsum("nlc,nld->ncd", attended, y)
        return torch.baddbmm(mixed, attended.transpose(1, 2), y) + weights.sum()


def small_net() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(72, 5)
    )


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[Tensor, ...]]] = {
    "small": (small_net, (torch.randn(2, 3, 14, 14),)),
    "everything": (
        Everything,
        (torch.randn(2, 4, 6, 6), torch.randn(2, 5, 12), torch.randn(2, 5, 10)),
    ),
    # The LSTM of oneDNN, which has none for float64, is one kernel that torch does not count.
    "unusual": (lambda: Unusual().double(), (torch.randn(2, 5, 6, dtype=torch.float64),)),
    "dimensions": (Dimensions, (torch.randn(2, 4, 9), torch.randn(2, 4, 3, 4, 5))),
    "functions": (Functions, (torch.randn(3, 4, 5),)),
    "recurrent": (Recurrent, (torch.randn(2, 6, 5),)),
    "whole": (Whole, (torch.randn(2, 4, 16), torch.randn(2, 5, 12), torch.randn(2, 5, 10))),
}


def counted_by_torch(model: nn.Module, args: tuple[Tensor, ...]) -> int:
    """The fused attention kernels of the CPU are not counted (torch 2.13), the plain one is."""
    plain = sdpa_kernel(SDPBackend.MATH)
    with FlopCounterMode(display=False) as counter, torch.no_grad(), plain:
        model(*args)
    return counter.get_total_flops() // 2


def covered(result: Result) -> Coverage:
    assert result.coverage is not None
    return result.coverage


@pytest.mark.parametrize("name", MODELS)
def test_the_total_is_what_torch_counts(name: str) -> None:
    make, args = MODELS[name]
    model = make().eval()
    found = covered(transform(model, args))
    assert found.total == counted_by_torch(model, args) > 0


@pytest.mark.parametrize("name", MODELS)
def test_what_is_fused_and_the_rest_are_all(name: str) -> None:
    make, args = MODELS[name]
    found = covered(transform(make().eval(), args))
    counts = [one.macs or 0 for one in found.rest]
    assert counts == sorted(counts, reverse=True)
    assert all(counts)
    assert found.fused + sum(counts) == found.total
    assert all(one.reason for one in found.rest)


def test_a_second_transformation_counts_the_same() -> None:
    make, args = MODELS["everything"]
    first = transform(make().eval(), args)
    assert covered(transform(first.model, args)) == covered(first)


def test_what_torch_does_not_count_is_counted() -> None:
    args = (torch.randn(2, 3, 4), torch.randn(2, 3, 5))
    model = net(lambda m, x, y: m.one(x, y), one=nn.Bilinear(4, 5, 6))
    assert covered(transform(model, args)).total == 2 * 3 * 4 * 5 * 6
    sequence = (torch.randn(7, 2, 4),)  # on the CPU torch's LSTM is one kernel of its own
    model = net(lambda m, x: m.lstm(x)[0], lstm=nn.LSTM(4, 5, proj_size=3))
    assert covered(transform(model, sequence)).total == 7 * 2 * (20 * 4 + 20 * 3 + 3 * 5)


def test_a_projection_in_two_parts_counts_its_packed_weight() -> None:
    model = net(
        lambda m, x: torch.mul(*m.kv(x).view(2, 5, 2, 2, 3).permute(2, 0, 3, 1, 4).unbind(0)),
        kv=nn.Linear(8, 12),
    )
    result = transform(model, (torch.randn(2, 5, 8),), patterns=[PackedProjectionPattern])
    assert len(result.matches) == 1
    assert covered(result).total == 2 * 5 * 8 * 12


def test_what_no_pattern_took_is_not_covered() -> None:
    make, args = MODELS["small"]
    everything = covered(transform(make(), args))
    linear = covered(transform(make(), args, patterns=[LinearPattern]))
    assert everything.share == 1.0
    assert everything.rest == ()
    assert linear.fused == 2 * 72 * 5
    assert linear.total == everything.total
    (conv,) = linear.rest
    assert (conv.path, conv.kind, conv.macs) == ("0", "Conv2d", linear.total - linear.fused)


@torch.fx.wrap
def hidden(x: Tensor, weight: Tensor, sizes: list[int]) -> Tensor:
    """A function that tracing cannot look into, which writes to its own list and to an item."""
    sizes[0] = x.shape[0]
    y = F.linear(x, weight).view(sizes)
    y[:, 0] = 1.0
    return y


def test_what_tracing_does_not_look_into_is_counted() -> None:
    layers = {"first": nn.Linear(4, 8), "last": nn.Linear(8, 2)}
    model = net(lambda m, x: m.last(hidden(m.first(x), m.weight, [0, 8])), **layers)
    model.weight = nn.Parameter(torch.randn(8, 8))
    result = transform(model.eval(), (torch.randn(3, 4),), method="trace")
    assert result.coverage is not None
    (left,) = result.coverage.rest
    assert result.coverage == Coverage(3 * (32 + 64 + 16), 3 * (32 + 16), (left,))
    assert (left.kind, left.macs, left.weighted) == ("hidden", 3 * 64, False)
    assert left.reason == (
        "tracing does not look into 'hidden' (torch.fx.wrap); method='export' does"
    )
    other = transform(model, (torch.randn(3, 4),))  # falls back to torch.export
    assert other.coverage is not None
    assert other.coverage.total == result.coverage.total == other.coverage.fused


def test_without_example_inputs_nothing_is_counted() -> None:
    result = transform(small_net(), patterns=[LinearPattern])
    assert result.coverage is None
    assert [(one.kind, one.macs) for one in result.unfused] == [("Conv2d", None)]


def test_a_result_prints_its_coverage() -> None:
    make, args = MODELS["small"]
    assert "100.0% of 16.3 k multiply" in str(transform(make(), args))


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0"),
        (999, "999"),
        (1000, "1 k"),
        (12345, "12.3 k"),
        (999_499, "999 k"),
        (999_500, "1 M"),
        (4_089_184_256, "4.09 G"),
        (3 * 10**12, "3 T"),
        (5 * 10**15, "5e+03 T"),
    ],
)
def test_amounts_have_three_digits_and_a_unit(count: int, text: str) -> None:
    assert amount(count) == text


def test_a_share_that_is_not_all_does_not_read_so() -> None:
    assert [percent(one) for one in (0, 0.5, 0.99949, 0.99999, 1)] == [
        "0.0%",
        "50.0%",
        "99.9%",
        "99.9%",
        "100.0%",
    ]


# --- reasons -------------------------------------------------------------------------------------

REASONS: dict[str, tuple[Callable[..., Any], dict[str, Any], tuple[int, ...], str]] = {
    "a look-up in a table multiplies nothing": (
        lambda m, x: m.one((x > 0).long()),
        {"one": nn.Embedding(2, 3)},
        (2, 3),
        "Embedding",
    ),
    "a recurrent layer stays whole; no pattern describes a kernel of it": (
        lambda m, x: m.one(x)[0],
        {"one": nn.GRU(3, 4)},
        (2, 2, 3),
        "GRU",
    ),
    "no pattern in the list has a Bilinear": (
        lambda m, x: m.one(x, x),
        {"one": nn.Bilinear(3, 3, 4)},
        (2, 3),
        "Bilinear",
    ),
    "ConvBNPattern: no convolution is before it; TensorRT runs it as a scale layer in "
    "floating point, in one kernel with the activation after it": (
        lambda m, x: m.one(torch.cat([x, x], 1)),
        {"one": nn.BatchNorm2d(6)},
        (2, 3, 4, 4),
        "BatchNorm2d",
    ),
    "it multiplies with 'one', a tensor outside any layer": (
        lambda m, x: x @ m.one,
        {"one": nn.Parameter(torch.randn(3, 4))},
        (2, 3),
        "matmul",
    ),
    "no pattern in the list has a matmul of computed tensors": (
        lambda _, x: x @ x.mT,
        {},
        (2, 3),
        "matmul",
    ),
    "LinearBNPattern: its input has shape (2, 5, 5), so the norm is not over the features of the "
    "linear layer": (
        lambda m, x: m.one(m.linear(x)),
        {"linear": nn.Linear(3, 5), "one": nn.BatchNorm1d(5)},
        (2, 5, 3),
        "BatchNorm1d",
    ),
}


@pytest.mark.parametrize("reason", REASONS)
def test_what_is_left_says_why(reason: str) -> None:
    forward, parts, shape, kind = REASONS[reason]
    (left,) = transform(net(forward, **parts), (torch.randn(shape),)).left
    assert (left.kind, left.reason) == (kind, reason)
