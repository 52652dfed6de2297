"""Representative data gives every stub its scale; what goes wrong changes nothing."""

from collections.abc import Iterable, Iterator
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, fx, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from embedl_deploy import transform
from embedl_deploy.errors import CalibrationError, QuantizationError
from embedl_deploy.quantize import (
    PercentileObserver,
    QuantConfig,
    QuantStub,
    TensorQuantConfig,
    WeightFakeQuantize,
    calibrate,
    insert_qdq,
    quantize,
)
from tests.quantize.nets import NETS, batches, ready


class Net(nn.Module):
    """Convolution, batch norm, activation, convolution, a residual and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.norm = nn.BatchNorm2d(8)
        self.conv_again = nn.Conv2d(8, 8, 1)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.norm(self.conv(x)))
        y = y + self.conv_again(y)
        return self.head(y.mean((2, 3)))


SHAPE = (3, 8, 8)
NAMES = ["x_stub", "conv_stub", "mean_stub"]


def net() -> nn.Module:
    return ready(Net, SHAPE)


def inserted(config: QuantConfig | None = None) -> fx.GraphModule:
    return insert_qdq(transform(net()), config)


def data(count: int = 3, rows: int = 4) -> list[Tensor]:
    return batches(count, rows, SHAPE)


def scales(model: nn.Module) -> dict[str, float]:
    named = model.named_modules()
    return {path: float(one.scale) for path, one in named if isinstance(one, QuantStub)}


def tensors_at_stubs(parts: Iterable[Tensor]) -> dict[str, Tensor]:
    """What enters each stub when nothing is quantized, by the source model's own layers."""
    source = net()
    x = torch.cat(list(parts))
    with torch.no_grad():
        y = torch.relu(source.norm(source.conv(x)))  # type: ignore[operator]
        z = (y + source.conv_again(y)).mean((2, 3))  # type: ignore[operator]
    return dict(zip(NAMES, (x, y, z), strict=True))


def test_a_scale_is_the_largest_magnitude_seen_over_127() -> None:
    model = calibrate(inserted(), data())
    seen = tensors_at_stubs(data())
    assert sorted(scales(model)) == sorted(NAMES)
    for name, values in seen.items():
        want = np.abs(values.numpy()).max() / np.float32(127)
        assert scales(model)[name] == pytest.approx(want, rel=1e-6)


def test_a_percentile_observer_clips() -> None:
    observer = partial(PercentileObserver, 90)
    model = calibrate(inserted(QuantConfig(TensorQuantConfig(observer=observer))), data())
    for name, values in tensors_at_stubs(data()).items():
        magnitudes = np.abs(values.numpy())
        want = np.percentile(magnitudes, 90, method="inverted_cdf")
        got = scales(model)[name] * 127
        assert want * (1 - 1e-5) <= got <= want + magnitudes.max() / 2048
        assert got < magnitudes.max()


def test_nothing_is_quantized_while_calibrating() -> None:
    """A scale depends on the source model alone, not on the scales of earlier calibrations."""
    model = inserted()
    calibrate(model, [part * 1e-3 for part in data()])
    calibrate(model, data())
    assert scales(model) == scales(calibrate(inserted(), data()))


def test_calibration_is_deterministic() -> None:
    first, second = calibrate(inserted(), data()), calibrate(inserted(), data())
    assert scales(first) == scales(second)
    assert torch.equal(first(data()[0]), second(data()[0]))


def test_batches_may_come_in_any_size_and_order() -> None:
    whole = torch.cat(data(3, 4))
    parts = [whole[7:], whole[:2], whole[2:7]]
    want = scales(calibrate(inserted(), [whole]))
    for name, scale in scales(calibrate(inserted(), parts)).items():
        assert scale == pytest.approx(want[name], rel=1e-6)


class OneByOne(IterableDataset[Tensor]):
    """What a DataLoader has no length for."""

    def __iter__(self) -> Iterator[Tensor]:
        yield from torch.cat(data())


