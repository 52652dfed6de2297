"""Small models, each with what a compiler may stumble over."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

IMAGE = (2, 3, 12, 12)


class Residual(nn.Module):
    """A residual block with a projected shortcut: both inputs of the addition are convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8)
        self.again, self.norm_again = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.short, self.norm_short = nn.Conv2d(3, 8, 1, stride=2), nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.norm(self.conv(x)))
        return torch.relu(self.norm_again(self.again(y)) + self.norm_short(self.short(x)))


class Activations(nn.Module):
    """Every activation after a convolution and after a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        kinds = (
            nn.ReLU,
            nn.ReLU6,
            nn.LeakyReLU,
            nn.ELU,
            nn.GELU,
            nn.SiLU,
            nn.Hardswish,
            nn.Hardsigmoid,
        )
        self.convs = nn.Sequential()
        self.linears = nn.Sequential()
        for kind in kinds:
            width = 3 if not self.convs else 4
            self.convs.extend([nn.Conv2d(width, 4, 1), nn.BatchNorm2d(4), kind()])
            self.linears.extend([nn.Linear(12, 12), kind()])

    def forward(self, x: Tensor) -> Tensor:
        return self.linears(self.convs(x))


class Convolutions(nn.Module):
    """Convolutions in all their forms."""

    def __init__(self) -> None:
        super().__init__()
        self.circular = nn.Conv2d(3, 8, 3, padding=2, padding_mode="circular")
        self.norm = nn.BatchNorm2d(8)
        self.reflect = nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect", bias=False)
        self.replicate = nn.Conv2d(8, 8, 3, padding=(1, 0), padding_mode="replicate")
        self.same = nn.Conv2d(8, 8, (4, 3), padding="same")
        self.grouped = nn.Conv2d(8, 16, 3, groups=2, dilation=2)
        self.depthwise = nn.Conv2d(16, 16, 3, groups=16, bias=False)
        self.norm_again = nn.BatchNorm2d(16, affine=False)
        self.strided = nn.Conv2d(16, 5, (1, 3), stride=(2, 1), padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.reflect(self.norm(self.circular(x)))
        x = self.grouped(self.same(self.replicate(x)))
        return self.strided(self.norm_again(self.depthwise(x)))


class Factors(nn.Module):
    """Batch norms whose factors are negative, zero, tiny or huge."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
        self.again, self.norm_again = nn.Conv2d(8, 8, 1, bias=False), nn.BatchNorm2d(8, eps=1e-12)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm_again(self.again(torch.relu(self.norm(self.conv(x)))))


def factors() -> nn.Module:
    model = Factors()
    values = torch.tensor([-1.5, 0.0, -0.0, 1e-30, -1e-20, 1e-45, 3.0, 1.0])
    with torch.no_grad():
        for norm in (model.norm, model.norm_again):
            norm.weight.copy_(values)
            norm.bias.copy_(torch.randn(8))
            assert norm.running_var is not None
            norm.running_var.copy_(torch.tensor([1.0, 1, 2, 1, 1e-12, 1, 1e-8, 1e6]))
            norm.momentum = 0.0  # the statistics stay when the model is warmed up
    return model


class Shared(nn.Module):
    """One convolution at two places, each with a batch norm of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.norm, self.norm_again = nn.BatchNorm2d(3), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm_again(self.conv(torch.relu(self.norm(self.conv(x)))))


class Pools(nn.Module):
    """Global pooling, the same module at two places, and pooling to a grid."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.grid = nn.AdaptiveAvgPool2d((3, 2))
        self.linear = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.conv(x)
        scaled = y * torch.sigmoid(self.pool(y))
        return self.linear(self.pool(scaled).flatten(1)), self.grid(y)


class Attention(nn.Module):
    """Self-attention, cross-attention with sizes of its own, norms, and a masked attention."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(16)
        self.own = nn.MultiheadAttention(16, 4, batch_first=True)
        self.cross = nn.MultiheadAttention(16, 2, kdim=6, vdim=6, bias=False, batch_first=True)
        self.register_buffer("mask", torch.ones(5, 5).tril().bool().logical_not())

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        y = self.norm(x)
        x = x + self.own(y, y, y, need_weights=False, attn_mask=self.mask)[0]
        return x + self.cross(x, memory, memory, need_weights=False)[0]


class Named(nn.Module):
    """Two inputs, and outputs in a dict, one of them an input."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, left: Tensor, right: Tensor) -> dict[str, Tensor]:
        total = self.linear(left + right)
        return {"total": total, "left": left, "act": torch.relu(total)}


class PreActivation(nn.Module):
    """A batch norm that no convolution can take in, and one that the next convolution cannot."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(torch.relu(self.norm(x)))


class Twice(nn.Module):
    """The same tensor, computed twice, at two quantized places."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(12, 3), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.left(x.flatten(1, 2)) + self.right(x.flatten(1, 2))


