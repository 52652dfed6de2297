"""Bias correction: means per channel, by independent sums."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, fx, nn

from embedl_deploy import Result, transform
from embedl_deploy.errors import CalibrationError, QuantizationError
from embedl_deploy.modules import FusedMHAInProjection, FusedModule, MHAInProjection
from embedl_deploy.quantize import (
    QuantConfig,
    TensorQuantConfig,
    adaround,
    correct_bias,
    insert_qdq,
    quantize,
)
from embedl_deploy.quantize.measuring.sidebyside import rounded_weights
from tests.helpers import assert_untouched, net, run, snapshot
from tests.quantize.nets import batches, ready

SHAPE = (3, 8, 8)
ONE = batches(1, 16, SHAPE)
COARSE = QuantConfig(weights=TensorQuantConfig(4))


class Chain(nn.Module):
    """A padded convolution with batch norm, a strided one with bias, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.down = nn.Conv2d(6, 8, 3, 2, padding=1)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.norm(self.conv(x)))
        logits: Tensor = self.head(torch.relu(self.down(y)).mean((2, 3)))
        return logits


class Attention(nn.Module):
    """Self-attention and cross-attention over rows of an image, with key and value before it."""

    def __init__(self) -> None:
        super().__init__()
        self.own = nn.MultiheadAttention(8, 2, batch_first=True)
        self.other = nn.MultiheadAttention(8, 2, kdim=24, vdim=24)
        self.kv = nn.Linear(8, 16)
        for one in (self.own.in_proj_bias, self.other.in_proj_bias, self.kv.bias):
            nn.init.normal_(one)

    def forward(self, x: Tensor) -> Tensor:
        k, v = self.kv(x.flatten(1, 2)).reshape(-1, 24, 2, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
        rows = (k * v).transpose(1, 2).flatten(2)
        y, _ = self.own(rows, rows, rows, need_weights=False)
        columns = x.transpose(1, 3).flatten(2).transpose(0, 1)
        z: Tensor = self.other(y.transpose(0, 1), columns, columns, need_weights=False)[0]
        return z


def made(source: nn.Module | None = None) -> tuple[Result, fx.GraphModule]:
    result = transform(ready(Chain, SHAPE) if source is None else source, (ONE[0],))
    return result, quantize(result, ONE, COARSE)


def means(model: fx.GraphModule, path: str) -> Tensor:
    """The mean of each channel before activation and residual, relative to the batch norm's."""
    module: Any = model.get_submodule(path)
    caught: list[Tensor] = []
    product = module.product

    def watched(*args: Any) -> Tensor:
        caught.append(product(*args))
        return caught[-1]

    module.product = watched
    run(model, ONE)
    del module.product
    (values,) = caught
    mean = values.mean([dim for dim in range(values.dim()) if dim != 1])
    norm = getattr(module, "batch_norm", None)
    return mean if norm is None else mean - norm.running_mean


def test_all_means_are_those_in_floating_point() -> None:
    result, model = made()
    layers = ("conv", "down", "head")
    want = [means(result.model, path) for path in layers]
    assert all(
        (means(model, path) - one).abs().max() > 1e-3
        for path, one in zip(layers, want, strict=True)
    )
    correction = correct_bias(model, ONE)
    names = ["conv.batch_norm.running_mean", "down.conv.bias", "head.conv.bias"]
    assert [row.tensor for row in correction.rows] == names
    for path, one in zip(layers, want, strict=True):
        torch.testing.assert_close(means(model, path), one, rtol=0, atol=1e-6)


def test_nothing_else_changes() -> None:
    result, model = made()
    model.train()
    float_before, before = snapshot(result.model), snapshot(model)
    tensors = {row.tensor: row.largest for row in correct_bias(model, ONE).rows}
    after = snapshot(model)
    moved = {
        name: float((one - before["state"][name]).abs().max())
        for name, one in after.pop("state").items()
        if not torch.equal(one, before["state"][name])
    }
    assert moved == pytest.approx(tensors, rel=1e-3)
    assert after == {key: value for key, value in before.items() if key != "state"}
    assert_untouched(result.model, float_before)


def test_several_batches_are_averaged() -> None:
    (_, whole), (_, parts), (_, before) = made(), made(), made()
    correct_bias(whole, ONE)
    correct_bias(parts, ONE[0].split(4))
    changed = 0
    for name, was in before.state_dict().items():
        want, got = whole.state_dict()[name], parts.state_dict()[name]
        if not torch.equal(want, was):
            changed += 1
            assert (got - want).norm() < 0.2 * (was - want).norm(), name
    assert changed == 3


def test_projections_of_attention_are_corrected_head_by_head() -> None:
    result, model = made(Attention().eval())
    paths = [path for path, one in model.named_modules() if isinstance(one, FusedMHAInProjection)]

    def projected(of: fx.GraphModule, path: str) -> list[Tensor]:
        caught: list[Any] = []
        hook = of.get_submodule(path).register_forward_hook(lambda *call: caught.append(call[2]))
        run(of, ONE)
        hook.remove()
        return [one.mean((0, 2)) for one in caught[0]]

    want = {path: projected(result.model, path) for path in paths}
    rows = {row.path: row for row in correct_bias(model, ONE).rows}
    assert len(paths) == 3
    for path in paths:
        assert rows[path].tensor == f"{path}.projection.in_proj_bias"
        assert rows[path].largest > 1e-3
        for one, other in zip(projected(model, path), want[path], strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


def test_keys_without_a_bias_are_left() -> None:
    projection = MHAInProjection.of(nn.MultiheadAttention(8, 2, batch_first=True))
    projection.key_bias = False
    source = net(lambda self, x: self.projection(x, x, x), projection=projection)
    rows = torch.randn(4, 5, 8, generator=torch.Generator().manual_seed(1))
    model = quantize(transform(source.eval()), [rows], COARSE)
    correct_bias(model, [rows])
    bias = dict(model.named_parameters())["projection.projection.in_proj_bias"]
    query, key, value = bias.detach().chunk(3)
    assert query.any()
    assert value.any()
    assert not key.any()


def plain(forward: Callable[..., Any], **parts: nn.Module) -> Callable[[], Any]:
    return lambda: net(forward, **parts)


LEFT: dict[str, Callable[[], Any]] = {
    "neither a bias nor a batch norm": plain(
        lambda self, x: self.conv(x).relu(), conv=nn.Conv2d(3, 4, 3, bias=False)
    ),
    "'conv.bias' belongs to other layers too": plain(
        lambda self, x: self.conv(self.conv(x)), conv=nn.Conv2d(3, 3, 3)
    ),
    "'batch_norm.running_mean' belongs to other layers too": plain(
        lambda self, x: self.norm(self.conv(self.norm(self.other(x)))),
        conv=nn.Conv2d(3, 3, 3),
        other=nn.Conv2d(3, 3, 3),
        norm=nn.BatchNorm2d(3),
    ),
}


@pytest.mark.parametrize("reason", LEFT)
def test_a_layer_that_can_not_take_it_is_left_with_the_reason(reason: str) -> None:
    _, model = made(LEFT[reason]().eval())
    before = {name: one.clone() for name, one in model.state_dict().items()}
    left = [row for row in correct_bias(model, ONE).rows if row.reason]
    assert left
    for row in left:
        assert reason in row.reason
        assert (row.tensor, row.largest) == ("", 0.0)
        for name, one in model.get_submodule(row.path).state_dict(prefix=f"{row.path}.").items():
            assert torch.equal(one, before[name])


def test_rounded_weights_need_the_model_in_floating_point() -> None:
    result, model = made()
    _, plain = made()
    for module in model.modules():
        if isinstance(module, FusedModule):
            for weight, quantizer in rounded_weights(module).values():
                weight.data.copy_(quantizer(weight))
    with pytest.raises(QuantizationError, match="3 of 3 weights are multiples of their scales"):
        correct_bias(model, ONE)
    correct_bias(model, ONE, reference=result)
    correct_bias(plain, ONE)
    for name, one in plain.state_dict().items():
        if "weight" not in name:
            torch.testing.assert_close(model.state_dict()[name], one)


def test_what_does_not_fit_is_refused() -> None:
    result, model = made()
    other = transform(net(lambda self, x: self.conv(x), conv=nn.Conv2d(3, 4, 3)))
    with pytest.raises(QuantizationError, match="the same fused modules"):
        correct_bias(model, ONE, reference=other)
    with pytest.raises(QuantizationError, match="has no scale yet"):
        correct_bias(insert_qdq(result), ONE)
    with pytest.raises(CalibrationError, match="no data"):
        correct_bias(model, [])
    with pytest.raises(CalibrationError, match=r"batch 1 with shape .* does not fit"):
        correct_bias(model, [*ONE, torch.zeros(1, 4, 8, 8)])


@pytest.mark.parametrize("change", [correct_bias, adaround])
def test_several_processes_are_refused(change: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    _, model = made()
    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed, "get_world_size", lambda: 2)
    with pytest.raises(QuantizationError, match="by the data of one process"):
        change(model, ONE)


def test_progress_and_table() -> None:
    _, model = made()
    seen: list[tuple[int, int | None]] = []
    table = str(correct_bias(model, [*ONE, *ONE], progress=lambda *call: seen.append(call)))
    assert seen == [(1, 2), (2, 2)]
    assert "down.conv.bias" in table
    assert table.splitlines()[0].split() == ["Path", "Corrected", "Largest", "shift", "Reason"]
