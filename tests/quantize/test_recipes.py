"""The accurate recipe: better where something helps, never worse, and honest about it."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from embedl_deploy import Result, transform
from embedl_deploy.errors import QuantizationError
from embedl_deploy.quantize import (
    PercentileObserver,
    QuantConfig,
    TensorQuantConfig,
    accurate,
    quantize,
    recipe_report,
    restore,
)
from embedl_deploy.quantize.measuring.noise import Noise
from embedl_deploy.quantize.measuring.onepass import inner_pooled_layers, outer_layers
from tests.helpers import assert_untouched, run, snapshot
from tests.quantize.nets import batches, ready

SHAPE = (3, 8, 8)
COARSE = QuantConfig(weights=TensorQuantConfig(4))
FLOAT = ["last layers in floating point", "first layers in floating point"]
NAMES = ["smooth", "equalize", "MSE observers", *FLOAT, "adaround", "correct_bias"]


def images(seed: int) -> list[Tensor]:
    """Neighbouring pixels are alike."""
    small = batches(4, 8, (3, 3, 3), seed)
    return [F.interpolate(one, SHAPE[1:], mode="bilinear") for one in small]


DATA, OTHERS = images(2), images(3)


class Net(nn.Module):
    """Two convolutions and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.conv, self.head = nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.conv(torch.relu(self.norm(self.stem(x)))))
        logits: Tensor = self.head(y.mean((2, 3)))
        return logits


def made() -> Result:
    return transform(ready(Net, SHAPE), (DATA[0],))


def sqnr(model: fx.GraphModule, result: Result) -> float:
    noise = Noise()
    for batch in OTHERS:
        noise.add(run(result.model.eval(), [batch]), run(model, [batch]))
    return noise.sqnr_db


def test_the_accurate_recipe_is_nearer_to_floating_point() -> None:
    result = made()
    before = snapshot(result.model)
    seen: list[tuple[int, int | None]] = []
    fast = quantize(result, DATA, COARSE)
    model = quantize(
        result, DATA, COARSE, recipe="accurate", progress=lambda *call: seen.append(call)
    )
    assert_untouched(result.model, before)
    assert sqnr(model, result) > sqnr(fast, result) + 4
    assert seen == [(count, 8) for count in range(1, 9)]
    report = recipe_report(model)
    assert [step.name for step in report.steps] == NAMES
    assert report.held_out
    assert str(report).splitlines()[0].split() == ["Step", "Before", "After", "Needed", "Kept"]


def test_a_step_is_kept_where_it_gains_what_it_needs() -> None:
    steps = recipe_report(quantize(made(), DATA, COARSE, recipe="accurate")).steps
    assert any(step.kept for step in steps)
    for step, following in pairwise(steps):
        assert step.kept == (step.after_db - step.before_db > step.needed_db)
        assert step.needed_db >= (0.3 if step.name in FLOAT else 0.0)
        if following.name != "adaround":  # from there on, other batches judge
            assert following.before_db == (step.after_db if step.kept else step.before_db)


@pytest.mark.parametrize(
    ("gains", "kept"),
    [
        ([0.5, 0.4, 0.5, 0.4], True),
        ([0.5, -0.4, 0.4, -0.3], False),  # a chance
        ([0.0, 0.0, 0.0, 0.0], False),
        ([-0.5, -0.4, -0.5, -0.4], False),
    ],
)
def test_a_gain_is_more_than_a_chance(gains: list[float], *, kept: bool) -> None:
    work = accurate._Work(made().model, DATA[:4], QuantConfig())
    scores = [one + gain for one, gain in zip(work.scores, gains, strict=True)]
    assert work._kept("a step", scores) == kept
    assert work.steps[0].kept == kept


def test_every_batch_counts_alike() -> None:
    model = made().model
    (good, wanted), (bad, _) = ((one, model(one)) for one in DATA[:2])
    judged = [((good,), wanted * 1.001), ((bad,), torch.zeros_like(wanted) + 1)]
    first, second = accurate._scores(model, judged)
    assert first == pytest.approx(60, abs=0.1)
    assert second < 10


def test_the_state_dict_restores_it() -> None:
    model = quantize(made(), DATA, COARSE, recipe="accurate")
    again = restore(made(), recipe_report(model).config, model.state_dict())
    assert torch.equal(run(again.eval(), DATA[:1]), run(model, DATA[:1]))


def test_fine_weights_are_rounded_to_the_nearest() -> None:
    report = recipe_report(quantize(made(), DATA, recipe="accurate"))
    assert [step.name for step in report.steps] == [n for n in NAMES if n != "adaround"]


def test_an_observer_that_was_chosen_stays() -> None:
    config = QuantConfig(TensorQuantConfig(observer=PercentileObserver), COARSE.weights)
    report = recipe_report(quantize(made(), DATA, config, recipe="accurate"))
    assert [step.name for step in report.steps] == [n for n in NAMES if n != "MSE observers"]


