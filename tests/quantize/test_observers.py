"""Observers against numpy, however the data comes in pieces."""

import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from embedl_deploy.errors import QuantizationError
from embedl_deploy.quantize import MinMaxObserver, Observer, PercentileObserver


def observed(observer: Observer, parts: list[Tensor]) -> float:
    for part in parts:
        observer.collect(part)
    largest = observer.compute()
    assert largest is not None
    assert largest.shape == ()
    return float(largest)


def growing(seed: int = 0) -> list[Tensor]:
    """Batches of growing and shrinking ranges, of different shapes."""
    generator = torch.Generator().manual_seed(seed)
    factors = (0.0, 1e-3, 1.0, 0.3, 50.0, 7.0, 4096.0, 0.01)
    shapes = ((7, 11, 13), (500,), (3, 1000), (5,), (10, 200), (64, 64), (30, 30), (9, 9))
    pairs = zip(factors, shapes, strict=True)
    return [torch.randn(shape, generator=generator) * factor for factor, shape in pairs]


OBSERVERS: dict[str, Callable[[], Observer]] = {
    "minmax": MinMaxObserver,
    "percentile": lambda: PercentileObserver(95),
    "fine": lambda: PercentileObserver(99.9, bins=6000),
    "median": lambda: PercentileObserver(50, bins=128),
}


def test_min_max_is_the_largest_magnitude() -> None:
    parts = growing()
    want = max(np.abs(part.numpy()).max() for part in parts)
    assert observed(MinMaxObserver(), parts) == want
    assert observed(MinMaxObserver(), [-part.abs() for part in parts]) == want


@pytest.mark.parametrize("percentile", [1, 50, 90, 99, 99.9, 100])
@pytest.mark.parametrize("bins", [64, 1000, 4096])
def test_a_percentile_is_numpys_to_one_bin(percentile: float, bins: int) -> None:
    parts = growing()
    magnitudes = np.abs(np.concatenate([part.numpy().ravel() for part in parts]))
    want = np.percentile(magnitudes, percentile, method="inverted_cdf")
    got = observed(PercentileObserver(percentile, bins), parts)
    width = 2 * magnitudes.max() / bins  # the range is at most twice the largest magnitude
    assert want <= got <= want + width


def test_percentile_100_is_min_max() -> None:
    parts = growing()
    assert observed(PercentileObserver(100), parts) == observed(MinMaxObserver(), parts)


@pytest.mark.parametrize("name", OBSERVERS)
def test_pieces_give_what_one_piece_gives(name: str) -> None:
    parts = growing()
    whole = torch.cat([part.flatten() for part in parts])
    assert observed(OBSERVERS[name](), parts) == observed(OBSERVERS[name](), [whole])


@pytest.mark.parametrize("name", OBSERVERS)
@pytest.mark.parametrize("seed", range(5))
def test_the_order_of_batches_does_not_matter(name: str, seed: int) -> None:
    parts = growing()
    shuffled = random.Random(seed).sample(parts, len(parts))  # noqa: S311 - no secret
    assert observed(OBSERVERS[name](), shuffled) == observed(OBSERVERS[name](), parts)


@given(st.lists(st.floats(0, 2.0**100, width=32), min_size=1, max_size=30), st.randoms())
def test_any_order_of_any_values(values: list[float], generator: random.Random) -> None:
    """Powers of two and zeros, the edges of bins, included."""
    parts = [torch.tensor([value]) for value in values]
    shuffled = generator.sample(parts, len(parts))
    results = {
        observed(PercentileObserver(70, bins=32), order)
        for order in (parts, shuffled, [torch.cat(parts)])
    }
    assert len(results) == 1


@pytest.mark.parametrize("first", [0.0, 1e-30])
def test_values_near_zero_do_not_blur_what_comes_after(first: float) -> None:
    parts = [torch.full((100,), first), torch.full((100,), 1e-3), torch.tensor([1e-3])]
    assert observed(PercentileObserver(40), parts) <= 2 * 1e-3 / 4096


@pytest.mark.parametrize("name", OBSERVERS)
def test_zeros_alone_give_zero(name: str) -> None:
    assert observed(OBSERVERS[name](), [torch.zeros(10), torch.zeros(3, 3)]) == 0


def test_counts_are_exact_above_what_float32_counts() -> None:
    """torch.histc counts in float32, which stops at 2^24."""
    zeros = torch.zeros(1).expand(2**25 + 2**20)
    observer = PercentileObserver(50, bins=2)
    observer.collect(zeros)
    assert observer._counts is not None
    assert observer._counts.sum() == 2**25 + 2**20


@pytest.mark.parametrize("name", OBSERVERS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_what_is_not_finite_shows_wherever_it_comes(name: str, bad: float, place: int) -> None:
    parts = [torch.randn(10), torch.randn(10)]
    parts.insert(place, torch.tensor([1.0, bad, 2.0]))
    assert not np.isfinite(observed(OBSERVERS[name](), parts))


@pytest.mark.parametrize("name", OBSERVERS)
def test_nothing_is_kept_but_bins(name: str) -> None:
    observer = OBSERVERS[name]()
    for _ in range(3):
        observer.collect(torch.randn(300, 300, requires_grad=True))
    kept = [value for value in vars(observer).values() if isinstance(value, Tensor)]
    assert kept
    for tensor in kept:
        assert tensor.untyped_storage().nbytes() <= 8 * getattr(observer, "bins", 1)
        assert not tensor.requires_grad


@pytest.mark.parametrize("name", OBSERVERS)
def test_reset_forgets(name: str) -> None:
    observer = OBSERVERS[name]()
    observer.collect(torch.tensor([100.0]))
    observer.reset()
    assert observer.compute() is None
    assert observed(observer, [torch.ones(7)]) == observed(OBSERVERS[name](), [torch.ones(7)])


@pytest.mark.parametrize("name", OBSERVERS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_floating_point_type(name: str, dtype: torch.dtype) -> None:
    parts = [part.clamp(-100, 100).to(dtype) for part in growing()]
    want = observed(OBSERVERS[name](), [part.float() for part in parts])
    assert observed(OBSERVERS[name](), parts) == want > 0


@pytest.mark.parametrize("percentile", [0, -1, 100.1, float("nan")])
def test_a_percentile_out_of_range_is_refused(percentile: float) -> None:
    with pytest.raises(QuantizationError, match="a percentile lies in"):
        PercentileObserver(percentile)


@pytest.mark.parametrize("bins", [0, 1, 7, -2])
def test_a_number_of_bins_that_is_not_even_is_refused(bins: int) -> None:
    with pytest.raises(QuantizationError, match="must be even"):
        PercentileObserver(99, bins)
