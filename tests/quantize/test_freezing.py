"""Batch norms that are frozen stay so in training; a frozen model is as it will be exported."""

import copy
import io
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from embedl_deploy import transform
from embedl_deploy.errors import QuantizationError
from embedl_deploy.export import export_onnx, verify_onnx
from embedl_deploy.quantize import (
    QuantConfig,
    TensorQuantConfig,
    freeze,
    freeze_batch_norm,
    insert_qdq,
    quantize,
    scale_parameters,
)
from embedl_deploy.quantize.stubs import quantizers_of
from tests.quantize.nets import batches, ready

SHAPE = (3, 8, 8)
LEARNED = QuantConfig(TensorQuantConfig(scale="learned"), TensorQuantConfig(scale="learned"))


class Norms(nn.Module):
    """A batch norm in a fused module, and one that no pattern takes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.alone, self.last = nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.norm(self.conv(x)))
        return self.dropout(self.last(torch.relu(self.alone(y) + 1))).mean((2, 3))


def step(model: nn.Module, rate: float = 0.1) -> None:
    optimizer = torch.optim.SGD(model.parameters(), rate)
    images = batches(1, 8, SHAPE, seed=4)[0]
    F.cross_entropy(model(images + 1), torch.arange(8) % 4).backward()
    optimizer.step()


def norms(model: nn.Module) -> list[nn.BatchNorm2d]:
    return [one for one in model.modules() if isinstance(one, nn.BatchNorm2d)]


def statistics(model: nn.Module) -> list[Tensor]:
    found = [(one.running_mean, one.running_var, one.num_batches_tracked) for one in norms(model)]
    return [tensor.clone() for one in found for tensor in one if tensor is not None]


def quantized(config: QuantConfig | None = None) -> fx.GraphModule:
    return quantize(transform(ready(Norms, SHAPE)), batches(2, 8, SHAPE), config)


def test_frozen_statistics_do_not_move_in_training() -> None:
    model = quantized()
    keys = model.state_dict().keys()
    assert len(norms(model)) == 2
    assert freeze_batch_norm(freeze_batch_norm(model)) is model
    before = statistics(model)
    step(model.train())
    assert model.training
    after = statistics(model)
    assert all(torch.equal(*pair) for pair in zip(before, after, strict=True))
    assert model.state_dict().keys() == keys
    for one in norms(model):
        assert one.weight.grad is not None
        assert one.weight.grad.any()


def test_live_statistics_move() -> None:
    model = quantized()
    before = statistics(model)
    step(model.train())
    assert not any(torch.equal(*pair) for pair in zip(before, statistics(model), strict=True))


def test_a_frozen_norm_computes_from_its_running_statistics() -> None:
    norm = freeze_batch_norm(nn.Sequential(ready(lambda: nn.BatchNorm2d(3), SHAPE))).train()
    images = batches(1, 4, SHAPE, seed=8)[0]
    (one,) = norms(norm)
    want = F.batch_norm(images, one.running_mean, one.running_var, one.weight, one.bias)
    assert torch.equal(norm(images), want)


def test_factors_and_shifts_are_frozen_where_asked() -> None:
    model = freeze_batch_norm(quantized(), affine=True)
    open_ = {name for name, one in model.named_parameters() if one.requires_grad}
    assert open_ == {"conv.conv.weight", "conv.conv.bias", "last.conv.weight", "last.conv.bias"}


@pytest.mark.parametrize("again", ["deepcopy", "pickle"])
def test_a_copy_stays_frozen(again: str) -> None:
    model = freeze_batch_norm(quantized())
    if again == "deepcopy":
        model = copy.deepcopy(model)
    else:
        file = io.BytesIO()
        torch.save(model, file)
        file.seek(0)
        model = torch.load(file, weights_only=False)
    before = statistics(model)
    step(model.train())
    assert all(torch.equal(*pair) for pair in zip(before, statistics(model), strict=True))


def test_a_batch_norm_of_another_kind_is_named() -> None:
    class Own(nn.BatchNorm2d):
        pass

    with pytest.raises(QuantizationError, match="'0' is a Own"):
        freeze_batch_norm(nn.Sequential(Own(3)))


@pytest.mark.parametrize("config", [QuantConfig(), LEARNED], ids=["observed", "learned"])
def test_a_frozen_model_is_what_is_exported(config: QuantConfig, tmp_path: Path) -> None:
    model = quantized(config)
    step(model.train())
    keys = model.state_dict().keys()
    with torch.no_grad():
        images = batches(1, 8, SHAPE, seed=9)[0]
        want = copy.deepcopy(model).eval()(images)
        assert freeze(freeze(model)) is model
        assert torch.equal(model(images), want)
    assert not model.training
    assert not any(one.requires_grad for one in model.parameters())
    assert scale_parameters(model) == []
    state = {name: one.clone() for name, one in model.state_dict().items()}
    assert state.keys() == keys
    model.train()(images)
    assert all(torch.equal(one, state[name]) for name, one in model.state_dict().items())
    path = tmp_path / "model.onnx"
    export_onnx(model.eval(), (images,), path)
    assert verify_onnx(path, model, [images]).only_ties


def test_a_frozen_state_is_restored_into_a_model_that_learns() -> None:
    model = freeze(quantized(LEARNED))
    other = insert_qdq(transform(ready(Norms, SHAPE)), LEARNED)
    other.load_state_dict(model.state_dict())
    images = batches(1, 8, SHAPE, seed=9)[0]
    assert torch.equal(other(images), model(images))
    assert len(scale_parameters(other)) == len(quantizers_of(other))


def test_scales_have_a_group_of_their_own() -> None:
    model = quantized(LEARNED)
    scales = scale_parameters(model)
    assert scales
    rest = [one for one in model.parameters() if all(one is not scale for scale in scales)]
    assert len(rest) + len(scales) == len([*model.parameters()])
    assert not any(
        name.endswith("scale")
        for name, one in model.named_parameters()
        if any(one is other for other in rest)
    )


def test_synchronized_batch_norms_are_frozen_and_exported(tmp_path: Path) -> None:
    model = nn.SyncBatchNorm.convert_sync_batchnorm(quantized())
    kinds = {type(one).__name__ for one in freeze_batch_norm(model).modules()}
    assert "FrozenSyncBatchNorm" in kinds
    images = batches(1, 4, SHAPE, seed=9)[0]
    path = tmp_path / "model.onnx"
    export_onnx(model, (images,), path)
    assert verify_onnx(path, model, [images]).only_ties
    assert torch.equal(model(images), quantized()(images))
