"""Observers against numpy, however the data comes in pieces."""

import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils import _pytree as pytree

from embedl_deploy.errors import QuantizationError
from embedl_deploy.quantize import (
    EntropyObserver,
    Grid,
    MinMaxObserver,
    MovingAverageObserver,
    MSEObserver,
    Observer,
    PercentileObserver,
)
from embedl_deploy.quantize.observing.histogram import computed
from embedl_deploy.quantize.rounding import FLOAT8, INT8, fake_quantize, scale_of


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
    "mse": MSEObserver,
    "entropy": EntropyObserver,
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


@pytest.mark.slow
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
    """A histogram in float32 would stop at 2^24."""
    zeros = torch.zeros(1).expand(2**25 + 2**20)
    observer = PercentileObserver(50, bins=2)
    observer.collect(zeros)
    histogram = observer.histogram()
    assert histogram is not None
    assert histogram[0].sum() == 2**25 + 2**20


@pytest.mark.parametrize("name", [*OBSERVERS, "average"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_what_is_not_finite_shows_wherever_it_comes(name: str, bad: float, place: int) -> None:
    parts = [torch.randn(10), torch.randn(10)]
    parts.insert(place, torch.tensor([1.0, bad, 2.0]))
    make = OBSERVERS.get(name, MovingAverageObserver)
    assert not np.isfinite(observed(make(), parts))


@pytest.mark.parametrize("name", OBSERVERS)
def test_nothing_is_kept_but_bins(name: str) -> None:
    observer = OBSERVERS[name]()
    for _ in range(30):
        observer.collect(torch.randn(300, 300, requires_grad=True))
    leaves = pytree.tree_leaves(vars(observer))
    kept = [value for value in leaves if isinstance(value, Tensor)]
    assert 0 < len(kept) < 24
    for tensor in kept:
        assert tensor.untyped_storage().nbytes() <= 8 * (getattr(observer, "bins", 0) + 1)
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


def test_a_moving_average_is_numpys() -> None:
    parts = growing()
    want = np.abs(parts[0].numpy()).max()
    for part in parts[1:]:
        want = 0.8 * want + 0.2 * np.abs(part.numpy()).max()
    assert observed(MovingAverageObserver(0.2), parts) == pytest.approx(want, rel=1e-5)
    observer = MovingAverageObserver()
    observer.collect(torch.ones(3) * 5)
    observer.reset()
    assert observer.compute() is None
    assert observed(observer, [torch.ones(7)]) == 1


@pytest.mark.parametrize("momentum", [0, -0.1, 1.5, float("nan")])
def test_a_momentum_out_of_range_is_refused(momentum: float) -> None:
    with pytest.raises(QuantizationError, match="a momentum lies in"):
        MovingAverageObserver(momentum)


def shaped(name: str, seed: int = 0) -> Tensor:
    """Values as networks have them: two-sided, one-sided with zeros, with outliers, even."""
    generator = torch.Generator().manual_seed(seed)
    normal = torch.randn(20_000, generator=generator)
    outliers = normal.clone()
    outliers[:20] *= 12
    even = torch.rand(20_000, generator=generator) * 2 - 1
    tails = normal.sign() * normal.abs().exp().square()
    return {
        "normal": normal,
        "relu": normal.relu(),
        "outliers": outliers,
        "even": even,
        "tails": tails,
        "tiny": normal * 1e-20,
    }[name]


SHAPES = ("normal", "relu", "outliers", "even", "tails", "tiny")
GRIDS = {"int8": INT8, "int4": Grid(-8, 7), "unsigned": Grid(0, 255), "fp8": FLOAT8}


def squared_error(values: Tensor, largest: float, grid: Grid) -> float:
    scale = scale_of(torch.tensor(largest), grid.highest)
    rounded = fake_quantize(values, scale, grid)
    return float((rounded.double() - values.double()).square().mean())


@pytest.mark.slow
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("name", SHAPES)
def test_the_squared_error_is_nearly_the_least_there_is(name: str, grid: str) -> None:
    values, numbers = shaped(name), GRIDS[grid]
    values = values.abs() if grid == "unsigned" else values
    observer = MSEObserver()
    for part in values.split(3000):
        observer.collect(part)
    largest = observer.compute(numbers)
    assert largest is not None
    peak = float(values.abs().max())
    least = min(
        squared_error(values, peak * share, numbers) for share in np.geomspace(0.02, 1.0, 200)
    )
    got = squared_error(values, float(largest), numbers)
    assert got <= 1.05 * least
    assert got <= squared_error(values, peak, numbers)
    if name == "outliers" and grid == "int4":
        assert got < 0.15 * squared_error(values, peak, numbers)


def divergence(counts: np.ndarray, kept: int, levels: int) -> float:
    """As in the paper, bin by bin."""
    inside, clipped = counts[:kept], counts[:kept].copy()
    clipped[-1] += counts[kept:].sum()
    rounded = np.zeros(kept)
    for level in range(levels):
        of = [index for index in range(kept) if index * levels // kept == level]
        filled = [index for index in of if inside[index] > 0]
        for index in filled:
            rounded[index] = inside[of].sum() / len(filled)
    p, q = clipped / clipped.sum(), rounded / rounded.sum()
    if (q[p > 0] == 0).any():
        return np.inf
    return float((p[p > 0] * np.log(p[p > 0] / q[p > 0])).sum())


@pytest.mark.parametrize("name", SHAPES)
def test_the_entropy_is_that_of_the_paper(name: str) -> None:
    magnitudes, levels = np.abs(shaped(name).numpy()).astype(np.float64), 8
    limit = 2.0 ** np.ceil(np.log2(magnitudes.max()))
    counts = np.histogram(magnitudes, 128, (0, limit))[0].astype(float)
    used = int(np.nonzero(counts)[0].max()) + 1
    counts = counts[:used]
    counts[0] = counts[1]
    least = min(divergence(counts, kept, levels) for kept in range(levels, used + 1))
    observer = EntropyObserver(128)
    observer.collect(shaped(name))
    largest = observer.compute(Grid(-8, 7))
    assert largest is not None
    kept = round(float(largest) / (limit / 128))
    assert divergence(counts, kept, levels) == pytest.approx(least, abs=1e-9)


def test_entropy_clips_what_is_rare_and_keeps_what_is_not() -> None:
    outliers = shaped("outliers")
    assert 2.5 < observed(EntropyObserver(), [outliers]) < 0.4 * float(outliers.abs().max())
    assert observed(EntropyObserver(), [shaped("even")]) > 0.95


def test_entropy_is_for_integers() -> None:
    observer = EntropyObserver()
    observer.collect(torch.ones(3))
    with pytest.raises(QuantizationError, match="take MSEObserver for FP8"):
        observer.compute(FLOAT8)


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("name", [*OBSERVERS, "average"])
def test_an_axis_is_several_tensors(name: str, axis: int) -> None:
    make = OBSERVERS.get(name, MovingAverageObserver)
    factors = torch.tensor([1e-3, 0.0, 1.0, 30.0])
    parts = [torch.randn(50, 60, 4) * factors for _ in range(3)]
    parts = [part.movedim(-1, axis) for part in parts]
    whole = make()
    whole.axis = axis
    for part in parts:
        whole.collect(part)
    largest = whole.compute()
    assert largest is not None
    want = [observed(make(), [part.select(axis, index) for part in parts]) for index in range(4)]
    assert largest.tolist() == pytest.approx(want, rel=1e-6)


@pytest.mark.parametrize("name", OBSERVERS)
def test_merged_is_what_one_would_have_seen(name: str) -> None:
    parts = growing()
    observers = [OBSERVERS[name]() for _ in range(4)]
    for index, part in enumerate(parts):
        observers[index % 3].collect(part)  # the last sees nothing
    for first in (0, 3):
        merged = OBSERVERS[name]()
        for index in range(4):
            merged.merge(observers[(first + index) % 4])
        assert observed(merged, []) == observed(OBSERVERS[name](), parts)
        assert merged.lowest is not None
        assert merged.lowest == min(part.min() for part in parts)
    assert observers[3].compute() is None


def test_a_merged_moving_average_weighs_by_batches() -> None:
    one, other = MovingAverageObserver(), MovingAverageObserver()
    for _ in range(3):
        one.collect(torch.ones(2))
    other.collect(torch.ones(2) * 5)
    one.merge(MovingAverageObserver())
    one.merge(other)
    assert one.compute() == 2


class Own(Observer):
    """An observer that somebody wrote for one process."""

    def collect(self, tensor: Tensor) -> None: ...

    def compute(self, grid: Grid | None = None) -> Tensor:
        return torch.tensor(1.0)

    def reset(self) -> None: ...


def test_an_observer_that_can_not_be_merged_says_so() -> None:
    with pytest.raises(QuantizationError, match=r"Own has no merge\(\)"):
        Own().merge(Own())


@pytest.mark.parametrize("grid", [INT8, FLOAT8, Grid(0, 255)])
def test_observers_that_are_asked_together_choose_as_each_alone(grid: Grid) -> None:
    kinds = [name for name in OBSERVERS if not (grid.float8 and name == "entropy")]
    observers = [OBSERVERS[name]() for name in kinds for _ in range(3)]
    for seed, observer in enumerate(observers):
        for part in growing(seed)[: 8 - seed % 4]:
            observer.collect(part)
    observers[1].collect(torch.tensor([float("inf")]))
    observers.append(MSEObserver())
    found = computed((one, grid) for one in observers)
    assert found[-1] is None
    assert found[:-1] == [one.compute(grid) for one in observers[:-1]]
    assert found[1] == float("inf")
