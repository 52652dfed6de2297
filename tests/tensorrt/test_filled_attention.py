"""Attention whose mask fills in a number is attention, and computes what the model computes."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from embedl_deploy import transform
from embedl_deploy.export import OnnxModel, export_onnx, verify_onnx
from embedl_deploy.quantize import QuantConfig, QuantStub, quantize
from tests.helpers import net

LENGTH = 6
FUSED = "FusedScaledDotProductAttention"
Fill = Callable[..., Tensor]


class Attention(nn.Module):
    """Self-attention of two heads; `fill(model, logits, mask)` does the masking."""

    keep: Tensor

    def __init__(self, fill: Fill) -> None:
        super().__init__()
        self.fill = fill
        self.qkv, self.out = nn.Linear(16, 48), nn.Linear(16, 16)
        self.register_buffer("keep", torch.ones(LENGTH, LENGTH).tril().bool()[None, None])
        self.register_buffer("least", torch.tensor(-1e9), persistent=False)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        split = (*x.shape[:2], 2, 8)
        query, key, value = (one.view(split).transpose(1, 2) for one in self.qkv(x).chunk(3, -1))
        logits = self.fill(self, query @ key.transpose(-1, -2) / 8**0.5, mask)
        return self.out((logits.softmax(-1) @ value).transpose(1, 2).flatten(2))


def padding(mask: Tensor) -> Tensor:
    return (mask == 0)[:, None, None, :]


def gpt2(m: Any, a: Tensor, mask: Tensor) -> Tensor:
    """As in transformers: the causal mask by `where`, the padding by an addition."""
    least = torch.full([], torch.finfo(a.dtype).min, dtype=a.dtype)
    a = torch.where(m.keep[:, :, : a.shape[-2], : a.shape[-1]], a.to(a.dtype), least)
    return a + (1.0 - mask)[:, None, None, :] * -1e4


def bert(_: Any, a: Tensor, mask: Tensor) -> Tensor:
    return a.masked_fill(padding(mask), -1e9)


def deberta(_: Any, a: Tensor, mask: Tensor) -> Tensor:
    """Rows of the padding are masked wholly."""
    both = mask[:, None, None, :] * mask[:, None, :, None]
    return a.masked_fill(~both.bool(), torch.finfo(a.dtype).min)


def like(_: Any, a: Tensor, mask: Tensor) -> Tensor:
    return torch.where(mask[:, None, :, None] > 0, a, torch.full_like(a, -1e4))


def mirrored(m: Any, a: Tensor, mask: Tensor) -> Tensor:
    return torch.where(padding(mask) | ~m.keep, m.least, a)


def small(_: Any, a: Tensor, mask: Tensor) -> Tensor:
    """A number that hides nothing by itself."""
    return a.masked_fill(mask[:, None, :, None] == 0, -3.0)


def infinite(m: Any, a: Tensor, _: Tensor) -> Tensor:
    return a.masked_fill(~m.keep, float("-inf"))


def biased(m: Any, a: Tensor, mask: Tensor) -> Tensor:
    return (a + m.keep * 0.5).masked_fill_(padding(mask), -65504.0)


FILLS = (gpt2, bert, deberta, like, mirrored, small, infinite, biased)


def inputs() -> tuple[Tensor, Tensor]:
    mask = torch.ones(3, LENGTH)
    mask[1, 4:], mask[2] = 0, 0  # of the last one everything is hidden
    return torch.randn(3, LENGTH, 16), mask


@pytest.mark.parametrize("fill", FILLS)
def test_it_is_attention_and_computes_the_same(fill: Fill) -> None:
    torch.manual_seed(0)
    model, args = Attention(fill).eval(), inputs()
    with torch.no_grad():
        expected = model(*args)
    result = transform(model, args)
    assert result.fused[FUSED] == 1
    assert (result.model(*args) - expected).abs().max() <= 1e-6


@pytest.mark.parametrize("fill", [gpt2, deberta, small])
def test_its_file_in_half_precision_is_what_is_simulated(fill: Fill, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, args = Attention(fill).eval(), inputs()
    quantized = quantize(transform(model, args), [args], QuantConfig(attention="full"))
    stubs = [one for one in quantized.modules() if isinstance(one, QuantStub)]
    assert len(stubs) == 7
    path = export_onnx(quantized, args, tmp_path / "half.onnx", precision="float16")
    assert verify_onnx(path, quantized, [args]).only_ties
    (half,), wanted = OnnxModel(path)(*args).values(), model(*args)
    errors = (half.float() - wanted).norm(dim=-1) / wanted.norm(dim=-1)
    assert errors.max() < 0.1, "hidden rows too"


def test_a_row_that_minus_infinity_hides_is_what_it_is_in_the_model() -> None:
    model, args = Attention(lambda _, a, mask: a.masked_fill(padding(mask), -torch.inf)), inputs()
    result = transform(model.eval(), args)
    assert result.fused[FUSED] == 1
    got, wanted = result.model(*args), model(*args)
    assert wanted[2].isnan().all()
    torch.testing.assert_close(got, wanted, equal_nan=True)


@pytest.mark.parametrize(
    ("function", "named"),
    [
        (lambda _, q, k, v: ((q @ k.mT).tanh() * 5).softmax(-1) @ v, "'Tanh', 'mul'"),
        (lambda _, q, k, v: (q @ k.mT).softmax(-1).pow(2) @ v, "'pow'"),
        (
            lambda _, q, k, v: (
                (q @ k.mT).masked_fill(q[..., :1] > 0, -9.0).clamp(-8, 8).softmax(-1) @ v
            ),
            "'masked_fill', 'clamp'",
        ),
    ],
)
def test_what_is_nearly_attention_is_named(
    function: Callable[..., Any], named: str, caplog: pytest.LogCaptureFixture
) -> None:
    args = tuple(torch.randn(1, 2, 5, 8) for _ in range(3))
    model = net(lambda m, *given: m.out(function(m, *given)), out=nn.Linear(8, 8))
    result = transform(model, args)
    reason = f"two products around a softmax are no attention with {named} between them"
    assert [one.reason for one in result.left] == [reason] * 2
    with caplog.at_level(logging.WARNING):
        quantize(result, [args], QuantConfig(attention="full"))
    assert "attention='full' finds no attention at 'matmul'" in caplog.text


def test_the_first_reason_is_kept() -> None:
    args = tuple(torch.randn(1, 2, 5, 8) for _ in range(3))
    result = transform(net(lambda _, q, k, v: (q @ k.mT).softmax(-2) @ v), args)
    wanted = next(one for one in result.refusals if one.pattern == "WrittenAttentionPattern")
    assert {one.reason for one in result.left} == {f"{wanted.pattern}: {wanted.reason}"}
