"""Numbers computed from integers, in files of each precision, as ONNX Runtime computes them."""

from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from embedl_deploy import transform
from embedl_deploy.export import export_onnx, verify_onnx
from embedl_deploy.export.precision import Precision
from embedl_deploy.quantize import quantize
from tests.helpers import net

X, COUNTS = torch.randn(3, 4), torch.tensor([[0, 1, 2, 3], [4, 5, 6, 7], [1, 1, 900, 1]])


def promoted(m: Any, x: Tensor, n: Tensor) -> tuple[Tensor, ...]:
    """Each is a number of its own kind with integers; some are read by a layer."""
    return (
        m.first(x) + (2.5 - n),
        m.first(x) + torch.rsub(n, 0.25),
        m.last(m.first(x) * (1.0 - (n > 2).int())),
        m.last(m.first(x) + n * 0.1),
        m.last(m.first(x) * (n / 3).sqrt()),
        m.last(m.first(x) * torch.where(n > 2, 0.5, 1.5)),
        m.first(x) + n.sqrt() + (n % 2.5),
        m.first(x) + 7 // (n + 1) + 2.5 // (n + 1) + n // 2.5,
        2.5 - n,
        3.5 // (x.abs() + 1),
    )


def angles(m: Any, x: Tensor, n: Tensor) -> tuple[Tensor, ...]:
    """Encodings of positions that are an input."""
    angle = n.float()[..., None] * m.rates
    cast = n.to(torch.float32)[..., None] @ m.rates[None]
    return m.last(m.first(x) * angle.sin().sum(-1)), (angle + 0.5).cos(), cast.cos()


def layers(forward: Any) -> nn.Module:
    torch.manual_seed(0)
    model = net(forward, first=nn.Linear(4, 4), last=nn.Linear(4, 4))
    model.register_buffer("rates", torch.tensor([1.0, 0.7, 0.01]))
    return model.eval()


def written(model: nn.Module, path: Path, precision: Precision) -> list[Tensor]:
    """What ONNX Runtime computes; inputs and outputs are float32."""
    result = transform(model, (X, COUNTS))
    export_onnx(result, (X, COUNTS), path, precision=precision, float32_io=True)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]
    given = dict(zip(names, (X.numpy(), COUNTS.numpy()), strict=True))
    return [torch.from_numpy(one) for one in session.run(None, given)]


@pytest.mark.parametrize("forward", [promoted, angles])
@pytest.mark.parametrize(("precision", "near"), [("float32", 1e-5), ("float16", 4e-3)])
def test_files_compute_with_integers_as_the_model_does(
    forward: Any, precision: Precision, near: float, tmp_path: Path
) -> None:
    model = layers(forward)
    with torch.no_grad():
        wanted = model(X, COUNTS)
    found = written(model, tmp_path / "model.onnx", precision)
    for got, want in zip(found, wanted, strict=True):
        torch.testing.assert_close(got, want, rtol=near, atol=near)


def ranked(m: Any, x: Tensor, n: Tensor) -> tuple[Tensor, ...]:
    values, places = m.first(x).topk(3, -1)
    ordered, order = (x * 2).sort(-1, descending=True)
    return m.last(values @ m.rates[:, None] + x), places, ordered, order, x.argsort(-1), n + 1


def test_what_ranks_is_computed_in_float32_in_a_bfloat16_file(tmp_path: Path) -> None:
    model = layers(ranked)
    quantized = quantize(transform(model, (X, COUNTS)), [(X, COUNTS)])
    path = export_onnx(quantized, (X, COUNTS), tmp_path / "model.onnx", precision="bfloat16")
    parity = verify_onnx(path, quantized, [(X, COUNTS)])
    assert parity.only_ties
    assert all(one.sqnr_db > 40 for one in parity.outputs.values())
