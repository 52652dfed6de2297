"""What `make gpu` does, on the CPU with a small network in place of the large ones."""

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torchvision
from torch import nn

from tests.quantize.nets import ready

FOLDER = Path(__file__).parents[2] / "benchmarks"
SMALL = [
    "--device",
    "cpu",
    "--batch",
    "2",
    "--size",
    "32",
    "--rounds",
    "1",
    "--models",
    "convnext_tiny",
]


def small() -> nn.Module:
    layers = (nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3, stride=2))
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(FOLDER)
    monkeypatch.setattr(torchvision.models, "convnext_tiny", lambda: ready(small))
    return import_module("gpu")


def test_the_stages_give_a_figure_with_a_bar_each(
    gpu: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    gpu.main([*SMALL, "--stages", "correct", "calibration", "training"])
    said = capsys.readouterr().out
    rows = [line for line in said.splitlines() if line.startswith("convnext_tiny, ")]
    assert len(rows) == 4 + 4 + 2
    assert all(" ≤ " in row or " ≥ " in row for row in rows)
    right = [row for row in rows if "differ" in row or "off by" in row or "as simulated" in row]
    assert len(right) == 4
    assert all("NOT MET" not in row for row in right), said


def test_without_a_gpu_it_says_so(
    gpu: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert gpu.main([]) == 0
    assert "skipped: this machine has no GPU" in capsys.readouterr().out
