"""The simulation is `clamp(round(x / scale))`, ties to even; gradients pass straight through."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from embedl_deploy.quantize import QuantStub, TensorQuantConfig, WeightFakeQuantize
from embedl_deploy.quantize.config import Scale
from embedl_deploy.quantize.rounding import INT8, Grid, fake_quantize, scale_of

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
LIMITS = {8: (-128, 127), 4: (-8, 7)}


def oracle(tensor: Tensor, scale: float, lowest: int, highest: int) -> NDArray[np.float64]:
    """The formula in float64, the quotient as precise as the simulation forms it."""
    precision = np.float64 if tensor.dtype == torch.float64 else np.float32
    values = tensor.to(torch.float64).numpy().astype(precision)
    quotients = np.divide(values, precision(scale)).astype(np.float64)
    return np.clip(np.rint(quotients), lowest, highest) * np.float64(np.float32(scale))


@pytest.mark.parametrize("bits", LIMITS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_values_are_those_of_the_formula(dtype: torch.dtype, bits: int) -> None:
    lowest, highest = LIMITS[bits]
    tensor = (torch.randn(5000, dtype=torch.float64) * highest / 2).to(dtype)
    for scale in (1.0, 0.25, 0.0371, 3e-3, 1.7):
        given_scale = torch.tensor(scale)
        got = fake_quantize(tensor * scale, given_scale, Grid(lowest, highest))
        want = oracle(tensor * scale, given_scale.item(), lowest, highest)
        assert got.dtype == dtype
        expected = torch.from_numpy(want).to(torch.promote_types(dtype, torch.float32)).to(dtype)
        torch.testing.assert_close(got, expected, rtol=0, atol=0)
        integers = np.rint(want / given_scale.item())
        assert {lowest, highest} <= set(integers.astype(int))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", [1.0, 0.5, 2.0**-6])
def test_ties_go_to_even(dtype: torch.dtype, scale: float) -> None:
    ties = torch.tensor([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 3.5, 126.5])
    even = torch.tensor([-2.0, -2.0, 0.0, 0.0, 2.0, 2.0, 4.0, 126.0])
    got = fake_quantize((ties * scale).to(dtype), torch.tensor(scale), INT8)
    assert torch.equal(got, (even * scale).to(dtype))


def test_the_integers_are_clamped_at_both_ends() -> None:
    values = torch.tensor([-1e30, -128.6, -128.4, -127.5, 126.5, 127.4, 127.6, 1e30])
    got = fake_quantize(values, torch.tensor(1.0), INT8)
    assert got.tolist() == [-128, -128, -128, -128, 126, 127, 127, 127]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_rounds_once(dtype: torch.dtype) -> None:
    """A bfloat16 quotient above 64 knows halves alone: near a tie it would be rounded to it."""
    values = (torch.arange(-128, 128, 1 / 64, dtype=torch.float64) * 0.37).to(dtype)
    scale = torch.tensor(0.37)
    got = fake_quantize(values, scale, INT8).double() / scale
    want = np.clip(np.rint(values.float().numpy() / scale.numpy()), -128, 127)
    assert np.array_equal(np.rint(got.numpy()), want)


def test_a_scale_below_half_precision_gives_no_nan() -> None:
    stub = QuantStub(TensorQuantConfig())
    stub.set_range(torch.tensor(1e-6))
    got = stub.half()(torch.tensor([0.0, 1e-6]).half())
    assert got.dtype == torch.float16
    assert got[0] == 0
    assert got[1] == torch.tensor(1e-6).half()


@pytest.mark.parametrize("cast", [torch.float16, torch.bfloat16, torch.float64])
def test_a_cast_of_the_model_keeps_the_scale(cast: torch.dtype) -> None:
    stub = QuantStub(TensorQuantConfig())
    stub.set_range(torch.tensor(0.1234567))
    before = stub.scale.item()
    assert stub.to(cast).scale.dtype == torch.float32
    assert stub.scale.item() == before
    weights = WeightFakeQuantize(TensorQuantConfig(), torch.randn(3, 2)).to(cast)
    assert weights.scale.dtype == torch.float32


@given(
    st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=20),
    st.floats(2.0**-20, 2.0**20, width=32),
)
def test_any_float_is_rounded_as_the_formula_says(values: list[float], scale: float) -> None:
    tensor = torch.tensor(values)
    got = fake_quantize(tensor, torch.tensor(scale), INT8)
    want = torch.from_numpy(oracle(tensor, scale, -128, 127)).float()
    assert torch.equal(got, want)


def test_gradients_change_no_value() -> None:
    values = torch.randn(10_000) * 60
    scale = torch.tensor(0.731)
    with torch.no_grad():
        plain = fake_quantize(values, scale, INT8)
    assert torch.equal(fake_quantize(values.requires_grad_(), scale, INT8), plain)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_gradient_is_one_inside_the_range_and_zero_outside(dtype: torch.dtype) -> None:
    scale = 0.5
    steps = torch.tensor([-200, -129, -127.6, -3.3, 0, 0.49, 126.9, 127.6, 400])
    values = (steps * scale).to(dtype).requires_grad_()
    upstream = torch.arange(1, 10, dtype=dtype)
    fake_quantize(values, torch.tensor(scale), INT8).backward(upstream)
    inside = (values.detach() >= -128 * scale) & (values.detach() <= 127 * scale)
    assert inside.tolist() == [False, False, True, True, True, True, True, False, False]
    assert values.grad is not None
    assert torch.equal(values.grad, upstream * inside)


def test_the_gradient_is_that_of_the_clamp() -> None:
    """Numerically: rounding is a staircase around the clamp, whose slope it takes."""
    values = (torch.randn(200, dtype=torch.float64) * 100).requires_grad_()
    scale = torch.tensor(0.9, dtype=torch.float64)
    fake_quantize(values, scale, INT8).sum().backward()
    step = 1e-6
    with torch.no_grad():
        clamped = [(values + d).clamp(-128 * 0.9, 127 * 0.9) for d in (step, -step)]
        slope = (clamped[0] - clamped[1]) / (2 * step)
    assert 0 < slope.sum() < 200
    torch.testing.assert_close(values.grad, slope, rtol=0, atol=1e-6)


def test_the_gradient_of_a_weight_reaches_the_largest_of_each_channel() -> None:
    """`largest / (largest / 127)` is beyond 127 in float32 for one in seven."""
    weight = torch.randn(1000, 3, 2, 2).requires_grad_()
    WeightFakeQuantize(TensorQuantConfig(), weight)(weight).sum().backward()
    torch.testing.assert_close(weight.grad, torch.ones_like(weight))


@pytest.mark.parametrize("bits", LIMITS)
def test_an_activation_scale_is_the_largest_magnitude_over_the_largest_integer(bits: int) -> None:
    stub = QuantStub(TensorQuantConfig(bits=bits))
    stub.set_range(torch.tensor(3.7))
    assert stub.scale == torch.tensor(3.7) / LIMITS[bits][1]
    assert (stub.lowest, stub.highest) == LIMITS[bits]


def test_a_weight_has_a_scale_per_output_channel() -> None:
    weight = torch.randn(5, 3, 2, 2) * torch.tensor([1e-3, 1, 5, 0, 1e4]).view(-1, 1, 1, 1)
    quantizer = WeightFakeQuantize(TensorQuantConfig(), weight)
    want = np.abs(weight.numpy()).reshape(5, -1).max(1) / np.float32(127)
    assert want[3] == 0
    want[3] = 1
    assert np.array_equal(quantizer.scale.numpy(), want)
    assert not quantizer(weight)[3].any()


def test_weight_integers_are_symmetric_and_give_the_simulated_weight() -> None:
    weight = torch.randn(6, 40)
    quantizer = WeightFakeQuantize(TensorQuantConfig(), weight).eval()
    integers = quantizer.stored(weight)
    assert integers.dtype == torch.int8
    assert integers.abs().amax(1).tolist() == [127] * 6
    with torch.no_grad():
        assert torch.equal(integers * quantizer.scale.view(-1, 1), quantizer(weight))
        quantizer.scale /= 2  # now half the weights lie outside the range
        clamped = quantizer.stored(weight)
        assert clamped.min() == -127
        assert torch.equal(clamped * quantizer.scale.view(-1, 1), quantizer(weight))


@pytest.mark.parametrize("largest", [0.0, 1e-45, 1e-38, 1e-20, 1.0, 3e38])
def test_a_scale_is_always_positive_and_finite(largest: float) -> None:
    scale = scale_of(torch.tensor(largest), 127)
    assert 0 < scale < float("inf")
    assert torch.isfinite(fake_quantize(torch.tensor([0.0, largest]), scale, INT8)).all()


@pytest.mark.parametrize(("scale", "forward"), [("observed", 5), ("fixed", 5), ("learned", 4)])
def test_how_often_a_training_step_goes_through_an_activation(scale: Scale, forward: int) -> None:
    """Each is a kernel on a GPU, which reads and writes the tensor once."""
    stub = QuantStub(TensorQuantConfig(scale=scale)).train()
    stub.set_range(torch.tensor(3.0))
    x = torch.randn(8, 500, requires_grad=True)
    with _Passes() as passes:
        result = stub(x)
    assert len(passes.seen) <= forward, passes.seen
    gradient = torch.ones_like(result)
    with _Passes() as passes:
        result.backward(gradient)
    assert len(passes.seen) <= (1 if scale != "learned" else 9), passes.seen


class _Passes(TorchDispatchMode):
    """The operations that go through a whole tensor."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        whole = [one for one in (*args, result) if isinstance(one, Tensor) and one.numel() > 1]
        if whole and "detach" not in str(func):
            self.seen.append(str(func))
        return result
