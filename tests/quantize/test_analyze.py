"""What `analyze` says, against figures worked out by hand."""

import json
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from embedl_deploy import transform
from embedl_deploy.errors import CalibrationError, QuantizationError
from embedl_deploy.quantize import (
    Analysis,
    AnalysisRow,
    PercentileObserver,
    QuantConfig,
    TensorQuantConfig,
    analyze,
    insert_qdq,
    quantize,
)
from embedl_deploy.quantize.stubs import QuantStub, enabled_only, quantizers_of
from tests.quantize.nets import NETS, batches, ready

SHAPE = (3, 8, 8)
DATA = batches(3, 4, SHAPE)


class Net(nn.Module):
    """Two convolutions around an activation, a residual, and a second result."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.again, self.head = nn.Conv2d(6, 6, 1), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = torch.relu(self.norm(self.conv(x)))
        z = self.again(y)
        return self.head((y + z).mean((2, 3))), z


def net() -> Net:
    made = ready(Net, SHAPE)
    assert isinstance(made, Net)
    return made


def quantized(bits: int = 8, percentile: float = 100) -> fx.GraphModule:
    activations = TensorQuantConfig(bits, partial(PercentileObserver, percentile))
    return quantize(transform(net()), DATA, QuantConfig(activations))


def rows(analysis: Analysis) -> dict[str, AnalysisRow]:
    assert len({row.path for row in analysis.rows}) == len(analysis.rows)
    return {row.path: row for row in analysis.rows}


def decibels(want: list[Tensor], got: list[Tensor]) -> float:
    before = np.concatenate([one.detach().double().numpy().ravel() for one in want])
    after = np.concatenate([one.detach().double().numpy().ravel() for one in got])
    return float(10 * np.log10((before**2).sum() / ((after - before) ** 2).sum()))


def rounded(values: Tensor, scale: Tensor, low: int, high: int) -> Tensor:
    return (values / scale).round().clip(low, high) * scale


def tensors() -> dict[str, Tensor]:
    """What enters each stub in floating point, by the source model's own layers."""
    source, x = net(), torch.cat(DATA)
    with torch.no_grad():
        y = torch.relu(source.norm(source.conv(x)))
        return {"x_stub": x, "conv_stub": y, "mean_stub": (y + source.again(y)).mean((2, 3))}


@pytest.mark.parametrize(("bits", "percentile"), [(8, 100), (8, 90), (4, 100)])
def test_a_stub_is_measured_by_its_rounding(bits: int, percentile: float) -> None:
    model = quantized(bits, percentile)
    found = rows(analyze(model, DATA))
    for path, values in tensors().items():
        row, scale = found[path], model.get_submodule(path).get_buffer("scale")
        high = 2 ** (bits - 1) - 1
        want = rounded(values, scale, -high - 1, high)
        assert row.sqnr_db == pytest.approx(decibels([values], [want]), abs=1e-3)
        assert row.largest == pytest.approx(float(values.abs().max()), rel=1e-5)
        assert row.range == pytest.approx(float(scale) * high)
        peak = float(values.abs().max() / values.square().mean().sqrt())
        assert row.outlier_ratio == pytest.approx(peak, rel=1e-4)
        outside = (values > (high + 0.5) * scale) | (values < -(high + 1.5) * scale)
        assert row.clipped_share == pytest.approx(float(outside.double().mean()), abs=1e-3)
        assert (row.kind, row.output_sqnr_db) == ("stub", None)
    assert (found["x_stub"].clipped_share or 0) > 0.05 or percentile == 100


def test_a_fused_module_is_measured_by_its_result() -> None:
    model, source = quantized(), net()
    row = rows(analyze(model, DATA))["conv"]
    x, want = tensors()["x_stub"], tensors()["conv_stub"]
    scale = source.conv.weight.abs().amax((1, 2, 3), keepdim=True) / 127
    weight = rounded(source.conv.weight, scale, -127, 127)
    x = rounded(x, model.get_submodule("x_stub").get_buffer("scale"), -128, 127)
    with torch.no_grad():
        got = torch.relu(source.norm(F.conv2d(x, weight, source.conv.bias, padding=1)))
    assert row.sqnr_db == pytest.approx(decibels([want], [got]), abs=1e-3)
    assert row.kind == "FusedConvBNReLU"
    assert row.largest == pytest.approx(float(want.max()), rel=1e-5)
    assert (row.range, row.clipped_share) == (None, None)


