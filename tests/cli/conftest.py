"""A current folder with the modules, data and weights of a user."""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

NETS = """
import torch
from torch import nn

class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        self.depthwise = nn.Conv2d(4, 4, 3, groups=4)
        self.last = nn.Conv2d(4, 4, 1)
        self.slopes = nn.PReLU(3)
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        x = self.depthwise(self.stem(self.slopes(x)))
        return self.head(self.last(x).flatten(2).mean(2))

class Attends(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 1, batch_first=True)

    def forward(self, x):
        return self.attention(x, x, x, need_weights=False)[0]

class Branches(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x

class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(4, 8), nn.Linear(6, 8)

    def forward(self, x, y):
        return self.left(x) + self.right(y)

def twice(): return Twice()
def single(): return nn.Linear(4, 8)
def rows(): return [torch.randn(4, 4)]
def pairs(): return [(torch.randn(4, 4), torch.randn(4, 6))]
def small():
    print("a user's module may print")
    torch.manual_seed(0)
    return Small()

def branches(): return Branches()
def plain(): return nn.Sequential(nn.ReLU())
def attends(): return Attends()
def tokens(): return [torch.randn(1, 8, 16) for _ in range(2)]
def labelled(): return [(torch.randn(2, 3, 8, 8), torch.zeros(2)) for _ in range(3)]
def named(): return [{"x": torch.randn(2, 3, 8, 8)} for _ in range(3)]
def not_finite(): return [torch.full((2, 3, 8, 8), float("nan"))]
def misfits(): return [torch.randn(2, 3, 8, 8), torch.randn(2, 5, 8, 8)]
def nothing(): return []
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder: `user_nets.py`, `photos/`, `broken/`, `rows.npz` and `misfit.pt`."""
    (tmp_path / "user_nets.py").write_text(NETS)
    for place in ("photos", "broken"):
        (tmp_path / place).mkdir()
    Image.new("RGB", (9, 12), "white").save(tmp_path / "photos" / "white.png")
    for index in range(3):
        pixels = np.random.default_rng(index).integers(0, 255, (9, 12, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{index}.png")
    (tmp_path / "broken" / "text.png").write_text("no image")
    rows = np.random.default_rng(0).normal(size=(6, 3, 8, 8)).astype(np.float32)
    np.savez(tmp_path / "rows.npz", rows)
    torch.save({"head.weight": torch.zeros(7, 7)}, tmp_path / "misfit.pt")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("COLUMNS", "100")
    yield tmp_path
    sys.modules.pop("user_nets", None)
