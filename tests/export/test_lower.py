"""Folding a batch norm into a quantized convolution changes scale and bias, and no integer."""

import io
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, fx, nn

from embedl_deploy import transform
from embedl_deploy.errors import ExportError
from embedl_deploy.export.lower import fold, to_operators
from embedl_deploy.export.operators import DequantizedWeight
from embedl_deploy.modules import FusedConvBN, FusedConvTransposeBN
from embedl_deploy.quantize import (
    QuantConfig,
    QuantStub,
    Skip,
    TensorQuantConfig,
    WeightFakeQuantize,
    insert_qdq,
    quantize,
)
from embedl_deploy.tensorrt import TENSORRT
from tests.helpers import warm

CHANNELS = 4
WEIGHTS = st.lists(
    st.floats(-100, 100, width=32), min_size=3 * CHANNELS, max_size=3 * CHANNELS
).map(lambda values: torch.tensor(values).view(CHANNELS, 3, 1, 1))
FACTORS = st.lists(
    st.sampled_from([-2.0, -0.3, 0.0, 1e-20, 0.7, 5.0]) | st.floats(-10, 10, width=32),
    min_size=CHANNELS,
    max_size=CHANNELS,
).map(torch.tensor)
VARIANCES = st.lists(
    st.floats(2.0**-40, 2.0**20, width=32), min_size=CHANNELS, max_size=CHANNELS
).map(torch.tensor)


def conv_bn(weight: Tensor, gamma: Tensor, variance: Tensor) -> fx.GraphModule:
    """Quantized, with a stub at scale 1 in front."""
    conv, norm = nn.Conv2d(3, CHANNELS, 1), nn.BatchNorm2d(CHANNELS)
    with torch.no_grad():
        conv.weight.copy_(weight)
        norm.weight.copy_(gamma)
        norm.bias.normal_()
        assert norm.running_var is not None
        norm.running_var.copy_(variance)
    model = transform(nn.Sequential(conv, norm).eval()).model
    return quantize(model, [torch.full((1, 3, 2, 2), 127.0)])


def parts(model: fx.GraphModule) -> tuple[FusedConvBN, WeightFakeQuantize]:
    (fused,) = (one for one in model.modules() if isinstance(one, FusedConvBN))
    quantizer = fused.weight_quantizers["conv_weight"]
    assert isinstance(quantizer, WeightFakeQuantize)
    return fused, quantizer


def written(model: fx.GraphModule) -> tuple[DequantizedWeight, Tensor]:
    (weight,) = (one for one in fold(model).modules() if isinstance(one, DequantizedWeight))
    (fused,) = (one for one in fold(model).modules() if isinstance(one, FusedConvBN))
    assert fused.batch_norm is None
    assert fused.conv.bias is not None
    return weight, fused.conv.bias


@pytest.mark.slow
@given(WEIGHTS, FACTORS, VARIANCES)
def test_the_integers_written_are_those_simulated(
    weight: Tensor, gamma: Tensor, variance: Tensor
) -> None:
    model = conv_bn(weight, gamma, variance)
    lowered, _ = written(model)
    _, quantizer = parts(model)
    steps = np.rint(weight.numpy() / quantizer.scale.view(-1, 1, 1, 1).numpy())
    want = np.sign(gamma.numpy()).reshape(-1, 1, 1, 1) * steps
    assert np.array_equal(lowered.stored.numpy(), want)
    assert lowered.stored.dtype == torch.int8


@pytest.mark.slow
@given(WEIGHTS, FACTORS, VARIANCES)
def test_scale_and_bias_carry_the_batch_norm(
    weight: Tensor, gamma: Tensor, variance: Tensor
) -> None:
    model = conv_bn(weight, gamma, variance)
    lowered, bias = written(model)
    fused, quantizer = parts(model)
    norm = fused.batch_norm
    assert norm is not None
    assert norm.running_mean is not None
    assert fused.conv.bias is not None
    factor = gamma.double().numpy() / np.sqrt(variance.double().numpy() + norm.eps)
    scale = quantizer.scale.double().numpy() * np.abs(factor)
    got = lowered.scale.double().numpy()
    assert (lowered.scale > 0).all()
    live = scale > np.finfo(np.float32).tiny
    np.testing.assert_allclose(got[live], scale[live], rtol=2e-7)
    shift = (fused.conv.bias - norm.running_mean).detach().double().numpy() * factor
    want = shift + norm.bias.detach().double().numpy()
    np.testing.assert_allclose(bias.detach().numpy(), want, rtol=2e-7, atol=1e-30)


