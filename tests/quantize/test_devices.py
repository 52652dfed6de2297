"""Everything works on a device that is not the CPU, and on one device at a time."""

from collections.abc import Callable
from copy import deepcopy
from functools import partial
from importlib import import_module
from pathlib import Path

import pytest
import torch
from torch import Tensor, fx, nn
from torchvision.models.convnext import CNBlock
from torchvision.models.swin_transformer import SwinTransformerBlock
from torchvision.models.vision_transformer import EncoderBlock

from embedl_deploy import transform
from embedl_deploy.errors import CalibrationError, DeviceError
from embedl_deploy.export import export_onnx, verify_onnx
from embedl_deploy.quantize import (
    EntropyObserver,
    FixedObserver,
    MinMaxObserver,
    MovingAverageObserver,
    MSEObserver,
    Observer,
    PercentileObserver,
    QuantConfig,
    QuantStub,
    TensorQuantConfig,
    adaround,
    analyze,
    calibrate,
    insert_qdq,
    quantize,
    recipe_report,
    restore,
)
from embedl_deploy.quantize.stubs import quantizers_of
from tests.quantize.nets import batches, ready
from tests.second_device import SECOND, calls, made_on_it, waits


def conv() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(8, 8, 3, stride=2),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, groups=8),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 5),
    )


def vit() -> nn.Module:
    return EncoderBlock(2, 8, 16, 0.0, 0.0)


def swin() -> nn.Module:
    return SwinTransformerBlock(8, 2, [2, 2], [1, 1])


def convnext() -> nn.Module:
    return CNBlock(8, 0.5, 0.0)


NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "conv": (conv, (8, 9, 9)),
    "vit": (vit, (6, 8)),
    "swin": (swin, (4, 4, 8)),
    "convnext": (convnext, (8, 9, 9)),
}
accurate = import_module("embedl_deploy.quantize.accurate")
OBSERVERS: dict[str, Callable[[], Observer]] = {
    "min-max": MinMaxObserver,
    "average": MovingAverageObserver,
    "fixed": partial(FixedObserver, 4.0),
    "percentile": PercentileObserver,
    "entropy": EntropyObserver,
    "mse": MSEObserver,
}


def data(name: str = "conv", count: int = 2) -> list[Tensor]:
    return batches(count, 4, NETS[name][1])


def there(name: str = "conv") -> list[Tensor]:
    return [one.to(SECOND) for one in data(name)]


def source(name: str) -> nn.Module:
    return ready(*NETS[name])


def fused(name: str) -> fx.GraphModule:
    """On the second device from the start."""
    return transform(source(name).to(SECOND), (there(name)[0],)).model


def on_cpu(model: fx.GraphModule) -> fx.GraphModule:
    """The same model as it would be had it never been elsewhere."""
    return deepcopy(model).cpu()


def only_on(device: torch.device, model: nn.Module) -> bool:
    tensors = [*model.parameters(), *model.buffers()]
    return bool(tensors) and {one.device for one in tensors} == {device}


@pytest.fixture(params=NETS, scope="module")
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def quantized(name: str) -> fx.GraphModule:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return quantize(fused(name), data(name), QuantConfig(attention="full"))


def test_scales_are_those_of_the_cpu(name: str, quantized: fx.GraphModule) -> None:
    assert only_on(SECOND, quantized)
    model = on_cpu(quantized)
    stubs = [one for one in model.modules() if isinstance(one, QuantStub)]
    assert stubs
    for stub in stubs:
        stub.scale.fill_(torch.nan)
    calibrate(model, data(name))
    got, want = quantized.state_dict(), model.state_dict()
    for key, one in want.items():
        torch.testing.assert_close(got[key].cpu(), one, rtol=1e-5, atol=0.0)


