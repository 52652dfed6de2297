"""A batch of any size, from the example inputs to the file that ONNX Runtime runs."""

from pathlib import Path

import torch
from torch import Tensor, nn

from embedl_deploy import transform
from embedl_deploy.export import OnnxModel, export_onnx
from embedl_deploy.quantize import quantize
from tests.helpers import run, warm


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
