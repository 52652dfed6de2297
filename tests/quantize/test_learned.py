"""Scales that are learned: their gradient, their sign, and where several stubs have one."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from embedl_deploy import transform
from embedl_deploy.export import export_onnx, verify_onnx
from embedl_deploy.quantize import (
    MSEObserver,
    QuantConfig,
    QuantStub,
    TensorQuantConfig,
    WeightFakeQuantize,
    insert_qdq,
    quantize,
)
from embedl_deploy.quantize.rounding import FLOAT8, INT8, Grid, fake_quantize
from tests.quantize.nets import batches, ready

SHAPE = (3, 8, 8)
LEARNED = QuantConfig(TensorQuantConfig(scale="learned"), TensorQuantConfig(scale="learned"))
GRIDS = {"int8": INT8, "int4": Grid(-8, 7), "unsigned": Grid(0, 15), "fp8": FLOAT8}


class Joined(nn.Module):
    """Two branches whose concatenation a convolution reads: three stubs of one scale."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)
        self.norm, self.last = nn.BatchNorm2d(4), nn.Conv2d(8, 4, 1)
        self.above, self.below = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y, z = torch.relu(self.norm(self.one(x))), self.other(x)
        both = self.last(torch.cat([y, z], 1))
        return (self.above(y) + self.below(z)).mean((2, 3)) + both.mean((2, 3))


def joined(config: QuantConfig = LEARNED) -> fx.GraphModule:
    return quantize(transform(ready(Joined, SHAPE)), batches(2, 8, SHAPE), config)


def stubs(model: fx.GraphModule) -> dict[str, QuantStub]:
    return {path: one for path, one in model.named_modules() if isinstance(one, QuantStub)}


def weights(model: fx.GraphModule) -> list[WeightFakeQuantize]:
    return [one for one in model.modules() if isinstance(one, WeightFakeQuantize)]


def train(model: nn.Module, steps: int = 20, rate: float = 0.1) -> list[float]:
    """Fit classes that show in the sizes of the images."""
    labels = torch.arange(16) % 4
    images = batches(1, 16, SHAPE, seed=5)[0] * (0.2 + labels).view(16, 1, 1, 1)
    optimizer = torch.optim.SGD(model.parameters(), rate, momentum=0.9)
    model.train()
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def oracle(values: Tensor, scale: float, grid: Grid, upstream: Tensor) -> float:
    """Equation 3 of Esser et al. (2020), value by value, in float64."""
    total = 0.0
    for value, gradient in zip(values.flatten().tolist(), upstream.flatten().tolist(), strict=True):
        steps = float(np.float32(value) / np.float32(scale))
        slope = float(min(max(steps, grid.lowest), grid.highest))
        if slope == steps:
            slope = float(grid.round(torch.tensor(steps))) - steps
        total += slope * gradient
    return total


@pytest.mark.parametrize("name", GRIDS)
def test_the_gradient_of_a_scale_is_that_of_the_paper(name: str) -> None:
    grid, scale = GRIDS[name], torch.tensor(0.37, requires_grad=True)
    values = (torch.randn(4, 30) * grid.highest * 0.3).requires_grad_()
    upstream = torch.randn(4, 30)
    fake_quantize(values, scale, grid, sharing=30).backward(upstream)
    want = oracle(values.detach(), 0.37, grid, upstream) / (30 * grid.highest) ** 0.5
    assert scale.grad is not None
    assert scale.grad.item() == pytest.approx(want, rel=1e-3, abs=1e-5)
    fixed = values.detach().clone().requires_grad_()
    fake_quantize(fixed, scale.detach(), grid).backward(upstream)
    assert fixed.grad is not None
    assert values.grad is not None
    assert torch.equal(fixed.grad, values.grad)