OTHERS = (
    (nn.ConvTranspose1d(3, CHANNELS, 2), nn.BatchNorm1d(CHANNELS), (2, 3, 4), 1),
    (nn.ConvTranspose2d(3, CHANNELS, 2, bias=False), nn.BatchNorm2d(CHANNELS), (2, 3, 4, 4), 1),
    (nn.Linear(3, CHANNELS), nn.BatchNorm1d(CHANNELS, affine=False), (5, 3), 0),
    (nn.Conv3d(3, CHANNELS, 2), nn.BatchNorm3d(CHANNELS), (2, 3, 3, 3, 3), 0),
)


@pytest.mark.parametrize(("layer", "norm", "shape", "axis"), OTHERS)
def test_behind_other_layers_the_norm_folds_as_exactly(
    layer: Any, norm: Any, shape: tuple[int, ...], axis: int
) -> None:
    source = warm(nn.Sequential(layer, norm).eval())
    model = quantize(transform(source, (torch.randn(shape),)), [torch.randn(shape)])
    (quantizer,) = (one for one in model.modules() if isinstance(one, WeightFakeQuantize))
    (weight,) = (one for one in fold(model).modules() if isinstance(one, DequantizedWeight))
    factor = (norm.running_var.double() + norm.eps).rsqrt()
    factor = factor if norm.weight is None else factor * norm.weight.double()
    sizes = [1] * layer.weight.dim()
    sizes[axis] = -1
    steps = (layer.weight.double() / quantizer.scale.view(sizes).double()).round()
    assert (weight.axis, weight.scale.shape) == (axis, (CHANNELS,))
    assert torch.equal(weight.stored.double(), steps * factor.sign().view(sizes))
    scale = (quantizer.scale * factor.abs()).float()
    torch.testing.assert_close(weight.scale, scale, rtol=2e-7, atol=0)
    assert not any(isinstance(one, type(norm)) for one in fold(model).modules())


def test_a_norm_behind_groups_of_a_transposed_convolution_is_folded() -> None:
    fused = FusedConvTransposeBN(nn.ConvTranspose2d(4, 6, 2, groups=2), nn.BatchNorm2d(6))
    model = warm(nn.Sequential(fused).eval())
    lowered = fold(transform(model, patterns=[]).model)
    image = torch.randn(2, 4, 3, 3)
    assert not any(isinstance(one, nn.BatchNorm2d) for one in lowered.modules())
    torch.testing.assert_close(lowered(image), model(image))


@given(WEIGHTS, st.integers(-20, 20), st.sampled_from([1, -1]))
def test_quantizing_commutes_with_a_factor_per_channel(
    weight: Tensor, exponent: int, sign: int
) -> None:
    """`Q(w)·g` and `Q(w·g)` have the same integers, up to the sign of g.

    A power of two multiplies without rounding, so this holds at ties as well.
    """
    config = TensorQuantConfig()
    factor = sign * 2.0**exponent
    plain = WeightFakeQuantize(config, weight).stored(weight)
    scaled = WeightFakeQuantize(config, weight * factor).stored(weight * factor)
    live = (weight * factor).abs().amax((1, 2, 3)) > 1e-30  # what is left of it is no subnormal
    assert torch.equal(scaled[live], sign * plain[live])


@given(WEIGHTS, FACTORS)
def test_any_factor_moves_integers_at_ties_alone(weight: Tensor, gamma: Tensor) -> None:
    """Why the simulated integers are written, and not those of the folded weight."""
    config = TensorQuantConfig()
    quantizer = WeightFakeQuantize(config, weight)
    folded = weight * gamma.view(-1, 1, 1, 1)
    again = WeightFakeQuantize(config, folded)
    sign = gamma.sign().view(-1, 1, 1, 1)
    apart = (again.stored(folded) - sign * quantizer.stored(weight)).abs()
    live = folded.abs().amax((1, 2, 3)) > 1e-30
    steps = weight.double() / quantizer.scale.double().view(-1, 1, 1, 1)
    from_tie = (steps - steps.floor() - 0.5).abs()
    assert (apart[live] <= 1).all()
    assert (from_tie[live][apart[live] > 0] < 1e-4).all()


