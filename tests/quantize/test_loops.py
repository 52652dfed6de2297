"""What trains a module trains a quantized one: mixed precision, compiling, schedulers."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.utils.checkpoint import checkpoint

from embedl_deploy import transform
from embedl_deploy.quantize import (
    MinMaxObserver,
    QuantConfig,
    TensorQuantConfig,
    analyze,
    quantize,
    scale_parameters,
)
from embedl_deploy.quantize.config import Scale
from embedl_deploy.quantize.rounding import INT8, Grid, fake_quantize
from examples.digits.data import Digits, digits
from tests.quantize.nets import batches, ready
from tests.quantize.test_learned import LEARNED, SHAPE, Joined, stubs, train, weights

CONFIGS = {"observed": QuantConfig(), "learned": LEARNED}


def joined(config: QuantConfig) -> fx.GraphModule:
    return quantize(transform(ready(Joined, SHAPE)), batches(2, 8, SHAPE), config)


def test_autocast_rounds_in_float32_and_gives_back_the_type_it_got() -> None:
    linear = nn.Linear(16, 4)
    model = quantize(transform(linear), [torch.randn(8, 16)], LEARNED)
    (stub,), (weight,) = stubs(model).values(), weights(model)
    x = torch.randn(8, 16).bfloat16()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        got = model(x)
    rounded = fake_quantize(x.float(), stub.scale, INT8).bfloat16()
    kept = fake_quantize(linear.weight, weight.scale[:, None], Grid(-127, 127)).bfloat16()
    assert got.dtype == torch.bfloat16
    with torch.no_grad():
        assert torch.equal(got, F.linear(rounded, kept, linear.bias.bfloat16()))


@pytest.mark.parametrize("name", CONFIGS)
def test_a_loop_with_autocast_and_a_scheduler_lowers_the_loss(name: str) -> None:
    model = joined(CONFIGS[name]).train()
    labels = torch.arange(16) % 4
    images = batches(1, 16, SHAPE, seed=5)[0] * (0.2 + labels).view(16, 1, 1, 1)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    scheduler = CosineAnnealingLR(optimizer, 25)
    losses = []
    for _ in range(25):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        scheduler.step()
        losses.append(loss.item())
    assert losses[-1] < 0.85 * losses[0]
    assert {one.dtype for one in model.parameters()} == {torch.float32}


def test_a_compiled_model_learns_the_same_at_any_batch_size() -> None:
    source = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 6), nn.Flatten()).eval()
    model = quantize(transform(source), batches(2, 8, SHAPE), LEARNED).train()
    twin = copy.deepcopy(model)
    compiled = torch.compile(twin, backend="aot_eager", fullgraph=True, dynamic=True)
    for rows in (4, 6):
        images = batches(1, rows, SHAPE)[0]
        for called in (model, compiled):
            F.cross_entropy(called(images), torch.arange(rows) % 4).backward()
        for (name, one), other in zip(model.named_parameters(), twin.parameters(), strict=True):
            torch.testing.assert_close(other.grad, one.grad, msg=name)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_gives_the_same_gradients(name: str, *, reentrant: bool) -> None:
    model, other = joined(CONFIGS[name]).eval(), joined(CONFIGS[name]).eval()
    images = batches(1, 8, SHAPE, seed=5)[0].requires_grad_()
    again = checkpoint(model, images, use_reentrant=reentrant)
    assert isinstance(again, Tensor)
    again.square().sum().backward()
    other(images).square().sum().backward()
    for (path, one), want in zip(model.named_parameters(), other.parameters(), strict=True):
        assert one.grad is not None
        assert want.grad is not None
        assert torch.equal(one.grad, want.grad), path


def test_a_copy_in_the_middle_of_training_goes_the_same_way_alone() -> None:
    model = joined(LEARNED)
    train(model, 3)
    twin = copy.deepcopy(model)
    assert train(twin, 3) == train(model, 3)
    before = [one.detach().clone() for one in model.parameters()]
    train(twin, 1)
    assert all(torch.equal(*pair) for pair in zip(before, model.parameters(), strict=True))


def test_a_model_that_learns_its_scales_can_be_analyzed() -> None:
    model, plain = joined(LEARNED), joined(QuantConfig())
    data = batches(1, 8, SHAPE)
    assert str(analyze(model, data)) == str(analyze(plain, data))


class Digit(nn.Module):
    """Small enough that four bits cost it something."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 16, 3, bias=False), nn.BatchNorm2d(16)
        self.grouped = nn.Conv2d(16, 16, 3, stride=2, groups=4, bias=False)
        self.norm_again, self.head = nn.BatchNorm2d(16), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.norm(self.conv(x)))
        return self.head(torch.relu(self.norm_again(self.grouped(y))).flatten(1))


def practise(model: nn.Module, data: Digits, steps: int, rate: float, scale_rate: float) -> None:
    scales = scale_parameters(model)
    rest = [one for one in model.parameters() if all(one is not scale for scale in scales)]
    optimizer = torch.optim.AdamW(rest, rate)
    if scales:
        group = {"params": scales, "lr": scale_rate, "weight_decay": 0.0}
        optimizer.add_param_group(group)
    scheduler = CosineAnnealingLR(optimizer, steps)
    generator = torch.Generator().manual_seed(0)
    model.train()
    for _ in range(steps):
        chosen = torch.randint(len(data.train_labels), (64,), generator=generator)
        optimizer.zero_grad()
        loss = F.cross_entropy(model(data.train_images[chosen]), data.train_labels[chosen])
        loss.backward()
        optimizer.step()
        scheduler.step()
    model.eval()


@torch.no_grad()
def accuracy(model: nn.Module, data: Digits) -> float:
    return float((model(data.test_images).argmax(1) == data.test_labels).float().mean())


@pytest.fixture(scope="module")
def trained() -> tuple[nn.Module, Digits]:
    torch.manual_seed(0)
    data, model = digits(8), Digit()
    practise(model, data, 400, 5e-3, 0.0)
    return model, data


def coarse(trained: tuple[nn.Module, Digits], bits: int, scale: Scale) -> tuple[float, float]:
    """The accuracy before and after training with weights of a few bits."""
    model, data = trained
    config = QuantConfig(
        TensorQuantConfig(scale=scale), TensorQuantConfig(bits, MinMaxObserver, scale=scale)
    )
    model = quantize(transform(model), [data.train_images[:256]], config)
    before = accuracy(model, data)
    practise(model, data, 80, 2e-3, 3e-3)
    return before, accuracy(model, data)


def test_training_with_learned_scales_recovers_what_coarse_weights_lose(
    trained: tuple[nn.Module, Digits],
) -> None:
    plain = accuracy(*trained)
    for bits, lost, left in ((4, -0.02, 0.03), (2, 0.1, 0.06)):
        before, fixed = coarse(trained, bits, "fixed")
        again, learned = coarse(trained, bits, "learned")
        assert before == again <= plain - lost
        assert min(learned, fixed) > plain - left