def test_the_file_has_the_bytes_that_the_cpu_gives_and_is_verified(
    name: str, quantized: fx.GraphModule, tmp_path: Path
) -> None:
    before = {id(one) for one in quantized.parameters()}
    file = export_onnx(quantized, there(name)[0], tmp_path / "there.onnx")
    same = export_onnx(on_cpu(quantized), data(name)[0], tmp_path / "here.onnx")
    assert file.read_bytes() == same.read_bytes()
    assert before == {id(one) for one in quantized.parameters()}
    parity = verify_onnx(file, quantized, data(name, 1))
    assert parity.only_ties, parity
    assert parity.stubs
    assert only_on(SECOND, quantized)


def test_a_file_in_half_precision(tmp_path: Path) -> None:
    model = quantize(fused("conv"), data())
    file = export_onnx(model, there()[0], tmp_path / "half.onnx", precision="float16")
    assert verify_onnx(file, model, there()[:1]).only_ties


def test_a_training_step_stays_on_the_device(name: str, quantized: fx.GraphModule) -> None:
    model = deepcopy(quantized).train()
    model(there(name)[0]).square().mean().backward()
    gradients = [one.grad for one in model.parameters() if one.grad is not None]
    assert gradients
    assert {one.device for one in gradients} == {SECOND}
    assert all(one.isfinite().all() for one in gradients)
    torch.optim.SGD(model.parameters(), 0.1).step()
    assert only_on(SECOND, model)


def test_a_checkpoint_from_a_device_is_restored_where_there_is_none(
    name: str, quantized: fx.GraphModule
) -> None:
    config = QuantConfig(attention="full")
    plain = transform(source(name), (data(name)[0],))
    restored = restore(plain, config, quantized.state_dict())
    assert only_on(torch.device("cpu"), restored)
    state = quantized.state_dict()
    assert all(torch.equal(one, state[key].cpu()) for key, one in restored.state_dict().items())
    assert only_on(SECOND, restore(fused(name), config, restored.state_dict()))


@pytest.mark.parametrize("observer", OBSERVERS)
def test_every_observer(name: str, observer: str) -> None:
    one = TensorQuantConfig(observer=OBSERVERS[observer])
    model = fused(name)
    config = QuantConfig(one, one)
    got = quantize(model, data(name), config).state_dict()
    want = quantize(on_cpu(model), data(name), config).state_dict()
    for key, value in want.items():
        torch.testing.assert_close(got[key].cpu(), value, rtol=1e-4, atol=1e-6)


def test_every_step_of_the_accurate_recipe(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accurate, "adaround", partial(adaround, iterations=3))
    weights = TensorQuantConfig(bits=4)
    with made_on_it():
        model = quantize(fused(name), data(name), QuantConfig(weights=weights), recipe="accurate")
    names = [step.name for step in recipe_report(model).steps]
    assert {"smooth", "equalize", "MSE observers", "adaround", "correct_bias"} <= {*names}
    assert only_on(SECOND, model)


def test_layers_are_analyzed_there() -> None:
    model = quantize(fused("conv"), data())
    assert analyze(model, data(count=1)).rows


def test_no_device_that_the_code_names_is_in_the_file(tmp_path: Path) -> None:
    class Positions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(x) + torch.arange(8, device=x.device) + torch.ones(8, device=SECOND)

    x = torch.randn(2, 8).to(SECOND)
    model = quantize(transform(Positions().to(SECOND), (x,)), [x])
    file = export_onnx(model, x, tmp_path / "a.onnx")
    assert verify_onnx(file, model, [x]).only_ties


def test_a_model_on_two_devices_is_refused_with_their_names(tmp_path: Path) -> None:
    model = transform(conv()).model
    calibrated = quantize(model, data())
    for one in (model, calibrated):
        one.get_submodule("6").to(SECOND)
    said = r"spread over devices: '0\.conv\.weight' on cpu and '6\.conv\.weight' on seconddevice:0"
    with pytest.raises(DeviceError, match=said):
        insert_qdq(model)
    with pytest.raises(DeviceError, match=said):
        calibrate(calibrated, data())
    with pytest.raises(DeviceError, match=said):
        export_onnx(calibrated, data()[0], tmp_path / "a.onnx")
    assert not [*tmp_path.iterdir()]