class Indexed(Dataset[Tensor]):
    """A dataset whose items are batches; it ends with an IndexError, as sequences may."""

    def __getitem__(self, index: int) -> Tensor:
        return data()[index]


FORMS: dict[str, Any] = {
    "list of tensors": data,
    "tuples": lambda: [(part,) for part in data()],
    "lists": lambda: [[part] for part in data()],
    "dicts": lambda: [{"x": part} for part in data()],
    "images and labels": lambda: [(part, torch.zeros(4)) for part in data()],
    "generator": lambda: iter(data()),
    "loader": lambda: DataLoader(TensorDataset(torch.cat(data()), torch.zeros(12)), batch_size=4),
    "loader without length": lambda: DataLoader(OneByOne(), batch_size=4),
    "dataset of batches": Indexed,
}


@pytest.mark.parametrize("form", FORMS)
def test_batches_come_in_any_form(form: str) -> None:
    assert scales(calibrate(inserted(), FORMS[form]())) == scales(calibrate(inserted(), data()))


class Two(nn.Module):
    """Two inputs, the second with a default."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, x: Tensor, shift: Tensor | None = None) -> Tensor:
        return self.linear(x if shift is None else x + shift)


@pytest.mark.parametrize("form", ["tuple", "dict", "with labels"])
def test_several_inputs(form: str) -> None:
    x, shift = torch.randn(2, 4), torch.randn(2, 4)
    batch: Any = {"tuple": (x, shift), "dict": {"shift": shift, "x": x}}.get(form)
    batch = batch or (x, shift, torch.zeros(2))
    model = calibrate(insert_qdq(transform(Two(), (x, shift))), [batch])
    assert scales(model) == {"add_stub": float((x + shift).abs().max() / 127)}


def test_a_function_may_run_the_model() -> None:
    told: list[tuple[int, int | None]] = []

    def loop(model: fx.GraphModule) -> None:
        assert not torch.is_grad_enabled()
        assert not model.training
        for part in data():
            model(x=part)

    model = calibrate(inserted(), loop, progress=lambda *done: told.append(done))
    assert scales(model) == scales(calibrate(inserted(), data()))
    assert told == [(1, None), (2, None), (3, None)]
    assert not model._forward_hooks


def test_a_function_that_does_not_run_the_model_gives_no_data() -> None:
    with pytest.raises(CalibrationError, match="calibration data is empty"):
        calibrate(inserted(), lambda model: model.eval())


def test_a_function_that_runs_it_on_bad_data_is_told_where() -> None:
    model = inserted()

    def loop(model: fx.GraphModule) -> None:
        model(data()[0])
        model(data()[1] / 0)

    with pytest.raises(CalibrationError, match="come from the input 'x' in calibration batch 1 "):
        calibrate(model, loop)
    assert not model._forward_hooks


def test_a_single_sample_is_enough() -> None:
    (sample,) = data(1, 1)
    model = calibrate(inserted(), [sample])
    want = tensors_at_stubs([sample])
    for name, scale in scales(model).items():
        assert scale == pytest.approx(float(want[name].abs().max()) / 127, rel=1e-6)


def test_data_goes_to_where_the_model_is(monkeypatch: pytest.MonkeyPatch) -> None:
    devices: list[object] = []

    def move(tree: Any, device: object) -> Any:
        devices.append(device)
        return tree

    module = import_module("embedl_deploy.quantize.calibrating.calibrate")
    monkeypatch.setattr(module, "moved", move)
    calibrate(inserted(), data())
    assert devices == [torch.device("cpu")] * 3


def test_values_that_a_device_does_not_hold_are_refused() -> None:
    """The meta device is the only other one that is everywhere."""
    with pytest.raises(CalibrationError, match="on the meta device"):
        calibrate(inserted().to("meta"), data())
    with pytest.raises(CalibrationError, match=r"batch 0 with shape .* does not fit .*meta tensor"):
        calibrate(inserted(), [part.to("meta") for part in data()])


def test_progress_is_told() -> None:
    told: list[tuple[int, int | None]] = []
    calibrate(inserted(), data(), progress=lambda done, total: told.append((done, total)))
    assert told == [(1, 3), (2, 3), (3, 3)]
    told.clear()
    loader = DataLoader(OneByOne(), batch_size=6)
    calibrate(inserted(), loader, progress=lambda done, total: told.append((done, total)))
    assert told == [(1, None), (2, None)]


def modes(model: nn.Module) -> dict[str, bool]:
    return {path: module.training for path, module in model.named_modules()}


def mixed_modes() -> fx.GraphModule:
    model = inserted().train()
    model.get_submodule("head").eval()
    assert set(modes(model).values()) == {True, False}
    return model


def test_modes_and_statistics_are_left_as_they_were() -> None:
    model = mixed_modes()
    before = modes(model)
    statistics = {name: buffer.clone() for name, buffer in model.named_buffers()}
    calibrate(model, data())
    assert modes(model) == before
    for name, buffer in model.named_buffers():
        if not name.endswith("_stub.scale"):
            assert torch.equal(buffer, statistics[name]), name


def test_a_model_in_training_is_calibrated_as_it_infers() -> None:
    assert scales(calibrate(mixed_modes(), data())) == scales(calibrate(inserted(), data()))


def failing() -> Iterator[Tensor]:
    yield data()[0]
    raise OSError("disk gone")


BAD: dict[str, tuple[Any, type[Exception], str]] = {
    "empty": (list, CalibrationError, "calibration data is empty"),
    "empty generator": (lambda: iter(()), CalibrationError, "calibration data is empty"),
    "nan": (
        lambda: [*data(), torch.full((1, *SHAPE), float("nan"))],
        CalibrationError,
        r"not finite .* from the input 'x' in calibration batch 3 .* 'x_stub' \(conv INPUT\)",
    ),
    "inf": (
        lambda: [torch.full((1, *SHAPE), float("inf")), *data()],
        CalibrationError,
        "not finite .* reach 'x_stub'",
    ),
    "wrong channels": (
        lambda: [data()[0], torch.zeros(2, 4, 8, 8)],
        CalibrationError,
        r"batch 1 with shape \(2, 4, 8, 8\) does not fit the model: .*channels",
    ),
    "wrong rank": (
        lambda: [torch.zeros(8)],
        CalibrationError,
        r"batch 0 with shape \(8,\) does not fit the model",
    ),
    "no rows": (
        lambda: [torch.zeros(0, *SHAPE)],
        CalibrationError,
        r"batch 0 with shape \(0, 3, 8, 8\) is empty; leave it out",
    ),
    "no tensor": (lambda: [("a",)], CalibrationError, "batch 0 with no tensor does not fit"),
    "no inputs": (lambda: [()], CalibrationError, "batch 0 with no tensor does not fit"),
    "numpy": (
        lambda: [np.zeros((1, *SHAPE), np.float32)],
        CalibrationError,
        "batch 0 with no tensor does not fit",
    ),
    "wrong name": (
        lambda: [{"image": data()[0]}],
        CalibrationError,
        r"batch 0 with shape \(4, 3, 8, 8\) does not fit the model: .*image",
    ),
    "one tensor": (lambda: data()[0], CalibrationError, "data is a Tensor; pass a list"),
    "one dict": (lambda: {"x": data()[0]}, CalibrationError, "data is a dict; pass a list"),
    "nothing": (lambda: None, CalibrationError, "data is a NoneType; pass a list"),
    "broken loader": (failing, OSError, "disk gone"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_goes_wrong_is_said_and_changes_nothing(case: str) -> None:
    make, kind, message = BAD[case]
    model = mixed_modes()
    calibrate(model, data())
    before, was = scales(model), modes(model)
    with pytest.raises(kind, match=message):
        calibrate(model, make())
    assert scales(model) == before
    assert modes(model) == was
    quantizers = [one for one in model.modules() if isinstance(one, WeightFakeQuantize)]
    assert quantizers
    assert all(one.enabled for one in quantizers)
    stubs = [one for one in model.modules() if isinstance(one, QuantStub)]
    assert all(one.observer is None and one.calibrated for one in stubs)


def test_a_failed_first_calibration_leaves_the_model_uncalibrated() -> None:
    model = inserted()
    with pytest.raises(CalibrationError):
        calibrate(model, [torch.full((1, *SHAPE), float("nan"))])
    assert not any(np.isfinite(scale) for scale in scales(model).values())
    with pytest.raises(QuantizationError, match="has no scale"):
        model(data()[0])


class Nested(nn.Module):
    """The stub of the input comes last among the modules, since its container does."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


