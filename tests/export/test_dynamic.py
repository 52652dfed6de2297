"""A batch of any size, from the example inputs to the file that ONNX Runtime runs."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from embedl_deploy import transform
from embedl_deploy.errors import ExportError
from embedl_deploy.export import OnnxModel, export_onnx
from embedl_deploy.quantize import quantize
from tests.helpers import net, run, warm


class Sized(nn.Module):
    """Code that asks for shapes, so that symbolic tracing stops."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.qkv = nn.Linear(8, 24)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        if x.shape[-1] % 2:
            x = x[..., :-1]
        batch, channels, height, width = x.shape
        x = x.reshape(batch, channels, height * width).transpose(1, 2)
        q, k, v = self.qkv(x).reshape(batch, -1, 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
        x = (q @ k.transpose(-2, -1) * 0.5).softmax(-1) @ v
        return self.head(x.transpose(1, 2).reshape(batch, -1, 8).mean(1))


def test_dynamic_shapes_go_through_to_the_file(tmp_path: Path) -> None:
    model = warm(Sized()).eval()
    batch = torch.export.Dim("batch", min=2, max=64)
    x = torch.randn(4, 3, 6, 6)
    result = transform(model, (x,), dynamic_shapes=({0: batch},))
    quantized = quantize(result, [x, torch.randn(4, 3, 6, 6)])
    path = export_onnx(quantized, (x,), tmp_path / "model.onnx", dynamic_batch=True)
    file = OnnxModel(path)
    for rows in (3, 7):
        other = torch.randn(rows, 3, 6, 6)
        (got,) = file(other).values()
        want = run(quantized, (other,))
        assert got.shape == (rows, 4)
        torch.testing.assert_close(got, want, rtol=1e-3, atol=0.05 * float(want.abs().max()))
        torch.testing.assert_close(run(result.model, (other,)), run(model, (other,)))


@pytest.mark.parametrize(
    ("fixed", "rows"),
    [
        (False, lambda x: torch.arange(x.shape[0]) / x.shape[0]),
        (False, lambda x: torch.ones(x.shape[0]) / x.shape[0]),
        (True, lambda x: torch.linspace(0, 1, x.shape[0])),
        (True, lambda x: torch.full((), float(x.shape[0])).expand(2)),
    ],
)
def test_numbers_from_the_batch_vary_with_it_or_are_refused(
    rows: Callable[[Tensor], Tensor], *, fixed: bool, tmp_path: Path
) -> None:
    model = net(lambda m, x: m.linear(x) + rows(x)[:, None], linear=nn.Linear(4, 4)).eval()
    x, path = torch.randn(2, 4), tmp_path / "model.onnx"
    result = transform(model, (x,))
    if fixed:
        with pytest.raises(ExportError, match="fixes the batch to 2"):
            export_onnx(result, (x,), path, dynamic_batch=True)
        return
    file = OnnxModel(export_onnx(result, (x,), path, dynamic_batch=True))
    more = torch.randn(6, 4)
    (output,) = file(more).values()
    torch.testing.assert_close(output, run(model, (more,)))