def test_a_classifier_that_quantizes_badly_stays_in_floating_point(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source: Any = ready(Net, SHAPE)
    with torch.no_grad():  # a channel that is never active takes the range of the weights
        source.conv.weight[0], source.conv.bias[0] = 0.0, -1.0
        source.head.weight[:, 0] = 50.0
    result = transform(source, (DATA[0],))
    for name in ("smooth", "equalize"):  # which would move the range away
        monkeypatch.setattr(accurate, name, lambda *_: None)
    model = quantize(result, DATA, recipe="accurate")
    kept = [step.name for step in recipe_report(model).steps if step.kept]
    assert FLOAT[0] in kept
    assert "'head'" in [str(one) for one in recipe_report(model).config.skips]
    assert sqnr(model, result) > sqnr(quantize(result, DATA), result) + 6


def test_ranges_are_judged_by_batches_that_did_not_give_them() -> None:
    work = accurate._Work(made().model, DATA, QuantConfig())
    for learned, judged in work.folds:
        assert not {id(one[0]) for one in learned} & {id(one[0]) for one, _ in judged}
    assert len(work.folds[0][0]) + len(work.folds[1][0]) == len(DATA)


def test_the_outer_layers_are_those_without_others_beyond() -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.body = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1)
            self.left, self.right = nn.Conv2d(8, 4, 1), nn.Conv2d(8, 2, 1)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            y = self.body(self.stem(x).relu()).relu()
            return self.left(y), self.right(y) + 1

    model = transform(Branches().eval(), (DATA[0],)).model
    assert sorted(outer_layers(model, last=True)) == ["left", "right"]
    assert outer_layers(model, last=False) == ["stem"]


class Gated(nn.Module):
    """Squeeze and excitation between two convolutions, and two layers after the last pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1)
        self.pool, self.down, self.up = (
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(8, 2, 1),
            nn.Conv2d(2, 8, 1),
        )
        self.last, self.head = nn.AdaptiveAvgPool2d(1), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x).relu()
        y = self.body(y * self.up(self.down(self.pool(y)).relu()).sigmoid()).relu()
        logits: Tensor = self.head(self.last(y).flatten(1))
        return logits


def test_inner_pooled_layers_are_those_of_gates() -> None:
    model = transform(ready(Gated, SHAPE), (DATA[0],)).model
    assert inner_pooled_layers(model) == ["pool", "down", "up"]
    flat = transform(
        nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)).eval(), (torch.ones(2, 8),)
    )
    assert inner_pooled_layers(flat.model) == []
    assert inner_pooled_layers(made().model) == []


class Flat(nn.Module):
    """Tokens of all samples in one row, which are no samples."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.up, self.out = nn.Conv2d(3, 8, 3), nn.Linear(8, 8), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Any:
        y = self.stem(x).relu()
        tokens = self.up(y.permute(0, 2, 3, 1).reshape(-1, 8))
        return self.out(tokens.reshape(len(x), *y.shape[2:], 8).permute(0, 3, 1, 2))


class Generator(nn.Module):
    """Starts with one value a channel."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.grow = nn.Linear(8, 32), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Any:
        return self.grow(self.fc(x).reshape(-1, 8, 2, 2))


class Bottleneck(nn.Module):
    """Most of its arithmetic is at the one place that is left in the middle."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.wide = nn.Conv2d(3, 64, 8), nn.Conv2d(64, 256, 1)
        self.up = nn.Conv2d(256, 4, 1)

    def forward(self, x: Tensor) -> Any:
        y = self.wide(torch.relu(F.adaptive_avg_pool2d(self.down(x), 1)))
        return self.up(F.interpolate(y, scale_factor=2.0))


@pytest.mark.parametrize(
    ("net", "shape"), [(Flat, (4, 3, 8, 8)), (Generator, (4, 8)), (Bottleneck, (4, 3, 10, 10))]
)
def test_what_carries_the_arithmetic_is_no_gate(
    net: type[nn.Module], shape: tuple[int, ...]
) -> None:
    x = torch.randn(shape)
    assert inner_pooled_layers(transform(net().eval(), (x,)).model) == []


def test_gates_that_quantize_badly_stay_in_floating_point(monkeypatch: pytest.MonkeyPatch) -> None:
    source: Any = ready(Gated, SHAPE)
    with torch.no_grad():  # a channel that is never active takes the range of the weights
        source.down.weight[0], source.down.bias[0] = 0.0, -1.0
        source.down.bias[1] = 1.0
        source.up.weight[:, 0] = 500.0
    result = transform(source, (DATA[0],))
    monkeypatch.setattr(accurate, "equalize", lambda *_: None)  # which would move the range away
    model = quantize(result, DATA, recipe="accurate")
    assert recipe_report(model).steps[0].name == "inner pooled layers in floating point"
    assert recipe_report(model).steps[0].kept
    chosen = [str(one) for one in recipe_report(model).config.skips]
    assert {"'pool'", "'down'", "'up'"} <= {*chosen}
    assert sqnr(model, result) > sqnr(quantize(result, DATA), result) + 3


def test_one_batch_learns_and_judges() -> None:
    model = quantize(made(), [torch.cat(DATA)], COARSE, recipe="accurate")
    assert not recipe_report(model).held_out


def test_an_iterator_is_kept_where_it_is_small() -> None:
    again = quantize(made(), DATA, COARSE, recipe="accurate")
    model = quantize(made(), iter(DATA), COARSE, recipe="accurate")
    for name, one in again.state_dict().items():
        assert torch.equal(model.state_dict()[name], one)

    def many() -> Iterator[Tensor]:
        while True:
            yield DATA[0]

    with pytest.raises(QuantizationError, match="more than 1024 samples"):
        quantize(made(), many(), recipe="accurate")


def test_what_can_not_work_is_refused() -> None:
    loop: Any = lambda model: model(DATA[0])  # noqa: E731
    with pytest.raises(QuantizationError, match="not a function"):
        quantize(made(), loop, recipe="accurate")
    wrong: Any = "best"
    with pytest.raises(QuantizationError, match="not 'best'"):
        quantize(made(), DATA, recipe=wrong)
    with pytest.raises(QuantizationError, match="the model is not of quantize"):
        recipe_report(quantize(made(), DATA))
