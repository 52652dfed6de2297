"""Frozen batch norms of other libraries: fused as batch norms are, exact, and never trained."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d
from transformers.models.detr.modeling_detr import DetrFrozenBatchNorm2d

from embedl_deploy import transform
from embedl_deploy.export import export_onnx, verify_onnx
from embedl_deploy.modules.frozen import FrozenBatchNorm
from embedl_deploy.quantize import quantize
from embedl_deploy.tensorrt import check_onnx
from tests.helpers import assert_same_eval, net

CHANNELS = 16


class Frozen(nn.Module):
    """Statistics, factor and shift as buffers, as detectors have them."""

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        for name, fill in (("weight", 1.0), ("bias", 0.0)):
            self.register_buffer(name, torch.full((features,), fill))
        for name, fill in (("running_mean", 0.0), ("running_var", 1.0)):
            self.register_buffer(name, torch.full((features,), fill))


class ByFunction(Frozen):
    """As detectron2 computes it where nothing trains."""

    def forward(self, x: Tensor) -> Any:
        mean, variance = self.running_mean, self.running_var
        return F.batch_norm(x, mean, variance, self.weight, self.bias, training=False, eps=1e-3)


class ByFactors(Frozen):
    """As detectron2 computes it where something trains."""

    def forward(self, x: Tensor) -> Any:
        scale = self.weight * (self.running_var + 1e-3).rsqrt()
        shift = self.bias - self.running_mean * scale
        return x * scale.reshape(1, -1, 1, 1).to(x.dtype) + shift.reshape(1, -1, 1, 1)


NORMS: dict[str, Callable[[int], nn.Module]] = {
    "torchvision": FrozenBatchNorm2d,
    "transformers": DetrFrozenBatchNorm2d,
    "by function": ByFunction,
    "by factors": ByFactors,
}


def network(norm: Callable[[int], nn.Module]) -> Any:
    """A residual block; variances are so small that a wrong epsilon shows."""
    model = net(
        lambda m, x: m.last((m.n2(m.c2(m.n1(m.c1(x)).relu())) + x).relu()),
        c1=nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, bias=False),
        n1=norm(CHANNELS),
        c2=nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1),
        n2=norm(CHANNELS),
        last=nn.Conv2d(CHANNELS, CHANNELS, 1),
    )
    for one in (model.n1, model.n2):
        one.weight.data.uniform_(0.01, 0.05)
        one.bias.data.normal_()
        one.running_mean.normal_()
        one.running_var.uniform_(1e-6, 2e-3)
    return model


@pytest.mark.parametrize("name", NORMS)
def test_a_block_is_fused_as_with_batch_norm(name: str, tmp_path: Path) -> None:
    model, x = network(NORMS[name]).eval(), torch.randn(2, CHANNELS, 8, 8)
    result = transform(model, (x,))
    assert_same_eval(model, result, (x,))
    assert result.fused == transform(network(nn.BatchNorm2d).eval(), (x,)).fused
    assert not result.unfused
    quantized = quantize(result, [x])
    path = export_onnx(quantized, (x,), tmp_path / "file.onnx")
    assert check_onnx(path).warnings == ()
    assert verify_onnx(path, quantized, [x]).only_ties


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("source_trains", [True, False])
def test_training_leaves_it_as_it_is(name: str, *, source_trains: bool) -> None:
    model, x = network(NORMS[name]).train(source_trains), torch.randn(4, CHANNELS, 8, 8)
    result = transform(model, (x,))
    want = model.train()(x)
    norms = [one for one in result.model.modules() if isinstance(one, FrozenBatchNorm)]
    assert len(norms) == 2
    quantized = quantize(result, [x]).train()
    for trained in (result.model.train(), quantized):
        before = {key: value.clone() for key, value in trained.state_dict().items()}
        frozen = [key for key in before if "batch_norm" in key]
        assert frozen
        got = trained(x)
        got.square().mean().backward()
        after = trained.state_dict()
        assert all(torch.equal(before[key], after[key]) for key in frozen)
    torch.testing.assert_close(result.model(x), want, rtol=1e-4, atol=1e-5)
    assert all(one.weight.grad is None for one in norms)


class Kept(nn.BatchNorm2d):
    """Stays in eval mode, as fine-tuning recipes keep theirs."""

    def train(self, mode: bool = True) -> Any:  # noqa: FBT001, FBT002 - torch's signature
        return super().train(mode=False)


class KeptWithWeights(Kept):
    """A class of a class; its factor does not train either."""

    def train(self, mode: bool = True) -> Any:  # noqa: FBT001, FBT002 - torch's signature
        self.requires_grad_(requires_grad=False)
        return super().train(mode)


class Told(nn.BatchNorm2d):
    """Overrides `train` and trains."""

    def train(self, mode: bool = True) -> Any:  # noqa: FBT001, FBT002 - torch's signature
        return super().train(mode)


@pytest.mark.parametrize("mode", [True, False])
@pytest.mark.parametrize(("norm", "kept"), [(Kept, True), (KeptWithWeights, True), (Told, False)])
def test_a_norm_whose_class_keeps_it_in_eval_mode_stays_so(
    norm: type[nn.BatchNorm2d], *, kept: bool, mode: bool
) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), norm(4), nn.ReLU()).train(mode)
    x = torch.randn(2, 3, 6, 6)
    result = transform(model, (x,))
    assert result.fused == {"FusedConvBNReLU": 1}
    assert_same_eval(model, result, (x,))
    result.model.train()
    (found,) = (one for one in result.model.modules() if isinstance(one, nn.BatchNorm2d))
    assert found.running_mean is not None
    before = found.running_mean.clone()
    result.model(x)
    assert torch.equal(before, found.running_mean) is kept