@pytest.mark.parametrize(("place", "named"), [("data", "x_stub"), ("bias", "body.0_stub")])
def test_the_first_stub_in_the_order_of_the_model_is_named(place: str, named: str) -> None:
    source = Nested()
    parts = {"data": torch.ones(1, *SHAPE), "bias": source.get_parameter("body.0.bias")}
    with torch.no_grad():
        parts[place].fill_(float("inf"))
    model = insert_qdq(transform(source))
    assert list(scales(model)) == ["body.0_stub", "x_stub"]
    with pytest.raises(CalibrationError, match=f"reach '{named}'"):
        calibrate(model, [parts["data"]])


def test_progress_that_fails_leaves_the_model_whole() -> None:
    model = mixed_modes()
    before = modes(model)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        calibrate(model, data(), progress=stop)
    assert modes(model) == before
    assert not any(isinstance(one, QuantStub) and one.observer for one in model.modules())


def test_a_constant_zero_gets_a_positive_scale() -> None:
    model = calibrate(inserted(), [torch.zeros(2, *SHAPE)])
    assert scales(model)["x_stub"] == 1
    assert torch.isfinite(model(torch.zeros(1, *SHAPE))).all()


def test_a_model_without_stubs_is_refused() -> None:
    with pytest.raises(QuantizationError, match="has no stubs"):
        calibrate(transform(net()).model, data())
    with pytest.raises(QuantizationError, match="not a Net"):
        calibrate(net(), data())  # type: ignore[arg-type]


