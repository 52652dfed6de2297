"""SmoothQuant: what it gains, what it changes, and what it leaves and why."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from embedl_deploy import transform
from embedl_deploy.errors import CalibrationError, QuantizationError
from embedl_deploy.patterns import Pattern, QDQPoint
from embedl_deploy.quantize import RescalingRow, equalize, insert_qdq, quantize, smooth
from embedl_deploy.tensorrt import TENSORRT_PATTERNS, LinearPattern
from tests.helpers import assert_close, net, run
from tests.quantize.planted import DATA, decibels, mobile, vit


@pytest.mark.parametrize("make", [mobile, vit])
def test_planted_outliers_cost_nothing_any_more(make: Callable[..., nn.Module]) -> None:
    """Measured: 8 dB with outliers and 50 without for the one, 5 and 29 for the other."""
    well, bad = (transform(make(planted=planted), (DATA[0],)) for planted in (False, True))
    before, unharmed = decibels(bad), decibels(well)
    source = make(planted=True)
    smooth(bad, DATA)
    smooth(well, DATA)
    assert_close(run(bad.model, (DATA[0],)), run(source, (DATA[0],)), 1e-5)
    assert before < 12
    assert decibels(bad) > before + 20
    assert decibels(bad) > unharmed - 3
    assert decibels(well) > unharmed - 2


def test_linear_layers_get_the_factors_of_the_paper() -> None:
    """`s = max|X|^α / max|W|^(1-α)`, up to a factor for all channels."""
    norm, linear = nn.LayerNorm(4), nn.Linear(4, 3)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.0, 10.0, 0.5, 2.0]))
    x, w = torch.randn(5, 4), linear.weight.detach().clone()
    largest = norm(x).abs().amax(0)
    shares = (w.abs() / w.abs().amax(1, keepdim=True)).amax(0)
    for alpha in (0.0, 0.3, 1.0):
        result = transform(nn.Sequential(norm, linear), (x,))
        (row,) = smooth(result, [x], alpha=alpha).rows
        wanted = largest**alpha / shares ** (1 - alpha)
        got = result.model.get_parameter("1.linear.weight") / w
        assert_close(got / got[:, :1], (wanted / wanted[0]).expand(3, 4).contiguous(), 1e-5)
        assert row.channels == 4
        ratio = (result.model.get_parameter("0.layer_norm.weight") / norm.weight).detach()
        assert_close(ratio, 1 / got[0], 1e-5)
        assert row.smallest == pytest.approx(float(ratio.min()), rel=1e-5)
        assert row.largest == pytest.approx(float(ratio.max()), rel=1e-5)


def test_query_and_key_get_one_range() -> None:
    x = torch.randn(2, 5, 8)
    model = net(
        lambda self, x: self.attention(x, x, x, need_weights=False)[0],
        attention=nn.MultiheadAttention(8, 2, batch_first=True).eval(),
    )
    with torch.no_grad():
        model.attention.in_proj_weight[2] *= 50
    result = transform(model, (x,))
    smooth(result, [x])
    projected = run(result.model.get_submodule("attention.in_projection"), (x, x, x))
    query, key, _ = (one.abs().amax((0, 2)) for one in projected)
    assert_close(query / query.max(), key / key.max(), 1e-5)


def both(first: nn.Module, second: nn.Module, between: Callable[..., Any]) -> nn.Module:
    made: nn.Module = net(between, first=first, second=second)
    return made


def linears() -> tuple[nn.Linear, nn.Linear]:
    return nn.Linear(4, 4), nn.Linear(4, 4)


def tied() -> nn.Module:
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    second.weight = first.weight
    return nn.Sequential(first, nn.ReLU(), second)


def bare(norm: nn.Module, last: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(4, 4, 1), norm, nn.ReLU(), last)


LINE, IMAGE = (3, 4), (3, 4, 6, 6)
LEFT: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], str, str]] = {
    "residual of the input": (
        lambda: both(*linears(), lambda m, x: m.second(m.first(x) + x)),
        LINE,
        "second",
        "'first' (LinearAdd) adds what takes no factor",
    ),
    "residual that is normed": (
        lambda: both(
            nn.LayerNorm(4),
            nn.Linear(4, 4),
            lambda m, x: F.layer_norm(m.second(y := m.first(x)) + y, (4,)),
        ),
        LINE,
        "second",
        "(LayerNorm) takes no factor",
    ),
    "a GELU between": (
        lambda: nn.Sequential(nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 4)),
        LINE,
        "2",
        "GELU in '0' takes no factor",
    ),
    "a ReLU6 between": (
        lambda: nn.Sequential(nn.Linear(4, 4), nn.ReLU6(), nn.Linear(4, 4)),
        LINE,
        "2",
        "ReLU6 in '0' takes no factor",
    ),
    "tied weights": (tied, LINE, "2", "the weight of '0' (LinearReLU) is used elsewhere too"),
    "a result of the model": (
        lambda: both(*linears(), lambda m, x: (m.second(y := m.first(x)), y)),
        LINE,
        "second",
        "it is a result of the model",
    ),
    "a part that is a result": (
        lambda: both(*linears(), lambda m, x: (m.second(y := m.first(x)), y[:, 1:])),
        LINE,
        "second",
        "it is a result of the model",
    ),
    "an input": (lambda: nn.Sequential(nn.Linear(4, 4)), LINE, "0", "is an input of the model"),
    "a layer norm without factors": (
        lambda: nn.Sequential(nn.LayerNorm(4, elementwise_affine=False), nn.Linear(4, 4)),
        LINE,
        "1",
        "'0' (LayerNorm) takes no factor",
    ),
    "a batch norm without factors": (
        lambda: bare(nn.BatchNorm2d(4, affine=False), nn.Conv2d(4, 4, 3)),
        IMAGE,
        "3",
        "the batch norm in '0' has no factors",
    ),
    "a softmax between": (
        lambda: both(*linears(), lambda m, x: m.second(m.first(x).softmax(-1))),
        LINE,
        "second",
        "(Softmax) takes no factor",
    ),
    "channels that are mixed": (
        lambda: both(nn.Conv2d(4, 4, 1), nn.Linear(6, 4), lambda m, x: m.second(m.first(x))),
        IMAGE,
        "second",
        "mixes its channels",
    ),
    "a cast to integers": (
        lambda: both(*linears(), lambda m, x: m.second(m.first(x).to(torch.int32).to(x.dtype))),
        LINE,
        "second",
        "'to' takes no factor",
    ),
    "a product of two": (
        lambda: both(*linears(), lambda m, x: m.second((y := m.first(x)) * y)),
        LINE,
        "second",
        "'mul' takes no factor",
    ),
}


@pytest.mark.parametrize("case", LEFT)
def test_what_takes_no_factor_is_left_with_the_reason(case: str) -> None:
    make, shape, path, reason = LEFT[case]
    x = torch.randn(shape)
    result = transform(make().eval(), (x,))
    before = {name: one.clone() for name, one in result.model.state_dict().items()}
    found = smooth(result, [x])
    assert found.scaled == ()
    (row,) = [row for row in found.rows if row.path == path]
    assert reason in row.reason
    assert reason in str(found)
    after = result.model.state_dict()
    assert all(torch.equal(one, after[name]) for name, one in before.items())


def test_a_layer_that_is_called_twice_is_left() -> None:
    shared, linear = nn.Linear(4, 4), nn.Linear(4, 4)
    model = net(
        lambda self, x: self.linear(F.relu(self.shared(F.relu(self.shared(x))))),
        shared=shared,
        linear=linear,
    )
    x = torch.randn(3, 4)
    result = transform(model, (x,))
    assert smooth(result, [x]).scaled == ()
    assert_close(run(result.model, (x,)), run(model, (x,)))


class Unquantized(LinearPattern):
    """A linear layer in floating point."""

    qdq_points: tuple[QDQPoint, ...] = ()  # type: ignore[misc]


def test_what_is_not_quantized_has_no_say() -> None:
    model = nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 4)).eval()
    x = torch.randn(3, 4)
    patterns: tuple[type[Pattern], ...] = (Unquantized, *TENSORRT_PATTERNS)
    result = transform(model, (x,), patterns=patterns)
    assert smooth(result, [x]).rows == ()
    assert_close(run(result.model, (x,)), run(model, (x,)), 0)


def test_a_channel_without_values_or_weights_is_no_fault() -> None:
    first, second = linears()
    with torch.no_grad():
        first.weight[0], first.bias[0] = 0.0, -1.0
        second.weight[:, 1] = 0.0
        first.weight[2], first.bias[2], second.weight[:, 2] = 0.0, 0.0, 0.0
    model = nn.Sequential(first, nn.ReLU(), second).eval()
    x = torch.randn(8, 4)
    result = transform(model, (x,))
    (row,) = smooth(result, [x]).scaled
    assert 0.01 < row.smallest < row.largest < 100
    assert_close(run(result.model, (x,)), run(model, (x,)))


def test_a_smoothed_model_is_restored_from_its_state() -> None:
    source = vit(planted=True)
    smoothed = transform(source, (DATA[0],))
    smooth(smoothed, DATA)
    model = quantize(smoothed, DATA)
    again = insert_qdq(transform(source, (DATA[0],)))
    again.load_state_dict(model.state_dict())
    assert_close(run(again.eval(), (DATA[1],)), run(model, (DATA[1],)), 0)


def test_shapes_come_from_the_data_where_there_were_no_example_inputs() -> None:
    source = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 5)
    )
    result = transform(source.eval())
    rows: tuple[RescalingRow, ...] = smooth(result, DATA).scaled
    assert [row.path for row in rows] == ["4"]
    assert_close(run(result.model, (DATA[0],)), run(source, (DATA[0],)))


def test_modes_hooks_and_progress() -> None:
    result = transform(vit(planted=False).train(), (DATA[0],))
    told: list[tuple[int, int | None]] = []
    smooth(result, DATA, progress=lambda *done: told.append(done))
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert all(one.training for one in result.model.modules())
    assert not any(one._forward_pre_hooks for one in result.model.modules())


BAD: dict[str, tuple[Callable[[Any], object], type[Exception], str]] = {
    "no data": (lambda r: smooth(r, []), CalibrationError, "no data to smooth with"),
    "one tensor": (lambda r: smooth(r, DATA[0]), CalibrationError, "pass a list of batches"),
    "misfit": (lambda r: smooth(r, [torch.ones(3)]), CalibrationError, "batch 0 .* does not fit"),
    "not finite": (
        lambda r: smooth(r, [DATA[0] / 0]),
        CalibrationError,
        "finite .* reach 'conv_proj'",
    ),
    "alpha": (lambda r: smooth(r, DATA, alpha=2), QuantizationError, "alpha lies in"),
    "rounds": (lambda r: equalize(r, rounds=0), QuantizationError, "at least one round"),
    "a module": (lambda _: smooth(nn.ReLU(), DATA), QuantizationError, "not a ReLU"),  # type: ignore[arg-type]
    "quantized": (
        lambda r: equalize(insert_qdq(r)),
        QuantizationError,
        r"call equalize\(\) on the result of transform\(\)",
    ),
    "meta": (lambda r: smooth(r.model.to("meta"), DATA), QuantizationError, "meta device"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_goes_wrong_is_said(case: str) -> None:
    call, kind, said = BAD[case]
    result = transform(vit(planted=False), (DATA[0],))
    with pytest.raises(kind, match=said):
        call(result)


def test_a_norm_that_is_written_out_gives_its_factors() -> None:
    model = net(
        lambda self, x: self.linear(x / x.std(-1, keepdim=True) * self.gain + self.shift),
        gain=nn.Parameter(torch.tensor([1.0, 50.0, 1.0, 0.1])),
        shift=nn.Parameter(torch.randn(4)),
        linear=nn.Linear(4, 4),
    )
    x = torch.randn(8, 4)
    result = transform(model, (x,))
    (row,) = smooth(result, [x]).scaled
    assert row.largest > 5 * row.smallest
    assert_close(run(result.model, (x,)), run(model, (x,)))
    assert equalize(result).scaled == ()
