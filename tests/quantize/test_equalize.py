"""Cross-layer equalization: what it gains without data, and what it leaves."""

import math

import pytest
import torch
from torch import nn

from embedl_deploy import transform
from embedl_deploy.quantize import equalize
from tests.helpers import assert_close, run
from tests.quantize.nets import NETS, batches, ready
from tests.quantize.planted import DATA, decibels, mobile, vit


def test_badly_scaled_channels_cost_nothing_any_more() -> None:
    """Measured: 8 dB with factors from 0.01 to 100 planted, 48 equalized, 49 without them."""
    well, bad = (transform(mobile(planted=planted), (DATA[0],)) for planted in (False, True))
    before, unharmed = decibels(bad), decibels(well)
    source = mobile(planted=True)
    found = equalize(bad)
    equalize(well)
    assert_close(run(bad.model, (DATA[0],)), run(source, (DATA[0],)), 1e-5)
    assert len(found.scaled) == 7
    assert [row.path for row in found.left] == ["layers.0"]
    assert before < 12
    assert decibels(bad) > unharmed - 3
    assert decibels(well) > unharmed - 2


def test_channels_get_the_ranges_that_are_worked_out() -> None:
    """Before a ReLU `β + 4·|γ|`, through the root of the product with the columns' share."""
    conv, norm, head = nn.Conv2d(2, 3, 1, bias=False), nn.BatchNorm2d(3), nn.Conv2d(3, 2, 1)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.0, -8.0, 0.1]))
        norm.bias.copy_(torch.tensor([0.5, 0.0, -2.0]))
        head.weight.copy_(torch.tensor([[1.0, 0.1, 0.5], [0.2, 0.1, 1.0]])[..., None, None])
    ranges = torch.tensor([0.5 + 4, 32, 0.1])
    shares = torch.tensor([1.0, 0.1, 1.0])
    wanted = (shares / ranges).sqrt()
    wanted /= wanted.log().mean().exp()
    result = transform(nn.Sequential(conv, norm, nn.ReLU(), head).eval())
    (_, row) = equalize(result, rounds=1).rows
    got = (result.model.get_parameter("0.batch_norm.weight") / norm.weight).detach()
    assert_close(got, wanted, 1e-5)
    assert (row.smallest, row.largest) == pytest.approx((float(got.min()), float(got.max())))


def test_a_depthwise_convolution_takes_all() -> None:
    """One range for all channels of its input, since its weights round alike with any factor."""
    model = nn.Sequential(
        nn.Conv2d(2, 8, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8)
    )
    with torch.no_grad():
        model[1].weight.copy_(torch.logspace(-2, 2, 8))  # type: ignore[operator]
    result = transform(model.eval())
    equalize(result)
    gain = result.model.get_parameter("0.batch_norm.weight")
    torch.testing.assert_close(gain / gain[0], torch.ones(8))


@pytest.mark.parametrize("name", NETS)
def test_networks_compute_what_they_did(name: str) -> None:
    model = ready(NETS[name]).double()
    (x,) = (one.double() for one in batches(1))
    result = transform(model, (x,))
    equalize(result)
    assert_close(run(result.model, (x,)), run(model, (x,)), 1e-10)


def test_training_goes_on_as_before() -> None:
    """Batch norms stay: statistics and outputs in training mode are the same."""
    model = mobile(planted=False).train()
    result = transform(model, (DATA[0],))
    equalize(result)
    assert_close(run(result.model, (DATA[0],)), run(model, (DATA[0],)), 1e-5)
    assert_close(run(result.model.eval(), (DATA[0],)), run(model.eval(), (DATA[0],)), 1e-5)


def test_what_is_not_known_without_data_is_left() -> None:
    result = transform(vit(planted=False), (DATA[0],))
    reasons = {row.path.rpartition(".")[2]: row.reason for row in equalize(result).left}
    assert "ln_1' is not known without data" in reasons["in_projection"]
    assert reasons["attention"] == "the ranges of query and key are not known without data"
    assert "GELU" in reasons["3"]


def test_it_settles() -> None:
    result = transform(mobile(planted=True), (DATA[0],))
    equalize(result)
    again = equalize(result)
    assert all(math.isclose(row.largest, 1.0, rel_tol=0.05) for row in again.scaled)