def test_the_gradient_of_a_clamped_value_is_the_slope_of_the_limit() -> None:
    """Numerically: outside the range the result is a limit times the scale."""
    values, scale = torch.tensor([-90.0, 77.0]), torch.tensor(0.5, requires_grad=True)
    fake_quantize(values, scale, INT8, sharing=2).sum().backward()
    with torch.no_grad():
        up, down = (fake_quantize(values, scale + d, INT8).sum() for d in (1 / 64, -1 / 64))
    assert scale.grad is not None
    assert scale.grad.item() == pytest.approx(float(up - down) * 32 / (2 * 127) ** 0.5)


def test_a_scale_so_small_that_steps_overflow_has_a_finite_gradient() -> None:
    values, scale = torch.tensor([10.0, -5.0, 0.0]), torch.tensor(2e-38, requires_grad=True)
    fake_quantize(values, scale, INT8).sum().backward()
    assert scale.grad is not None
    assert scale.grad.item() == pytest.approx((127 - 128) / 127**0.5)


def test_each_channel_of_a_weight_learns_from_its_own_values() -> None:
    weight = torch.randn(3, 2, 5)
    quantizer = WeightFakeQuantize(TensorQuantConfig(4, scale="learned"), weight, axis=1)
    with torch.no_grad():
        quantizer.scale *= 0.7
    upstream = torch.randn_like(weight)
    quantizer(weight).backward(upstream)
    assert quantizer.scale.grad is not None
    for channel in range(2):
        scale = quantizer.scale[channel].item()
        want = oracle(weight[:, channel], scale, Grid(-7, 7), upstream[:, channel])
        got = quantizer.scale.grad[channel].item()
        assert got == pytest.approx(want / (15 * 7) ** 0.5, rel=1e-4)


def test_an_activation_learns_the_same_from_a_batch_in_one_piece_or_two() -> None:
    stub = QuantStub(TensorQuantConfig(scale="learned"))
    stub.set_range(torch.tensor(2.0))
    whole = torch.randn(8, 3, 4)
    stub(whole).square().mean().backward()
    assert stub.scale.grad is not None
    want = stub.scale.grad.clone()
    stub.scale.grad = None
    for half in whole.split(4):
        (stub(half).square().mean() / 2).backward()
    torch.testing.assert_close(stub.scale.grad, want)
    assert want.abs() > 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_learns_in_float32(dtype: torch.dtype) -> None:
    stub = QuantStub(TensorQuantConfig(scale="learned")).to(dtype)
    stub.set_range(torch.tensor(2.0))
    values = torch.randn(8, 40).to(dtype).requires_grad_()
    result = stub(values)
    result.float().square().sum().backward()
    assert (result.dtype, stub.scale.dtype) == (dtype, torch.float32)
    assert stub.scale.grad is not None
    assert values.grad is not None
    assert (stub.scale.grad.dtype, values.grad.dtype) == (torch.float32, dtype)


def test_a_cast_of_the_model_keeps_a_learned_scale_and_its_gradient() -> None:
    model = joined()
    train(model, 1)
    before = [one.scale.detach().clone() for one in stubs(model).values()]
    model.to(torch.bfloat16)
    for stub, was in zip(stubs(model).values(), before, strict=True):
        assert isinstance(stub.scale, nn.Parameter)
        assert stub.scale.grad is not None
        assert stub.scale.dtype == stub.scale.grad.dtype == torch.float32
        assert torch.equal(stub.scale, was)


def test_calibration_and_the_observer_start_what_is_learned() -> None:
    observed = TensorQuantConfig(4, MSEObserver)
    learned = TensorQuantConfig(4, MSEObserver, scale="learned")
    start, plain = (joined(QuantConfig(one, one)) for one in (learned, observed))
    assert start.state_dict().keys() == plain.state_dict().keys()
    for name, tensor in plain.state_dict().items():
        assert torch.equal(start.state_dict()[name], tensor), name
    with torch.no_grad():
        images = batches(1, 8, SHAPE, seed=9)[0]
        assert torch.equal(start(images), plain(images))


