"""Multiply-accumulates, held against torch's own counter."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from embedl_deploy import transform
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


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[Tensor, ...]]] = {
    "small": (small_net, (torch.randn(2, 3, 14, 14),)),
    "everything": (
        Everything,
        (torch.randn(2, 4, 6, 6), torch.randn(2, 5, 12), torch.randn(2, 5, 10)),
    ),
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


def test_without_example_inputs_nothing_is_counted() -> None:
    assert transform(small_net()).coverage is None


def test_a_result_prints_its_coverage() -> None:
    make, args = MODELS["small"]
    assert "100.0% of" in str(transform(make(), args))