def test_running_before_calibration_says_what_to_do() -> None:
    with pytest.raises(QuantizationError, match="the stub at conv INPUT has no scale yet"):
        inserted()(data()[0])


@pytest.mark.parametrize("bits", [-1, 0, 1, 9, 16])
def test_bits_that_int8_does_not_hold_are_refused(bits: int) -> None:
    with pytest.raises(QuantizationError, match="between 2 and 8"):
        TensorQuantConfig(bits=bits)


@pytest.mark.parametrize("name", NETS)
def test_a_quantized_network_computes_nearly_what_it_did(name: str) -> None:
    source = ready(NETS[name])
    result = transform(source, (batches()[0],))
    model = quantize(result, batches())
    assert all(0 < scale < float("inf") for scale in scales(model).values())
    assert not any(modes(model).values())
    with torch.no_grad():
        want, got = source(batches()[0]), model(batches()[0])
    assert 0 < float((got - want).norm() / want.norm()) < 0.5


@pytest.mark.parametrize("bits", [4, 8])
def test_fewer_bits_mean_fewer_values(bits: int) -> None:
    config = TensorQuantConfig(bits=bits)
    model = quantize(transform(net()), data(), QuantConfig(config, config))
    seen: list[Tensor] = []
    model.get_submodule("x_stub").register_forward_hook(lambda *hook: seen.append(hook[-1]))
    with torch.no_grad():
        model(torch.randn(64, *SHAPE))
    assert len(seen[0].unique()) == 2**bits if bits == 4 else 200 < len(seen[0].unique()) <= 256
    (quantizer, *_) = (one for one in model.modules() if isinstance(one, WeightFakeQuantize))
    assert quantizer.highest == 2 ** (bits - 1) - 1


def test_fine_tuning_happens_between_calibration_and_the_end() -> None:
    seen: list[bool] = []

    def train(model: fx.GraphModule) -> None:
        seen.append(all(np.isfinite(scale) for scale in scales(model).values()))
        model.train()

    model = quantize(transform(net()), data(), fine_tune=train)
    assert seen == [True]
    assert not any(modes(model).values())