def test_training_reaches_every_scale_and_lowers_the_loss() -> None:
    model = joined()
    before = {name: one.detach().clone() for name, one in model.named_parameters()}
    own = [*weights(model), *(stub for stub in stubs(model).values() if not stub.shares)]
    assert sum(name.endswith("scale") for name in before) == len(own)
    losses = train(model)
    assert losses[-1] < 0.8 * losses[0]
    for name, one in model.named_parameters():
        assert one.grad is not None, name
        assert not torch.equal(one, before[name]), name


def test_stubs_that_share_a_scale_learn_one() -> None:
    model = joined()
    shared = {path for path, one in stubs(model).items() if one.shares}
    assert len(shared) == 2
    twin = copy.deepcopy(model)
    for one in (model, twin):
        train(one, 3)
        group = [
            stub
            for path, stub in stubs(one).items()
            if stub.shares or path in {stub.shares for stub in stubs(one).values()}
        ]
        assert len(group) == 3
        assert len({id(stub.scale) for stub in group}) == 1
    restored = insert_qdq(transform(ready(Joined, SHAPE)), LEARNED)
    restored.load_state_dict(model.state_dict())
    with torch.no_grad():
        images = batches(1, 8, SHAPE, seed=9)[0]
        assert torch.equal(restored.eval()(images), model.eval()(images))


def test_a_scale_that_a_step_takes_below_zero_counts_by_its_size() -> None:
    model = joined()
    images = batches(1, 8, SHAPE, seed=9)[0]
    with torch.no_grad():
        want = model(images)
        for quantizer in (
            *weights(model),
            *{one.scale: one for one in stubs(model).values()}.values(),
        ):
            quantizer.scale.neg_()
        assert torch.equal(model(images), want)
        restored = insert_qdq(transform(ready(Joined, SHAPE)), LEARNED)
        restored.load_state_dict(model.state_dict())
        assert torch.equal(restored.eval()(images), want)
        assert torch.equal(model.eval()(images), want)
    for quantizer in (*weights(model), *stubs(model).values()):
        assert (quantizer.scale > 0).all()


def test_a_learned_model_is_exported_as_simulated(tmp_path: Path) -> None:
    model = joined()
    train(model)
    path = tmp_path / "model.onnx"
    images = batches(1, 8, SHAPE, seed=9)
    export_onnx(model, (images[0],), path)
    assert model.training
    assert all(stub.learns and stub.scale.requires_grad for stub in stubs(model).values())
    assert verify_onnx(path, model, images).only_ties
    assert train(model, 1)


def test_fixed_scales_of_weights_stay_while_observed_ones_follow() -> None:
    for scale, moved in (("fixed", False), ("observed", True)):
        model = joined(QuantConfig(weights=TensorQuantConfig(scale=scale)))  # type: ignore[arg-type]
        before = [one.scale.clone() for one in weights(model)]
        train(model, 3)
        after = [one.scale.clone() for one in weights(model.eval())]
        same = [torch.equal(*pair) for pair in zip(before, after, strict=True)]
        assert same == [not moved] * len(before)


@pytest.mark.parametrize("way", ["eval", "state_dict", "export"])
def test_observed_scales_are_those_of_the_weights_that_the_last_step_left(
    way: str, tmp_path: Path
) -> None:
    model = joined(QuantConfig())
    train(model, 2)
    stale = {name: one.clone() for name, one in model.named_buffers()}
    if way == "export":
        images = batches(1, 8, SHAPE)
        export_onnx(model, (images[0],), tmp_path / "model.onnx")
        assert verify_onnx(tmp_path / "model.onnx", model, images).only_ties
    found = model.state_dict() if way == "state_dict" else dict(model.eval().named_buffers())
    for path, weight in (("one", "conv"), ("last", "conv")):
        name = f"{path}.weight_quantizers.conv_weight.scale"
        want = model.get_parameter(f"{path}.{weight}.weight").abs().amax((1, 2, 3)) / 127
        assert torch.equal(found[name], want)
        assert not torch.equal(found[name], stale[name])