def test_a_loop_with_data_elsewhere_is_told_so() -> None:
    model = insert_qdq(fused("conv"))
    said = "calibration batch 0 is on cpu and the model on seconddevice:0"
    with pytest.raises(CalibrationError, match=said):
        calibrate(model, lambda one: one(data()[0]))


@pytest.mark.parametrize("way", ["batches", "loop"])
def test_too_little_memory_names_the_batch_and_keeps_the_scales(way: str) -> None:
    model = calibrate(insert_qdq(transform(conv()).model), data()).train()
    before = {key: one.clone() for key, one in model.state_dict().items()}

    def fill(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    hook = model.get_submodule("6").register_forward_pre_hook(fill)
    given = data() if way == "batches" else lambda one: one(data()[0])
    said = (
        r"calibration batch 0 with shape \(4, 8, 9, 9\) does not fit into the device's memory, and "
        r"the model's scales and modes are as before; give smaller batches: CUDA out of memory"
    )
    with pytest.raises(CalibrationError, match=said):
        calibrate(model, given)
    hook.remove()
    assert model.training
    assert all(torch.equal(one, before[key]) for key, one in model.state_dict().items())
    calibrate(model, data())


@pytest.mark.parametrize("observer", OBSERVERS)
def test_no_batch_of_calibration_waits_for_the_device(observer: str) -> None:
    model = insert_qdq(fused("vit"), QuantConfig(TensorQuantConfig(observer=OBSERVERS[observer])))
    done: list[int] = []
    with waits() as waited:
        given = [one.to(SECOND) for one in batches(12, 4, NETS["vit"][1])]
        calibrate(model, given, progress=lambda *_: done.append(len(waited)))
    assert done == [0] * 12, waited
    assert waited, "the scales are read in the end"


@pytest.mark.parametrize("observer", ["min-max", "percentile", "entropy", "mse"])
def test_a_batch_costs_a_dozen_operations_at_a_stub(observer: str) -> None:
    model = insert_qdq(fused("vit"), QuantConfig(TensorQuantConfig(observer=OBSERVERS[observer])))
    stubs = sum(isinstance(one, QuantStub) for one in model.modules())
    given = [one.to(SECOND) for one in batches(16, 4, NETS["vit"][1])]
    with calls() as plain, torch.no_grad():
        for one in given:
            fused_of(model)(one)
    marks: list[int] = []
    with calls() as made:
        calibrate(model, given, progress=lambda *_: marks.append(computing(made)))
    each = (marks[-1] - computing(plain)) / len(given) / stubs
    assert each <= (6 if observer == "min-max" else 16), each


def fused_of(model: fx.GraphModule) -> fx.GraphModule:
    """The model without what its stubs do."""
    plain = deepcopy(model)
    for one in quantizers_of(plain):
        one.enabled = False
    return plain


def computing(made: list[str]) -> int:
    """How many of the operations are kernels: not views, and not memory."""
    none = (
        "view",
        "reshape",
        "expand",
        "slice",
        "select",
        "empty",
        "detach",
        "alias",
        "as_strided",
    )
    free = (*none, "transpose", "permute", "unbind", "split", "unsqueeze", "t.", "_unsafe_view")
    return sum(not one.removeprefix("aten.").startswith(free) for one in made)


@pytest.mark.parametrize("observer", ["min-max", "mse"])
def test_what_is_not_finite_is_found_where_nothing_waits(observer: str) -> None:
    config = QuantConfig(TensorQuantConfig(observer=OBSERVERS[observer]))
    model = insert_qdq(fused("conv"), config)
    given = [*data(), data()[0] * torch.inf, *data()]
    said = r"come from the input 'input' in calibration batch 2 and reach 'input_1_stub'"
    with pytest.raises(CalibrationError, match=said):
        calibrate(model, given)
