"""Number formats: unsigned integers where nothing is negative, four bits, FP8."""

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, fx, nn

from embedl_deploy import transform
from embedl_deploy.errors import ExportError, QuantizationError
from embedl_deploy.export import export_onnx
from embedl_deploy.quantize import (
    MSEObserver,
    PercentileObserver,
    QuantConfig,
    QuantStub,
    TensorQuantConfig,
    WeightFakeQuantize,
    calibrate,
    insert_qdq,
    quantize,
)
from embedl_deploy.quantize.config import Format
from embedl_deploy.quantize.rounding import FLOAT8, Grid, fake_quantize
from tests.quantize.nets import batches

SHAPE = (3, 8, 8)
UNSIGNED = TensorQuantConfig(signed=False)
FP8 = TensorQuantConfig(format="float8_e4m3")


class Net(nn.Module):
    """A tensor that is never negative, concatenated with one that is; and one by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)
        self.last, self.head = nn.Conv2d(8, 4, 1), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.stem(x))
        z = torch.relu(self.conv(y))
        return self.head(torch.relu(self.last(torch.cat((z, -z), 1))).mean((2, 3)))


def net() -> nn.Module:
    torch.manual_seed(0)
    return Net().eval()


def quantized(activations: TensorQuantConfig, weights: TensorQuantConfig) -> fx.GraphModule:
    return quantize(transform(net()), batches(2, 3, SHAPE), QuantConfig(activations, weights))


def stubs(model: nn.Module) -> dict[str, QuantStub]:
    return {path: one for path, one in model.named_modules() if isinstance(one, QuantStub)}


def seen(model: fx.GraphModule, path: str) -> Tensor:
    values: list[Tensor] = []
    model.get_submodule(path).register_forward_hook(lambda *hook: values.append(hook[-1]))
    with torch.no_grad():
        model(batches(1, 300, SHAPE)[0])
    return values[0]


@pytest.mark.parametrize("bits", [4, 8])
def test_what_is_never_negative_has_no_sign(bits: int) -> None:
    plain = quantized(TensorQuantConfig(bits), UNSIGNED)
    model = quantized(TensorQuantConfig(bits, signed=False), UNSIGNED)
    signs = {path: stub.signed for path, stub in stubs(model).items()}
    assert signs.pop("x_stub")
    assert signs.pop("cat_stub")
    assert len(signs) > 1
    assert not any(signs.values())  # after activations
    share = (2 ** (bits - 1) - 1) / (2**bits - 1)
    for path, stub in stubs(model).items():
        factor = 1 if stub.signed else share
        assert stub.scale.item() == pytest.approx(stubs(plain)[path].scale.item() * factor)
    values = seen(model, "stem_stub") / stubs(model)["stem_stub"].scale
    assert values.round().min() == 0
    assert values.round().max() == 2**bits - 1
    assert (stubs(model)["x_stub"].lowest, stubs(model)["stem_stub"].lowest) == (
        -(2 ** (bits - 1)),
        0,
    )


def test_the_sign_lasts() -> None:
    model = quantized(UNSIGNED, UNSIGNED)
    restored = insert_qdq(transform(net()), QuantConfig(UNSIGNED, UNSIGNED))
    restored.load_state_dict(model.state_dict())
    want = model(batches(1, 2, SHAPE)[0])
    for twin in (restored, copy.deepcopy(model)):
        assert torch.equal(twin(batches(1, 2, SHAPE)[0]), want)
        assert not stubs(twin)["stem_stub"].signed
    assert "unsigned where nothing is negative" in repr(stubs(model)["stem_stub"])
    calibrate(model, [-part.abs() for part in batches(1, 3, SHAPE)])
    assert stubs(model)["x_stub"].signed


def test_a_group_has_a_sign_where_one_of_it_has() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.other = nn.Conv2d(3, 4, 1), nn.Conv2d(6, 4, 1)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            y = torch.relu(x)
            return self.one(y), self.other(torch.cat((y, x), 1))

    model = quantize(transform(Both().eval()), batches(2, 3, SHAPE), QuantConfig(UNSIGNED))
    found = stubs(model)
    assert len(found) == 2
    assert all(stub.signed for stub in found.values())
    assert len({stub.scale.item() for stub in found.values()}) == 1


def e4m3() -> np.ndarray:
    """All numbers of the format, from its definition: 4 bits of exponent, 3 of mantissa, bias 7."""
    normal = [2.0 ** (e - 7) * (1 + m / 8) for e in range(1, 16) for m in range(8)]
    below = [2.0**-6 * m / 8 for m in range(8)]
    positive = np.array([*below, *normal[:-1]])  # the last pattern is no number
    return np.unique(np.concatenate((-positive, positive)))


def test_fp8_rounds_to_the_nearest_number_there_is() -> None:
    numbers = e4m3()
    assert len(numbers) == 253
    assert numbers.max() == 448
    values = torch.cat((torch.randn(4000) * 100, torch.randn(1000) * 1e-2, torch.randn(50) * 1e4))
    got = fake_quantize(values, torch.tensor(1.0), FLOAT8).numpy()
    distances = np.abs(values.numpy()[:, None].clip(-448, 448) - numbers).min(1)
    assert np.isin(got, numbers).all()
    np.testing.assert_allclose(np.abs(values.numpy().clip(-448, 448) - got), distances, atol=1e-7)


def test_fp8_is_simulated_for_activations_and_weights() -> None:
    model = quantized(FP8, FP8)
    for path, stub in stubs(model).items():
        values = (seen(model, path) / stub.scale).unique().double().numpy()
        nearest = np.abs(values[:, None] - e4m3()).min(1)
        assert (nearest <= np.maximum(np.abs(values), 1e-3) * 1e-6).all()
    conv = model.get_submodule("conv")
    quantizer = next(one for one in conv.modules() if isinstance(one, WeightFakeQuantize))
    weight = model.get_submodule("conv.conv").get_parameter("weight")
    torch.testing.assert_close(quantizer.scale, weight.detach().abs().amax((1, 2, 3)) / 448)
    source, x = net(), batches(1, 4, SHAPE)[0]
    with torch.no_grad():
        assert 0 < float((model(x) - source(x)).norm() / source(x).norm()) < 0.1


def test_fp8_trains() -> None:
    model = quantized(FP8, FP8).train()
    model(batches(1, 4, SHAPE)[0]).square().sum().backward()
    assert all(one.grad is not None and one.grad.any() for one in model.parameters())


REFUSED: dict[str, tuple[TensorQuantConfig, TensorQuantConfig, str]] = {
    "unsigned": (UNSIGNED, UNSIGNED, "'stem_stub' simulates unsigned integers, .* signed=True"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_tensorrt_does_not_take_is_not_exported(name: str) -> None:
    activations, weights, said = REFUSED[name]
    with pytest.raises(ExportError, match=said):
        export_onnx(quantized(activations, weights), (batches(1, 1, SHAPE)[0],), "never.onnx")


def test_formats_that_are_none_are_refused() -> None:
    unknown: Format = "float16"  # type: ignore[assignment]
    with pytest.raises(QuantizationError, match="not 'float16'"):
        TensorQuantConfig(format=unknown)
    with pytest.raises(QuantizationError, match="float8_e4m3 has 8 bits and a sign"):
        TensorQuantConfig(bits=4, format="float8_e4m3")
    with pytest.raises(QuantizationError, match="float8_e4m3 has 8 bits and a sign"):
        TensorQuantConfig(signed=False, format="float8_e4m3")


def test_weights_may_be_clipped_for_less_error() -> None:
    torch.manual_seed(3)
    weight = torch.randn(6, 40, 3, 3)
    weight[:, 0, 0, 0] *= 8
    weight[4] = 0
    errors = {}
    for name, observer in {"all": TensorQuantConfig().observer, "mse": MSEObserver}.items():
        quantizer = WeightFakeQuantize(TensorQuantConfig(4, observer), weight).eval()
        errors[name] = (quantizer(weight) - weight).square().mean((1, 2, 3))
    kept = torch.tensor([index for index in range(6) if index != 4])
    assert (errors["mse"][kept] < 0.85 * errors["all"][kept]).all()
    assert errors["mse"][4] == 0
    brute = torch.stack([_error_at(weight, share) for share in np.geomspace(0.05, 1, 100)])
    assert (errors["mse"] <= 1.05 * brute.amin(0)).all()


def _error_at(weight: Tensor, share: float) -> Tensor:
    scale = weight.abs().amax((1, 2, 3), keepdim=True).clamp(min=1e-9) * share / 7
    return (fake_quantize(weight, scale, Grid(-7, 7)) - weight).square().mean((1, 2, 3))


def test_observers_of_weights_look_at_each_channel() -> None:
    weight = torch.arange(1.0, 101).repeat(2, 1) * torch.tensor([[1.0], [10.0]])
    config = TensorQuantConfig(observer=lambda: PercentileObserver(50))
    quantizer = WeightFakeQuantize(config, weight)
    torch.testing.assert_close(
        quantizer.scale * 127, torch.tensor([50.0, 500.0]), rtol=1e-2, atol=0
    )
