"""AdaRound: its regression against the layers themselves, its integers against all others."""

import copy
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from embedl_deploy import Result, transform
from embedl_deploy.errors import CalibrationError, QuantizationError
from embedl_deploy.export import export_onnx, verify_onnx
from embedl_deploy.modules import FusedMHAInProjection
from embedl_deploy.quantize import (
    LearnedRounding,
    QuantConfig,
    TensorQuantConfig,
    adaround,
    calibrate,
    insert_qdq,
    quantize,
)
from embedl_deploy.quantize.correcting.adaround.regression import assembled, matrix, regressions
from embedl_deploy.quantize.measuring.noise import Noise
from embedl_deploy.quantize.measuring.sidebyside import rounded_weights, side_by_side
from tests.helpers import net, run
from tests.quantize.nets import batches, ready

SHAPE = (3, 8, 8)


def images(seed: int) -> list[Tensor]:
    """Neighbouring pixels are alike, as in images; of white noise nearest is almost best."""
    small = batches(4, 8, (3, 3, 3), seed)
    return [F.interpolate(one, SHAPE[1:], mode="bilinear") for one in small]


DATA, HELD_OUT = images(2), images(3)
COARSE = QuantConfig(weights=TensorQuantConfig(4))


class Residual(nn.Module):
    """Convolutions with batch norms of both signs, a residual, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.conv, self.again = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.norm(self.stem(x)))
        y = torch.relu(self.again(self.conv(y)) + y)
        logits: Tensor = self.head(y.mean((2, 3)))
        return logits


def made() -> tuple[Result, fx.GraphModule]:
    result = transform(ready(Residual, SHAPE), (DATA[0],))
    return result, quantize(result, DATA, COARSE)


def layer(forward: Callable[..., Any], **parts: nn.Module) -> Callable[[], Any]:
    return lambda: net(forward, **parts)


def repadded() -> Any:
    conv = nn.Conv2d(3, 4, 3, padding=1)
    conv.padding = (0, 2)
    return net(lambda self, x: self.layer(x), layer=conv)


def single(kind: Callable[..., nn.Module], *args: Any, **kwargs: Any) -> Callable[[], Any]:
    return lambda: net(lambda self, x: self.layer(x), layer=kind(*args, **kwargs))


LAYERS: dict[str, tuple[Callable[[], Any], tuple[int, ...]]] = {
    "padded": (single(nn.Conv2d, 3, 4, 3, padding=1), (2, 3, 7, 6)),
    "strided": (single(nn.Conv2d, 3, 4, (3, 2), stride=(2, 1), dilation=(1, 2)), (2, 3, 7, 6)),
    "grouped": (single(nn.Conv2d, 8, 8, 3, groups=2, bias=False), (2, 8, 5, 6)),
    "depthwise": (single(nn.Conv2d, 6, 6, 3, groups=6, padding="same"), (2, 6, 5, 6)),
    "reflecting": (
        single(nn.Conv2d, 3, 4, 3, padding=(1, 2), padding_mode="reflect"),
        (2, 3, 5, 6),
    ),
    "padded otherwise later": (repadded, (2, 3, 7, 6)),
    "one dimension": (single(nn.Conv1d, 3, 4, 3, padding=1), (2, 3, 9)),
    "three dimensions": (single(nn.Conv3d, 2, 3, 2, padding=1), (2, 2, 3, 4, 3)),
    "no batch": (single(nn.Conv2d, 3, 4, 3), (3, 7, 6)),
    "transposed": (
        single(nn.ConvTranspose2d, 3, 4, 3, stride=2, padding=1, output_padding=1),
        (2, 3, 4, 5),
    ),
    "transposed and spread": (
        single(nn.ConvTranspose1d, 3, 4, 3, stride=3, dilation=2, padding=2),
        (2, 3, 6),
    ),
    "linear": (single(nn.Linear, 6, 4), (2, 5, 6)),
    "activation": (
        layer(lambda self, x: torch.relu(self.conv(x)), conv=nn.Conv2d(3, 4, 3)),
        (2, 3, 7, 6),
    ),
    "residual": (
        layer(lambda self, x: torch.relu(self.conv(x) + x), conv=nn.Conv2d(3, 3, 3, padding=1)),
        (2, 3, 7, 6),
    ),
    "packed projection": (
        layer(
            lambda self, x: self.mha(x, x, x, need_weights=False)[0],
            mha=nn.MultiheadAttention(8, 2, batch_first=True),
        ),
        (2, 5, 8),
    ),
    "key and value": (
        layer(
            lambda self, x: torch.mul(
                *self.kv(x).reshape(2, 5, 2, 2, 3).permute(2, 0, 3, 1, 4).unbind(0)
            ),
            kv=nn.Linear(8, 12),
        ),
        (2, 5, 8),
    ),
    "separate projections": (
        layer(
            lambda self, x: self.mha(x, x[:3, :, :6], x[:3, :, 2:6], need_weights=False)[0],
            mha=nn.MultiheadAttention(8, 2, kdim=6, vdim=4),
        ),
        (5, 2, 8),
    ),
}


@pytest.mark.parametrize("name", LAYERS)
def test_the_regression_computes_what_the_layer_computes(name: str) -> None:
    make, shape = LAYERS[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        source = make().eval()
        for parameter in source.parameters():
            nn.init.normal_(parameter)
        data = torch.randn(shape)
    result = transform(source, (data,))
    model = quantize(result, [data], COARSE)
    with torch.no_grad():
        found = next(side_by_side(model, result.model, [[data]]))
        module = found.module
        weights = {path: by(weight) for path, (weight, by) in rounded_weights(module).items()}
        parts = [matrix(module, part, weights[part.weight]) for part in module.products]
        for path, weight in weights.items():
            assert torch.equal(assembled(module, path, parts, weight), weight)
        got, want = module(**found.given[0]), found.reference(**found.wanted[0])
        if isinstance(module, FusedMHAInProjection):
            differences = [
                (one - other).transpose(-3, -2).flatten(-2)
                for one, other in zip(got, want, strict=True)
            ]
        else:
            differences = [module.products[0].channels_last(module, got - want)]
        draw = torch.Generator().manual_seed(0)
        for one, weight, difference in zip(
            regressions(found, 10**6, draw), parts, differences, strict=True
        ):
            errors = one.errors(weight, slice(None))
            assert errors.abs().max() > 1e-3
            torch.testing.assert_close(errors, difference.flatten(0, -2), rtol=1e-4, atol=1e-5)


def test_the_integers_are_almost_the_best_of_all() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        data = [torch.randn(64, 3) @ torch.tensor([[1.0, 0.9, 0.8], [0, 0.3, 0.2], [0, 0, 0.2]])]
        source = net(lambda self, x: self.fc(x), fc=nn.Linear(3, 2))
    result = transform(source.eval(), (data[0],))
    model = quantize(result, data, QuantConfig(weights=TensorQuantConfig(2)))
    fused: Any = model.get_submodule("fc")
    ((weight, quantizer),) = rounded_weights(fused).values()
    scale = quantizer.scale_for(weight)
    low = (weight.detach() / scale).floor()
    nearest = quantizer.stored(weight).float()

    def error(integers: Tensor) -> float:
        weight.data.copy_(integers * scale)
        return float((run(model, data) - run(result.model, data)).square().mean())

    adaround(model, data)
    got = error(quantizer.stored(weight).float())
    tried = [
        error((low + torch.tensor(up).view(2, 3)).clamp(-1, 1)) for up in product((0, 1), repeat=6)
    ]
    assert got <= 1.1 * min(tried)
    assert got < 0.8 * error(nearest)


def sqnr(model: fx.GraphModule, result: Result) -> float:
    noise = Noise()
    for batch in HELD_OUT:
        noise.add(run(result.model.eval(), [batch]), run(model, [batch]))
    return noise.sqnr_db


def test_the_output_is_nearer_to_floating_point() -> None:
    result, model = made()
    before = sqnr(model, result)
    learned = adaround(model, DATA, iterations=300)
    assert [row.path for row in learned.rows] == ["stem", "conv", "head"]
    for row in learned.rows[:2]:
        assert row.gain_db > 2
        assert 0 < row.changed < 0.5
        assert not row.reason
    assert sqnr(model, result) > before + 3


def test_weights_are_multiples_next_to_the_nearest_and_nothing_else_changes() -> None:
    _, model = made()
    model.train()
    before = copy.deepcopy(model)
    adaround(model, DATA, iterations=200)
    assert model.training
    changed = {
        name
        for name, one in model.state_dict().items()
        if not torch.equal(one, before.state_dict()[name])
    }
    assert changed >= {"stem.conv.weight", "conv.conv.weight"}
    assert all(name.endswith("weight") for name in changed)
    model.eval()
    for path in ("stem", "conv"):
        ((weight, quantizer),) = rounded_weights(model.get_submodule(path)).values()
        ((was, its),) = rounded_weights(before.get_submodule(path)).values()
        integers = quantizer.stored(weight)
        assert torch.equal(integers * quantizer.scale_for(weight), weight)
        moved = (integers - its.stored(was)).abs()
        assert moved.max() == 1
        assert integers.abs().max() == 7


def test_a_reference_with_the_model_s_own_tensors_is_copied_before_these_change() -> None:
    source = ready(Residual, SHAPE)
    result, other = (transform(source, (DATA[0],), copy=False) for _ in range(2))
    model = calibrate(insert_qdq(result, COARSE, copy=False), DATA)
    _, plain = made()
    adaround(model, DATA, reference=other, iterations=50)
    adaround(plain, DATA, iterations=50)
    for name, want in plain.state_dict().items():
        assert torch.equal(model.state_dict()[name], want), name
    with pytest.raises(QuantizationError, match="with tensors of its own"):
        adaround(model, DATA, reference=other, iterations=50)


def test_a_model_in_half_precision_learns_too() -> None:
    data = [one.bfloat16() for one in DATA]
    model = quantize(transform(ready(Residual, SHAPE), (DATA[0],)), DATA, COARSE).bfloat16()
    learned = adaround(model, data, iterations=200)
    assert all(row.gain_db > 2 for row in learned.rows[:2])
    for path in ("stem", "conv"):
        ((weight, quantizer),) = rounded_weights(model.get_submodule(path)).values()
        with torch.no_grad():
            assert torch.equal(quantizer(weight), weight)


def test_the_file_has_the_learned_integers(tmp_path: Path) -> None:
    import onnx
    from onnx import numpy_helper

    _, model = made()
    adaround(model, DATA, iterations=20)
    path = tmp_path / "model.onnx"
    export_onnx(model, (DATA[0],), path)
    stored = [
        torch.from_numpy(numpy_helper.to_array(one).copy())
        for one in onnx.load(path).graph.initializer
        if one.data_type == onnx.TensorProto.INT8 and one.dims
    ]
    for name in ("stem", "conv", "head"):
        module: Any = model.get_submodule(name)
        ((weight, quantizer),) = rounded_weights(module).values()
        integers = quantizer.stored(weight)
        norm = getattr(module, "batch_norm", None)
        if norm is not None:
            integers = integers * norm.weight.sign().to(torch.int8).view(-1, 1, 1, 1)
        assert any(
            torch.equal(integers.flatten(), one.flatten())
            or torch.equal(integers.T.flatten(), one.flatten())
            for one in stored
            if one.numel() == integers.numel()
        )
    assert verify_onnx(path, model, DATA[:1]).only_ties


class StopError(Exception):
    """What interrupts a run."""


def test_an_interrupted_run_goes_on(tmp_path: Path) -> None:
    (_, whole), (_, parts) = made(), made()
    before = {name: one.clone() for name, one in parts.state_dict().items()}
    want = adaround(whole, DATA, iterations=20)

    def stop(done: int, total: int | None) -> None:
        assert total == 3
        if done == 2:
            raise StopError

    with pytest.raises(StopError):
        adaround(parts, DATA, iterations=20, checkpoint=tmp_path, progress=stop)
    assert all(torch.equal(one, before[name]) for name, one in parts.state_dict().items())
    assert len(list(tmp_path.iterdir())) == 2
    _, again = made()
    assert adaround(again, iter(DATA), iterations=20, checkpoint=tmp_path) == want
    assert all(
        torch.equal(one, again.state_dict()[name]) for name, one in whole.state_dict().items()
    )


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    _, model = made()
    adaround(copy.deepcopy(model), DATA, iterations=1, checkpoint=tmp_path)
    other = copy.deepcopy(model)
    next(other.parameters()).data[0, 0, 0, 0] += 1e-3
    for one, kwargs in ((other, {}), (model, {"iterations": 2}), (model, {"seed": 1})):
        options: dict[str, Any] = {"iterations": 1, **kwargs}
        with pytest.raises(QuantizationError, match="of another model"):
            adaround(one, DATA, checkpoint=tmp_path, **options)
    with pytest.raises(QuantizationError, match="of another model"):
        adaround(model, HELD_OUT, iterations=1, checkpoint=tmp_path)
    (tmp_path / "layer-0000.pt").write_bytes(b"nothing")
    with pytest.raises(QuantizationError, match="delete it"):
        adaround(model, DATA, iterations=1, checkpoint=tmp_path)
    with pytest.raises(QuantizationError, match="takes a folder"):
        adaround(model, DATA, iterations=1, checkpoint=tmp_path / "layer-0000.pt")


def test_the_seed_decides_what_is_drawn() -> None:
    models = [made()[1] for _ in range(3)]
    for model, seed in zip(models, (0, 0, 1), strict=True):
        adaround(model, DATA, iterations=20, seed=seed)
    states = [torch.cat([one.flatten() for one in model.parameters()]) for model in models]
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


def reasons(learned: LearnedRounding) -> list[str]:
    assert all((row.changed, row.gain_db) == (0.0, 0.0) for row in learned.rows if row.reason)
    return [row.reason for row in learned.rows]


def test_what_is_not_better_is_left_with_the_reason() -> None:
    _, model = made()
    before = {name: one.clone() for name, one in model.state_dict().items()}
    learned = adaround(model, DATA, iterations=1, learning_rate=0.0)
    assert all("the nearest integers are better" in reason for reason in reasons(learned))
    assert all(torch.equal(one, before[name]) for name, one in model.state_dict().items())
    assert "the nearest integers are better" in str(learned)


def test_shared_weights_and_other_numbers_are_left() -> None:
    conv = nn.Conv2d(3, 3, 3)
    shared = quantize(transform(net(lambda self, x: self.conv(self.conv(x)), conv=conv)), DATA)
    assert (
        reasons(adaround(shared, DATA, iterations=1))
        == ["its weight belongs to other layers too"] * 2
    )
    result, _ = made()
    float8 = TensorQuantConfig(format="float8_e4m3")
    model = quantize(result, DATA, QuantConfig(float8, float8))
    assert (
        reasons(adaround(model, DATA, iterations=1))
        == ["its weights are float8_e4m3 numbers, not integers"] * 3
    )


def test_memory_is_that_of_the_samples() -> None:
    seen = []

    def watched() -> Any:
        for batch in DATA:
            seen.append(len(batch))
            yield batch

    _, model = made()
    adaround(model, watched(), iterations=1, samples=12)
    assert seen == [8, 8]


def test_what_does_not_fit_is_refused() -> None:
    result, model = made()
    with pytest.raises(QuantizationError, match="has no scale yet"):
        adaround(insert_qdq(result), DATA)
    with pytest.raises(CalibrationError, match="no data"):
        adaround(model, [])
    with pytest.raises(CalibrationError, match=r"batch 0 with shape .* does not fit"):
        adaround(model, [torch.zeros(1, 4, 8, 8)])
    adaround(model, DATA, iterations=200)
    with pytest.raises(QuantizationError, match="multiples of their scales"):
        adaround(model, DATA, iterations=20)
