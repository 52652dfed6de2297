"""Constants that half precision cannot hold: too large, or so small that they become zero."""

import logging
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import torch
import torch.nn.functional as F
from onnx import numpy_helper
from torch import Tensor, nn

from embedl_deploy import transform
from embedl_deploy.export import OnnxModel, export_onnx, verify_onnx
from embedl_deploy.export.precision import Precision
from embedl_deploy.quantize import quantize

LOWEST = torch.finfo(torch.float32).min


class Masked(nn.Module):
    """Attends to what is not masked; rows of padding are masked wholly, as in DeBERTa."""

    def __init__(self, mask: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(16, 16), nn.Linear(16, 16)
        self._mask = mask

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = self.first(x)
        keep = (mask[:, None, :] * mask[:, :, None]).bool()
        scores = self._mask((x @ x.transpose(1, 2)) * 0.5, keep)
        return self.last(scores.softmax(-1) @ x)


MASKS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "masked_fill": lambda scores, keep: scores.masked_fill(~keep, LOWEST),
    "where": lambda scores, keep: torch.where(keep, scores, LOWEST),
    "tensor": lambda scores, keep: torch.where(keep, scores, torch.tensor(-1e30)),
}


@pytest.mark.parametrize("mask", MASKS)
def test_a_constant_beyond_half_precision_is_its_largest_number(
    mask: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.manual_seed(0)
    model, x = Masked(MASKS[mask]).eval(), torch.randn(1, 8, 16)
    inputs = (x, torch.tensor([[1, 1, 1, 1, 1, 0, 0, 0]]))
    quantized = quantize(transform(model, inputs), [inputs])
    with caplog.at_level(logging.WARNING):
        path = export_onnx(quantized, inputs, tmp_path / "model.onnx", precision="float16")
    assert "is beyond float16 and becomes ±65504" in caplog.text
    stored = [numpy_helper.to_array(one) for one in onnx.load(path).graph.initializer]
    assert all(torch.tensor(one.copy()).isfinite().all() for one in stored)
    assert verify_onnx(path, quantized, [inputs]).only_ties


def test_infinity_stays_infinity(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = Masked(lambda scores, keep: scores.masked_fill(~keep, float("-inf"))).eval()
    inputs = (torch.randn(1, 8, 16), torch.ones(1, 8, dtype=torch.int64))
    export_onnx(transform(model, inputs), inputs, tmp_path / "model.onnx", precision="float16")
    assert "beyond" not in caplog.text


class Divided(nn.Module):
    """Divides its features in each way, with an output for each."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(16, 16, bias=False), nn.Linear(16, 16)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x = self.first(x).relu()
        return tuple(self.last(divide(x)) for divide in DIVISIONS.values())


DIVISIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "normalize": lambda x: F.normalize(x, dim=-1),
    "clamp": lambda x: x / x.norm(dim=-1, keepdim=True).clamp(min=1e-12),
    "sum": lambda x: x / (x.abs().sum(-1, keepdim=True) + 1e-9),
    "sqrt": lambda x: x / torch.sqrt(x.pow(2).sum(-1, keepdim=True) + 1e-12),
    "rsqrt": lambda x: x * torch.rsqrt(x.pow(2).sum(-1, keepdim=True) + 1e-10),
    "cosine": lambda x: F.cosine_similarity(x, x.flip(-1), dim=-1)[..., None] * x,
}


@pytest.mark.parametrize("precision", ["float32", "float16"])
@pytest.mark.parametrize("method", ["trace", "export"])
def test_what_keeps_a_division_from_zero_keeps_it(
    method: str, precision: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model, x = Divided().eval(), torch.randn(4, 8, 16)
    x[1] = 0.0
    result = transform(model, (x,), method=method)  # type: ignore[arg-type]
    quantized = quantize(result, [x])
    path = export_onnx(quantized, x, tmp_path / "model.onnx", precision=precision)  # type: ignore[arg-type]
    computed = OnnxModel(path)(x).values()
    finite = {name: one.isfinite().all() for name, one in zip(DIVISIONS, computed, strict=True)}
    assert all(finite.values()), finite
    assert verify_onnx(path, quantized, [x]).only_ties


class Norms(nn.Module):
    """Root mean squares with an `eps` that the exporter would drop."""

    def __init__(self, eps: float, *, affine: bool) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8, bias=False)
        self.norm = nn.RMSNorm((2, 8), eps, elementwise_affine=affine)
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        x = self.linear(x)
        x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps)
        return self.norm(x) + 0.5


@pytest.mark.parametrize(
    ("eps", "affine", "precision"),
    [(1e-12, True, "float32"), (1e-10, False, "float32"), (1e-12, True, "float16")],
)
def test_a_small_eps_of_an_rms_norm_is_kept(
    eps: float, precision: Precision, *, affine: bool, tmp_path: Path
) -> None:
    model, x = Norms(eps, affine=affine).eval(), torch.randn(3, 2, 8)
    x[1] = 0
    result = transform(model, (x,))
    assert result.fused["FusedRMSNorm"] == 2
    assert all(node.target for node in result.model.graph.nodes)
    path = export_onnx(result, (x,), tmp_path / "norm.onnx", precision=precision)
    (output,) = OnnxModel(path)(x).values()
    tolerance = 1e-5 if precision == "float32" else 2e-2
    torch.testing.assert_close(output.float(), model(x), rtol=0, atol=tolerance)