def test_lowering_leaves_the_model_and_what_it_shares() -> None:
    source = warm(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).eval())
    model = quantize(transform(source), [torch.randn(2, 3, 4, 4)])
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    fold(model)
    assert all(torch.equal(one, before[name]) for name, one in model.state_dict().items())
    assert parts(model)[0].batch_norm is not None


@pytest.mark.parametrize("quantized", [True, False])
def test_a_batch_norm_without_statistics_can_not_be_folded(*, quantized: bool) -> None:
    model = transform(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).eval()).model
    (fused,) = (one for one in model.modules() if isinstance(one, FusedConvBN))
    fused.batch_norm = nn.BatchNorm2d(4, track_running_stats=False)
    model = quantize(model, [torch.randn(2, 3, 4, 4)]) if quantized else model
    with pytest.raises(ExportError, match=r"batch norm in '.*' keeps no running statistics"):
        fold(model)


def test_an_uncalibrated_model_is_refused() -> None:
    model = insert_qdq(transform(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)).eval()))
    with pytest.raises(ExportError, match=r"2 of 2 stubs have no scale, the first is '.*_stub'"):
        fold(model)


def test_pooling_of_an_image_without_a_batch_stays_what_it_is() -> None:
    model = transform(nn.Sequential(nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(1)).eval()).model
    image = torch.randn(3, 6, 6)
    with torch.no_grad():
        lowered = to_operators(fold(model), TENSORRT.lowering)
        torch.testing.assert_close(lowered(image), model(image))


@pytest.mark.parametrize("size", [1, (1, 1)])
def test_a_maximum_over_the_whole_image_is_no_adaptive_one(size: Any) -> None:
    pool, image = nn.AdaptiveMaxPool2d(size), torch.randn(2, 3, 4, 5)
    assert torch.equal(
        to_operators(fold(transform(pool).model), TENSORRT.lowering)(image), pool(image)
    )
    model = transform(nn.Sequential(nn.ReLU(), pool)).model
    lowered = to_operators(fold(model), TENSORRT.lowering)
    assert torch.equal(lowered(image), model(image))
    assert not any(isinstance(one, nn.AdaptiveMaxPool2d) for one in lowered.modules())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_quantized_model_of_another_type_is_refused(dtype: torch.dtype) -> None:
    model = transform(nn.Conv2d(3, 4, 1)).model
    model = quantize(model, [torch.randn(2, 3, 4, 4)]).to(dtype)
    with pytest.raises(ExportError, match=rf"is of type {dtype}; .* call \.float\(\) on it first"):
        fold(model)
    fold(model.float())


def test_quantized_weights_of_another_type_are_refused_without_stubs_too() -> None:
    config = QuantConfig(skip=[Skip("*", weights=False)])
    model = quantize(transform(nn.Conv2d(3, 4, 1)).model, [torch.randn(2, 3, 4, 4)], config)
    with pytest.raises(ExportError, match=r"call \.float\(\) on it first"):
        fold(model.half())


@pytest.mark.parametrize("kind", [QuantStub, WeightFakeQuantize])
def test_a_quantizer_that_is_switched_off_is_refused(
    kind: type[QuantStub | WeightFakeQuantize],
) -> None:
    model = quantize(transform(nn.Conv2d(3, 4, 1)).model, [torch.randn(2, 3, 4, 4)])
    (one,) = (one for one in model.modules() if isinstance(one, kind))
    one.enabled = False
    with pytest.raises(ExportError, match=r"' is switched off, .* set its enabled to True"):
        fold(model)


def test_names_of_modules_that_another_trace_left_are_dropped() -> None:
    """A `GraphModule` that was pickled whole has them; stubs inside attention lost their names."""
    model = quantize(transform(nn.Conv2d(3, 4, 1)).model, [torch.randn(2, 3, 4, 4)])
    stream = io.BytesIO()
    torch.save(model, stream)
    loaded = torch.load(io.BytesIO(stream.getvalue()), weights_only=False)
    assert any("nn_module_stack" in node.meta for node in loaded.graph.nodes)
    assert not any("nn_module_stack" in node.meta for node in fold(loaded).graph.nodes)