class Inverted(nn.Module):
    """Additions after convolutions, one with a branch that drops out, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.expand, self.norm = nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.project, self.norm_again = nn.Conv2d(8, 3, 1, bias=False), nn.BatchNorm2d(3)
        self.drop = StochasticDepth(0.5, "row")
        self.last = nn.Conv2d(3, 3, 3, padding=1)
        self.linear = nn.Linear(12, 12)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.norm(self.expand(x)))
        x = x + self.drop(self.norm_again(self.project(self.depthwise(y) + y)))
        x = torch.relu(self.last(x) + x)
        return self.linear(x) + x


class Dimensions(nn.Module):
    """Convolutions of one and of three dimensions, with what they take in."""

    def __init__(self) -> None:
        super().__init__()
        self.line, self.norm = nn.Conv1d(3, 6, 3, padding=1), nn.BatchNorm1d(6)
        self.again = nn.Conv1d(6, 6, 1)
        self.cube, self.norm_cube = nn.Conv3d(3, 4, 2, groups=1, bias=False), nn.BatchNorm3d(4)

    def forward(self, x: Tensor, cube: Tensor) -> tuple[Tensor, Tensor]:
        y = F.gelu(self.norm(self.line(x)))
        return self.again(y) + y, self.norm_cube(self.cube(cube))


class Transposed(nn.Module):
    """Transposed convolutions in all dimensions, one with groups, which stays in floating point."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Sequential(nn.ConvTranspose1d(3, 5, 4, 2, 1), nn.BatchNorm1d(5), nn.SiLU())
        self.map = nn.Sequential(
            nn.ConvTranspose2d(3, 6, 3, 2, 1, 1, bias=False),
            nn.BatchNorm2d(6),
            nn.ConvTranspose2d(6, 4, 2, groups=2),
            nn.BatchNorm2d(4),
            nn.ConvTranspose2d(4, 2, 3, dilation=2),
        )
        self.cube = nn.Sequential(nn.ConvTranspose3d(3, 4, 2), nn.BatchNorm3d(4), nn.ReLU())

    def forward(self, line: Tensor, image: Tensor, cube: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.line(line), self.map(image), self.cube(cube)


class Points(nn.Module):
    """Linear layers with batch norms, and the norms that stay in floating point."""

    def __init__(self) -> None:
        super().__init__()
        self.instance, self.group, self.rms = (
            nn.InstanceNorm1d(6),
            nn.GroupNorm(2, 6),
            nn.RMSNorm(9),
        )
        self.first, self.norm = nn.Linear(54, 8, bias=False), nn.BatchNorm1d(8)
        self.second, self.norm_again = nn.Linear(8, 6), nn.BatchNorm1d(6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.rms(self.group(self.instance(x)).tanh()).flatten(1)
        return self.norm_again(self.second(torch.relu(self.norm(self.first(x)))))


@dataclass(frozen=True)
class Case:
    """A model and how it is exported.

    Attributes:
        make: Makes the model.
        shapes: Of its inputs.
        kept_norms: Batch norms that stay in the file.
        single: Operators that must appear, and how often.
    """

    make: Callable[[], nn.Module]
    shapes: tuple[tuple[int, ...], ...] = (IMAGE,)
    kept_norms: int = 0
    single: tuple[tuple[str, int], ...] = ()

    def args(self, seed: int = 0) -> tuple[Tensor, ...]:
        generator = torch.Generator().manual_seed(seed)
        return tuple(torch.randn(shape, generator=generator) for shape in self.shapes)

    def batches(self, count: int = 3) -> list[Any]:
        return [self.args(seed) for seed in range(1, count + 1)]


def _stem() -> nn.Module:
    stem = nn.Conv2d(3, 8, 7, stride=2, padding=3, bias=False)
    return nn.Sequential(stem, nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(3, 2, 1))


def _head() -> nn.Module:
    pool, flatten = nn.AdaptiveAvgPool2d((1, 1)), nn.Flatten()
    return nn.Sequential(nn.Conv2d(3, 8, 3), pool, flatten, nn.Dropout(0.1), nn.Linear(8, 5))


CASES = {
    "stem": Case(_stem, ((2, 3, 24, 24),), single=(("MaxPool", 1), ("Relu", 1))),
    "residual": Case(Residual, single=(("Add", 1), ("Relu", 2))),
    "activations": Case(
        Activations, single=(("Gelu", 2), ("HardSwish", 2), ("HardSigmoid", 2), ("Elu", 2))
    ),
    "convolutions": Case(Convolutions),
    "factors": Case(factors),
    "shared": Case(Shared),
    "pools": Case(Pools, single=(("GlobalAveragePool", 2),)),
    "head": Case(_head, single=(("GlobalAveragePool", 1), ("Conv", 2), ("Dropout", 0))),
    "attention": Case(
        Attention, ((2, 5, 16), (2, 7, 6)), single=(("LayerNormalization", 1), ("Softmax", 2))
    ),
    "named": Case(Named, ((2, 4), (2, 4))),
    "pre-activation": Case(PreActivation, kept_norms=1),
    "inverted": Case(Inverted, single=(("Add", 5), ("Relu", 2))),
    "dimensions": Case(Dimensions, ((2, 3, 8), (2, 3, 4, 4, 4)), single=(("Conv", 3),)),
    "transposed": Case(
        Transposed,
        ((2, 3, 6), (2, 3, 5, 5), (2, 3, 3, 3, 3)),
        single=(("ConvTranspose", 5),),
    ),
    "points": Case(Points, ((7, 6, 9),)),
    "twice": Case(Twice, ((2, 3, 4),)),
}
