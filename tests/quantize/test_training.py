"""A quantized model is an ordinary module: it trains, is copied, saved and compiled."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from embedl_deploy import transform
from embedl_deploy.errors import QuantizationError
from embedl_deploy.quantize import QuantStub, WeightFakeQuantize, calibrate, insert_qdq, quantize
from tests.quantize.nets import NETS, batches, ready

SHAPE = (3, 12, 12)


class Net(nn.Module):
    """A residual block between a stem and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8)
        self.conv, self.norm_again = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.norm(self.stem(x)))
        y = torch.relu(self.norm_again(self.conv(y)) + y)
        return self.head(y.mean((2, 3)))


def quantized() -> fx.GraphModule:
    return quantize(transform(ready(Net, SHAPE)), batches(3, 8, SHAPE))


def task() -> tuple[Tensor, Tensor]:
    """Images whose class shows in the signs of their channels."""
    labels = torch.arange(32) % 4
    signs = torch.tensor([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])
    return torch.randn(32, *SHAPE) + signs[labels].view(32, 3, 1, 1), labels


def train(model: nn.Module, steps: int = 30) -> list[float]:
    images, labels = task()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    model.train()
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def weight_quantizers(model: fx.GraphModule) -> dict[str, WeightFakeQuantize]:
    named = model.named_modules()
    return {path: one for path, one in named if isinstance(one, WeightFakeQuantize)}


def test_an_ordinary_loop_lowers_the_loss_and_reaches_every_parameter() -> None:
    model = quantized()
    before = {name: one.detach().clone() for name, one in model.named_parameters()}
    losses = train(model)
    assert losses[-1] < 0.3 * losses[0]
    for name, one in model.named_parameters():
        assert one.grad is not None, name
        assert not torch.equal(one, before[name]), name


def test_batch_norm_is_live_in_training_and_still_in_eval() -> None:
    model = quantized()
    norm = model.get_submodule("stem.batch_norm")
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None
    assert norm.num_batches_tracked is not None
    count, mean = norm.num_batches_tracked.item(), norm.running_mean.clone()
    train(model, 2)
    assert norm.num_batches_tracked.item() == count + 2
    assert not torch.equal(norm.running_mean, mean)
    mean = norm.running_mean.clone()
    model.eval()(task()[0])
    assert torch.equal(norm.running_mean, mean)


def test_weight_scales_follow_in_training_and_are_frozen_in_eval() -> None:
    model = quantized()
    conv = model.get_submodule("conv.conv")
    quantizer = weight_quantizers(model)["conv.weight_quantizers.conv_weight"]
    assert isinstance(conv, nn.Conv2d)
    before = quantizer.scale.clone()
    with torch.no_grad():
        conv.weight *= 3
        model(task()[0])
        assert torch.equal(quantizer.scale, before)
        model.train()(task()[0])
    want = conv.weight.detach().abs().amax((1, 2, 3)) / 127
    assert torch.equal(quantizer.scale, want)
    assert not torch.equal(quantizer.scale, before)


def test_activation_scales_are_fixed_in_training() -> None:
    model = quantized()
    stubs = [one for one in model.modules() if isinstance(one, QuantStub)]
    before = [one.scale.clone() for one in stubs]
    train(model, 3)
    assert [one.scale for one in stubs] == before


def test_the_gradients_are_nearly_those_of_the_source_model() -> None:
    images, labels = task()
    source = ready(Net, SHAPE)
    result = transform(source, copy=False)
    model = insert_qdq(result, copy=False)
    assert {*map(id, model.parameters())} == {*map(id, source.parameters())}
    gradients = []
    calibrate(model, [images])
    for one in (source, model):
        F.cross_entropy(one.train()(images), labels).backward()
        found = [parameter.grad for parameter in source.parameters()]
        gradients.append(torch.cat([grad.flatten() for grad in found if grad is not None]))
        source.zero_grad()
    plain, rounded = gradients
    assert not torch.equal(plain, rounded)
    assert F.cosine_similarity(plain, rounded, dim=0) > 0.98


def test_a_model_inserted_in_training_can_be_calibrated_and_trained() -> None:
    model = insert_qdq(transform(ready(Net, SHAPE).train()))
    calibrate(model, batches(2, 8, SHAPE))
    assert model.training
    assert train(model, 10)[-1] < train(quantized(), 1)[0]


def test_an_uncalibrated_state_dict_leaves_a_model_uncalibrated() -> None:
    model = quantized()
    model.load_state_dict(insert_qdq(transform(ready(Net, SHAPE))).state_dict())
    with pytest.raises(QuantizationError, match="has no scale yet"):
        model(task()[0])


@pytest.mark.parametrize("name", NETS)
def test_a_deep_copy_computes_the_same_and_stands_alone(name: str) -> None:
    model = quantize(transform(ready(NETS[name]), (batches()[0],)), batches())
    twin = copy.deepcopy(model)
    with torch.no_grad():
        want = model(batches()[0])
        assert torch.equal(twin(batches()[0]), want)
        for tensor in (*twin.parameters(), *twin.buffers()):
            tensor.zero_()
        assert torch.equal(model(batches()[0]), want)


@pytest.mark.parametrize("training", [True, False])
def test_a_compiled_model_computes_the_same(*, training: bool) -> None:
    model = quantized().train(training)
    twin = copy.deepcopy(model)
    compiled = torch.compile(twin, backend="aot_eager", fullgraph=True)
    images, labels = task()
    losses = [F.cross_entropy(one(images), labels) for one in (model, compiled)]
    for loss in losses:
        loss.backward()
    torch.testing.assert_close(losses[1], losses[0])
    for one, other in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(other.grad, one.grad)


def test_autocast_runs() -> None:
    model = quantized().train()
    images, labels = task()
    with torch.autocast("cpu", torch.bfloat16):
        output = model(images)
    F.cross_entropy(output.float(), labels).backward()
    assert all(one.grad is not None and one.grad.isfinite().all() for one in model.parameters())
    with torch.no_grad():
        want = model(images)
    assert float((output.detach() - want).norm() / want.norm()) < 0.1