def alone(model: fx.GraphModule, chosen: list[str]) -> float:
    """At all outputs, with only the quantizers in these modules on."""
    on = {one for path in chosen for one in quantizers_of(model.get_submodule(path))}
    want: list[Tensor] = []
    got: list[Tensor] = []
    with torch.no_grad():
        for results, active in ((want, set()), (got, on)):
            for one in quantizers_of(model):
                one.enabled = one in active
            for part in DATA:
                results.extend(model(part))
    for one in quantizers_of(model):
        one.enabled = True
    return decibels(want, got)


def test_the_output_is_measured_with_one_place_quantized() -> None:
    model = quantized(4)
    analysis = analyze(model, DATA, sensitivity=True)
    found = rows(analysis)
    places = {
        "x_stub": ["x_stub"],
        "conv_stub": ["conv_stub"],
        "mean_stub": ["mean_stub"],
        "conv": ["x_stub", "conv"],
        "again": ["conv_stub", "again"],
        "head": ["mean_stub", "head"],
    }
    assert found.keys() == places.keys()
    for path, chosen in places.items():
        assert found[path].output_sqnr_db == pytest.approx(alone(model, chosen), abs=1e-3)
    assert analysis.output_sqnr_db == pytest.approx(alone(model, [""]), abs=1e-3)
    order = [row.output_sqnr_db for row in analysis.rows]
    assert order == sorted(order)  # type: ignore[type-var]
    assert len(set(order)) == 6


def test_own_errors_take_one_pass_and_outputs_one_run_each() -> None:
    model = quantized()
    calls: list[object] = []
    model.get_submodule("conv.batch_norm").register_forward_hook(lambda *_: calls.append(1))
    told: list[tuple[int, int | None]] = []
    analyze(model, DATA, progress=lambda *done: told.append(done))
    assert len(calls) == 3 * len(DATA)  # in floating point, rounded beside it, everything rounded
    assert told == [(done, 6) for done in range(1, 7)]
    told.clear()
    calls.clear()
    analyze(model, (part for part in DATA), sensitivity=True, progress=lambda *d: told.append(d))
    assert len(calls) == 5 * len(DATA)  # and for what comes before it: the stub, itself
    assert told == [(done, None) for done in range(1, 25)]


@pytest.mark.parametrize("name", NETS)
def test_every_quantizer_of_a_network_is_in_a_row(name: str) -> None:
    config = QuantConfig(attention="full")
    model = quantize(transform(ready(NETS[name]), (batches()[0],)), batches(), config)
    analysis = analyze(model, batches(1))
    stubs = [path for path, one in model.named_modules() if type(one).__name__ == "QuantStub"]
    found = [row for row in analysis.rows if row.kind == "stub"]
    assert sorted(row.path for row in found) == sorted(stubs)
    assert all(10 < row.sqnr_db < 100 and row.points for row in found)
    order = [row.sqnr_db for row in analysis.rows]
    assert order == sorted(order)
    assert 5 < analysis.output_sqnr_db < 60


def test_the_worst_is_found() -> None:
    source = net()
    with torch.no_grad():
        source.again.weight[:, 0] *= 300
    model = quantize(transform(source), DATA)
    analysis = analyze(model, DATA, sensitivity=True)
    assert analysis.rows[0].path in {"again", "conv_stub"}
    (line,) = (one for one in str(analysis).splitlines() if " again " in one)
    assert line.startswith("FusedConvBN")
    assert str(analysis).endswith(f"quantized: {analysis.output_sqnr_db:.1f} dB")


