"""Clean files: small networks, taken the library's whole way to ONNX."""

from collections.abc import Callable
from pathlib import Path

import onnx
import torch
from onnx import ModelProto
from torch import Tensor, nn

from embedl_deploy import transform
from embedl_deploy.export import export_onnx
from embedl_deploy.export.precision import Precision
from embedl_deploy.quantize import QuantConfig, quantize

IMAGE = (2, 16, 8, 8)


def _conv(inputs: int = 16, outputs: int = 16, size: int = 3, groups: int = 1) -> nn.Module:
    conv = nn.Conv2d(inputs, outputs, size, padding=size // 2, groups=groups)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU())


class Residual(nn.Module):
    """Two residual blocks after a stem."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
        self.ways = nn.ModuleList(
            nn.Sequential(_conv(), nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16))
            for _ in range(2)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for way in self.ways:
            x = torch.relu(way(x) + x)
        return x


class Concat(nn.Module):
    """Three branches, concatenated."""

    def __init__(self) -> None:
        super().__init__()
        self.ways = nn.ModuleList(_conv(size=size) for size in (1, 3, 5))
        self.last = _conv(48)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.cat([way(x) for way in self.ways], 1))


class Smooth(nn.Module):
    """Activations of several operators."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential()
        for kind in (nn.SiLU, nn.GELU, nn.Hardswish):
            self.layers.extend([nn.Conv2d(16, 16, 1), nn.BatchNorm2d(16), kind()])
        self.layers.append(nn.Conv2d(16, 16, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class Block(nn.Module):
    """A block of a vision transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.norm_again = nn.LayerNorm(32), nn.LayerNorm(32)
        self.attention = nn.MultiheadAttention(32, 2, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return x + self.mlp(self.norm_again(x))


def _head() -> nn.Module:
    return nn.Sequential(
        _conv(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 16), nn.ReLU()
    )


def _mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 16), nn.Linear(16, 16))


NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "residual": (Residual, IMAGE),
    "depthwise": (lambda: nn.Sequential(_conv(groups=16), _conv(size=1), _conv(16, 32)), IMAGE),
    "concat": (Concat, IMAGE),
    "smooth": (Smooth, IMAGE),
    "block": (Block, (2, 16, 32)),
    "full": (Block, (2, 16, 32)),
    "head": (_head, IMAGE),
    "mlp": (_mlp, (8, 16)),
    "odd": (lambda: nn.Sequential(nn.Linear(17, 17), nn.ReLU(), nn.Linear(17, 17)), (8, 17)),
}


HALVES = ("residual", "block", "head", "mlp")
"""Those that are exported in half precision too."""


def exported(name: str, folder: Path, precision: Precision = "float32") -> ModelProto:
    """A network, quantized and exported."""
    torch.manual_seed(0)
    make, shape = NETS[name]
    example = (torch.randn(shape),)
    config = QuantConfig(attention="full" if name == "full" else "inputs")
    model = quantize(transform(make().eval(), example), [example], config)
    return onnx.load(export_onnx(model, example, folder / f"{name}.onnx", precision=precision))
