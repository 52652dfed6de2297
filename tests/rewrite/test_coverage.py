"""Multiply-accumulates, held against torch's own counter."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from embedl_deploy import apply_transformation_plan, get_transformation_plan, transform
from embedl_deploy.tensorrt import LinearPattern


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


def small_net() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(72, 5)
    )


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


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[Tensor, ...]]] = {
    "small": (small_net, (torch.randn(2, 3, 14, 14),)),
    "everything": (
        Everything,
        (torch.randn(2, 4, 6, 6), torch.randn(2, 5, 12), torch.randn(2, 5, 10)),
    ),
    # The LSTM of oneDNN, which has none for float64, is one kernel that torch does not count.
    "unusual": (lambda: Unusual().double(), (torch.randn(2, 5, 6, dtype=torch.float64),)),
}


def counted_by_torch(model: nn.Module, args: tuple[Tensor, ...]) -> int:
    """The fused attention kernels of the CPU are not counted (torch 2.13), the plain one is."""
    plain = sdpa_kernel(SDPBackend.MATH)
    with FlopCounterMode(display=False) as counter, torch.no_grad(), plain:
        model(*args)
    return counter.get_total_flops() // 2


@pytest.mark.parametrize("name", MODELS)
def test_the_total_is_what_torch_counts(name: str) -> None:
    make, args = MODELS[name]
    model = make().eval()
    found = transform(model, args).coverage
    assert found is not None
    assert found.total == counted_by_torch(model, args)


def test_what_no_pattern_took_is_not_covered() -> None:
    make, args = MODELS["small"]
    everything = transform(make(), args).coverage
    linear = transform(make(), args, patterns=[LinearPattern]).coverage
    assert everything is not None
    assert everything.share == 1.0
    assert linear is not None
    assert linear.fused == 2 * 72 * 5
    assert linear.total == everything.total


def test_the_rest_is_listed_with_reasons_the_largest_first() -> None:
    make, args = MODELS["unusual"]
    found = transform(make().eval(), args).coverage
    assert found is not None
    assert found.share < 0.1
    assert sum(one.multiply_accumulates for one in found.rest) == found.total - found.fused
    listed = {one.kind: one.reason for one in found.rest}
    kinds = {"LSTM", "MultiheadAttention", "linear", "conv1d", "einsum", "baddbmm"}
    assert kinds <= listed.keys()
    assert "weights" in listed["MultiheadAttention"]
    counts = [one.multiply_accumulates for one in found.rest]
    assert counts == sorted(counts, reverse=True)


def test_what_is_switched_off_says_so() -> None:
    make, args = MODELS["small"]
    plan = get_transformation_plan(make(), args)
    plan.matches[-1].apply = False
    found = apply_transformation_plan(plan).coverage
    assert found is not None
    (rest,) = found.rest
    assert "switched off in the plan" in rest.reason
    assert "Not fused" in str(found)


def test_without_example_inputs_nothing_is_counted() -> None:
    assert transform(small_net()).coverage is None


def test_a_result_prints_its_coverage() -> None:
    make, args = MODELS["small"]
    assert "100.0% of" in str(transform(make(), args))