def test_a_dictionary_is_plain_data() -> None:
    model = quantized()
    found = json.loads(json.dumps(analyze(model, DATA).to_dict()))
    assert len(found["rows"]) == 6
    assert found["rows"][0].keys() == set(AnalysisRow.__annotations__)
    zero = quantize(transform(net()), [torch.zeros(1, *SHAPE)])
    row = next(row for row in analyze(zero, DATA[:1]).to_dict()["rows"] if row["path"] == "x_stub")
    assert row["sqnr_db"] is not None
    exact = analyze(zero, [torch.zeros(1, *SHAPE)]).to_dict()["rows"]
    assert next(row for row in exact if row["path"] == "x_stub")["sqnr_db"] is None


def test_the_model_is_left_as_it_is() -> None:
    model = quantized().train()
    model.get_submodule("conv.batch_norm").eval()
    quantizers_of(model)[0].enabled = False
    before = [(one.training, getattr(one, "enabled", None)) for one in model.modules()]
    tensors = {name: one.clone() for name, one in model.state_dict().items()}
    analyze(model, [{"x": DATA[0]}], sensitivity=True)
    after = [(one.training, getattr(one, "enabled", None)) for one in model.modules()]
    assert before == after
    assert all(torch.equal(one, tensors[name]) for name, one in model.state_dict().items())


def failing() -> Iterator[Tensor]:
    yield DATA[0]
    raise OSError("disk gone")


BAD: dict[str, tuple[Any, type[Exception], str]] = {
    "nothing": (list, CalibrationError, "no data to analyze"),
    "one tensor": (lambda: DATA[0], CalibrationError, "pass a list of batches"),
    "misfit": (
        lambda: [DATA[0], torch.zeros(1, 4, 8, 8)],
        CalibrationError,
        r"^batch 1 with shape \(1, 4, 8, 8\) does not fit the model",
    ),
    "empty": (lambda: [torch.zeros(0, *SHAPE)], CalibrationError, "batch 0 .* is empty"),
    "broken loader": (failing, OSError, "disk gone"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_goes_wrong_is_said(case: str) -> None:
    make, kind, said = BAD[case]
    model = quantized()
    with pytest.raises(kind, match=said):
        analyze(model, make())
    assert all(one.enabled for one in quantizers_of(model))


def test_a_model_that_is_not_calibrated_is_refused() -> None:
    with pytest.raises(QuantizationError, match="'x_stub' has no scale"):
        analyze(insert_qdq(transform(net())), DATA)
    with pytest.raises(QuantizationError, match="has no stubs"):
        analyze(transform(net()).model, DATA)


def test_a_histogram_holds_every_value_and_what_is_clipped_is_outside() -> None:
    model = quantized(percentile=90)
    stubs = dict(model.named_modules())
    seen: dict[str, list[Tensor]] = {}
    for row in analyze(model, DATA).rows:
        if row.kind != "stub":
            assert row.histogram == ()
            continue
        stub = stubs[row.path]
        assert isinstance(stub, QuantStub)
        seen[row.path] = []
        stub.register_forward_hook(lambda _, args, __, kept=seen[row.path]: kept.append(args[0]))
    with enabled_only(model):
        for batch in DATA:
            model(batch)
    for path, row in rows(analyze(model, DATA)).items():
        if path not in seen:
            continue
        stub = stubs[path]
        assert isinstance(stub, QuantStub)
        end = (stub.highest + 0.5) * float(stub.scale) * (1 + 1e-6)
        values = torch.cat([one.detach().flatten() for one in seen[path][: len(DATA)]]).numpy()
        want, _ = np.histogram(np.clip(values / end, -1.5, 1.5), 48, (-1.5, 1.5))
        assert sum(row.histogram) == len(values)
        # a value at the end of a bin may be in the next by rounding
        assert np.abs(np.cumsum(want) - np.cumsum(row.histogram)).max() <= 1
        above = sum(row.histogram[40:]) / len(values)
        assert row.clipped_share is not None
        assert above <= row.clipped_share + 1e-9
    assert any(row.clipped_share for row in analyze(model, DATA).rows if row.clipped_share)
