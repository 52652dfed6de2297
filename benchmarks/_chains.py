"""Synthetic models with as many operators as asked for, on tiny tensors."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_CHANNELS = 2


class Mixed(nn.Module):
    """Convolution, batch norm and ReLU; a residual addition; now and then layer norm."""

    def __init__(self, operators: int) -> None:
        super().__init__()
        blocks = max(1, operators // 10)
        self.blocks = nn.ModuleList(_MixedBlock() for _ in range(blocks))

    def forward(self, x: Tensor) -> Tensor:
        """Apply. Shapes: (N, 2, H, W), unchanged."""
        for block in self.blocks:
            x = block(x)
        return x


class _MixedBlock(nn.Module):
    """Ten operators, of which eight are layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(_CHANNELS, _CHANNELS, 1)
        self.norm1 = nn.BatchNorm2d(_CHANNELS)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(_CHANNELS, _CHANNELS, 1)
        self.norm2 = nn.BatchNorm2d(_CHANNELS)
        self.relu2 = nn.ReLU(inplace=True)
        self.linear = nn.Linear(_CHANNELS, _CHANNELS)
        self.gelu = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        """Apply."""
        y = self.relu1(self.norm1(self.conv1(x)))
        y = self.relu2(self.norm2(self.conv2(y)) + x)
        return self.gelu(self.linear(y)) * 0.5


class Residual(nn.Module):
    """Residual blocks whose every addition is the input of the next."""

    def __init__(self, operators: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Conv2d(_CHANNELS, _CHANNELS, 1) for _ in range(max(1, operators // 4))
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(_CHANNELS) for _ in self.convs)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Apply. Shapes: (N, 2, H, W), unchanged."""
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = self.relu(norm(conv(x)) + x)
        return x


def in_place(operators: int) -> nn.Module:
    """ReLUs that all write to one tensor."""
    return nn.Sequential(*(nn.ReLU(inplace=True) for _ in range(operators)))


class Functional(nn.Module):
    """Functions in place of modules: an exported graph of it has all of them as operations."""

    def __init__(self, operators: int) -> None:
        super().__init__()
        weights = [torch.full((_CHANNELS, _CHANNELS, 1, 1), 0.5) for _ in range(operators // 10)]
        self.weights = nn.ParameterList(weights)

    def forward(self, x: Tensor) -> Tensor:
        """Apply. Shapes: (N, 2, H, W), unchanged."""
        for weight in self.weights:
            y = F.relu(F.conv2d(x, weight)) * 0.5 + x
            y = F.gelu(y.permute(0, 2, 3, 1)).transpose(1, 3)
            x = torch.cat([y[:, :1], y[:, 1:]], 1)
        return x


CHAINS: dict[str, Callable[[int], nn.Module]] = {
    "mixed": Mixed,
    "residual": Residual,
    "in-place": in_place,
}
