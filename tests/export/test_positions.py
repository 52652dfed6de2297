"""Encodings of positions in half precision."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from embedl_deploy import transform
from embedl_deploy.export import export_onnx, verify_onnx
from embedl_deploy.export.positions import from_sizes
from embedl_deploy.quantize import quantize


class Encoded(nn.Module):
    """Adds an encoding of the position, projected by a quantized convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.projection = nn.Conv2d(3, 4, 1), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = x.shape[2], x.shape[3]
        grid = torch.ones(rows, columns).cumsum(1, dtype=torch.float32)
        grid = grid / (grid[:, -1:] + 1e-6) * 6.2831853
        waves = grid[None] / (10000.0 ** (torch.arange(4).float() / 4))[:, None, None]
        encoding = torch.cat((waves.sin(), waves.cos()))[None]
        return (self.first(x) + self.projection(encoding)).abs()


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_positions_are_as_exact_as_simulated(precision: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    data = [torch.randn(1, 3, 9, 33, generator=torch.Generator().manual_seed(i)) for i in range(2)]
    model = quantize(transform(Encoded().eval(), (data[0],)), data)
    path = export_onnx(model, data[0], tmp_path / "model.onnx", precision=precision)  # type: ignore[arg-type]
    parity = verify_onnx(path, model, data)
    assert parity.only_ties, parity
    assert len(parity.stubs) == 2


def test_what_an_activation_is_in_is_not_of_sizes() -> None:
    model = transform(Encoded().eval(), (torch.zeros(1, 3, 9, 33),)).model
    found = {node.name for node in from_sizes(model)}
    assert {"arange", "sin", "cos", "cat", "cumsum"} <= found
    of_input = [node for node in model.graph.nodes if node.op in {"placeholder", "call_module"}]
    assert not found & {node.name for node in of_input}
    last = next(node for node in reversed(model.graph.nodes) if node.op == "call_function")
    assert last.name not in found
