"""Encodings of positions in half precision."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from embedl_deploy import transform
from embedl_deploy.export import OnnxModel, export_onnx, verify_onnx
from embedl_deploy.export.positions import from_sizes
from embedl_deploy.quantize import quantize


class Encoded(nn.Module):
    """Adds an encoding of the position, projected by a convolution."""

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
    assert [*parity.stubs] == ["x_stub"]


def test_what_an_activation_is_in_is_not_of_sizes() -> None:
    model = transform(Encoded().eval(), (torch.zeros(1, 3, 9, 33),), method="export").model
    found = {node.name for node in from_sizes(model)}
    assert {"arange", "sin", "cos", "cat", "cumsum"} <= found
    of_input = [node for node in model.graph.nodes if node.op in {"placeholder", "call_module"}]
    assert not found & {node.name for node in of_input}
    last = next(node for node in reversed(model.graph.nodes) if node.op == "call_function")
    assert last.name not in found


class Turned(nn.Module):
    """Turns its features by angles of the position, as rotary encodings do."""

    def __init__(self, angles: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(32, 32), nn.Linear(32, 32)
        self.register_buffer("frequencies", 10000.0 ** (-torch.arange(0, 32, 2) / 32))
        self.positions = torch.arange(512).float()
        self._angles = angles

    def forward(self, x: Tensor) -> Tensor:
        angles = self._angles(self, x)
        angles = torch.cat((angles, angles), -1)
        one, two = self.first(x).chunk(2, -1)
        turned = torch.cat((one, two), -1) * angles.cos().to(x.dtype)
        return self.last(turned + torch.cat((-two, one), -1) * angles.sin().to(x.dtype))


def _product(m: Any, x: Tensor) -> Tensor:
    """As Llama's and Qwen's."""
    positions = torch.arange(x.shape[1], device=x.device)[None, None, :]
    return (m.frequencies[None, :, None].float() @ positions.float()).transpose(1, 2)


def _einsum(m: Any, x: Tensor) -> Tensor:
    """As GPT-NeoX's."""
    return torch.einsum("i,j->ij", torch.arange(x.shape[1]).type_as(m.frequencies), m.frequencies)


def _divided(m: Any, x: Tensor) -> Tensor:
    """As DINOv3's: positions between -1 and 1, periods."""
    middles = torch.arange(0.5, x.shape[1], device=x.device) / x.shape[1]
    return 80.0 * torch.pi * (2.0 * middles - 1.0)[:, None] * m.frequencies[None]


def _summed(m: Any, x: Tensor) -> Tensor:
    """As DETR's: a running sum, for each row of the batch."""
    rows = torch.ones(x.shape[:2], device=x.device).cumsum(1)
    return (rows / (rows[:, -1:] + 1e-6) * 188.5)[..., None] * m.frequencies


def _typed(m: Any, x: Tensor) -> Tensor:
    """As RT-DETR's, whose encoder makes its positions of the type of an input."""
    positions = torch.arange(x.shape[1]).type_as(x.new_zeros(2))
    return positions[:, None] * m.frequencies[None]


def _cast(m: Any, x: Tensor) -> Tensor:
    return torch.arange(x.shape[1]).to(x)[:, None] * m.frequencies[None]


def _filled(m: Any, x: Tensor) -> Tensor:
    """A running sum of ones that an input makes."""
    return x.new_full((x.shape[1],), 1.0).cumsum(0)[:, None] * m.frequencies[None]


SPELLINGS = {
    "typed": _typed,
    "cast": _cast,
    "filled": _filled,
    "product": _product,
    "einsum": _einsum,
    "outer": lambda m, _: torch.outer(m.positions, m.frequencies),
    "divided": _divided,
    "summed": _summed,
}


class Spelled(nn.Module):
    """Turns its features in several ways, with an output for each."""

    def __init__(self, *names: str) -> None:
        super().__init__()
        self.ways = nn.ModuleDict({name: Turned(SPELLINGS[name]) for name in names})

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(one(x) for one in self.ways.values())


def errors(path: Path, model: Spelled, data: Tensor) -> dict[str, float]:
    """Of each way: the noise over the signal. A step of half precision has 66 dB, an angle 35."""
    with torch.no_grad():
        wanted = model(data)
    pairs = zip(model.ways, wanted, OnnxModel(path)(data).values(), strict=True)
    return {
        name: float((one - computed.float()).square().sum() / one.square().sum())
        for name, one, computed in pairs
    }


@pytest.mark.parametrize("dynamic_batch", [False, True], ids=["fixed", "dynamic"])
def test_angles_are_rounded_once(*, dynamic_batch: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, data = Spelled(*SPELLINGS).eval(), torch.randn(2, 512, 32)
    result = transform(model, (data,))
    plain = export_onnx(
        result, data, tmp_path / "p.onnx", precision="float16", dynamic_batch=dynamic_batch
    )
    found = errors(plain, model, data)
    assert found.keys() == SPELLINGS.keys()
    assert max(found.values()) < 1e-5, found
    quantized = quantize(result, [data])
    path = export_onnx(
        quantized, data, tmp_path / "q.onnx", precision="float16", dynamic_batch=dynamic_batch
    )
    assert verify_onnx(path, quantized, [data]).only_ties


def test_sizes_that_vary_are_not_stored(tmp_path: Path) -> None:
    """The file computes its angles for inputs of another length."""
    model = Spelled("product", "einsum", "typed", "filled").eval()
    data = torch.randn(2, 64, 32)
    path = export_onnx(
        transform(model, (data,)),
        data,
        tmp_path / "model.onnx",
        precision="float16",
        dynamic_shapes=({1: torch.export.Dim("length", max=512)},),
    )
    found = errors(path, model, torch.randn(2, 300, 32))
    assert max(found.values()) < 1e-5, found
