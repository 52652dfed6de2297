"""The comparison with other tools, on a tiny model and without them."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.quality import measure, models, ours, page, peers
from benchmarks.quality.making import made
from benchmarks.quality.record import Results, Row, Trained


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared model of two convolutions, with a file of ours."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.Flatten()).eval()
    images = torch.randn(2, models.SAMPLES, 3, 8, 8)
    found = tmp_path_factory.mktemp("model")
    with pytest.MonkeyPatch.context() as patch:
        for module in (models, ours):
            patch.setattr(module, "built", lambda _: (net, *images))
        models.prepare("tiny", found)
        ours.main("embedl_deploy-fast", "tiny", found)
    return found


def test_a_file_is_measured_against_the_untouched_model(folder: Path) -> None:
    figures = measure.figures(folder / "embedl_deploy-fast.onnx", folder)
    assert 30 < figures.pop("held_out") < 60
    assert figures == {"share": 1.0, "refused": 0, "pairs": 2, "unsigned": 0, "shifted": 0}


def test_the_prepared_file_computes_what_the_model_does(folder: Path) -> None:
    reference = np.load(folder / "reference.npy")
    got = measure.outputs(folder / "float.onnx", np.load(folder / "held_out.npy"))
    assert measure.sqnr(reference, got) > 100


def test_unsigned_and_shifted_integers_of_another_tool_are_seen(folder: Path) -> None:
    peers.main("onnxruntime-symmetric", folder)
    figures = measure.figures(folder / "onnxruntime-symmetric.onnx", folder)
    assert (figures["unsigned"], figures["shifted"]) == (0, 0)
    peers.main("onnxruntime-default", folder)
    assert measure.figures(folder / "onnxruntime-default.onnx", folder)["shifted"] > 0


def test_what_fails_is_said(tmp_path: Path) -> None:
    note = tmp_path / "note"
    raising = [sys.executable, "-c", "raise ValueError('no such layer')"]
    assert made(raising, note, 60.0) == "ValueError: no such layer"
    assert not note.exists()
    waiting = [sys.executable, "-c", "import time; time.sleep(60)"]
    assert made(waiting, note, 0.1) == "more than 0.1 s"


def test_the_page_compares_with_symmetric_files_alone(tmp_path: Path) -> None:
    results = Results(tmp_path / "quality.json")
    results.add(Row("resnet50", "embedl_deploy-fast", held_out=20.0))
    results.add(Row("resnet50", "nncf-default", held_out=30.0, unsigned=1))
    results.add(Row("resnet50", "pt2e-symmetric", held_out=40.0, error="it stopped"))
    results.add(Row("resnet50", "nncf-symmetric", held_out=19.0))
    assert results.met
    assert "| `resnet50` | 20.0 |  |  |  | 19.0 nncf-symmetric | 1.0 dB ahead |" in page.page(
        results
    )
    results.add(Row("resnet50", "modelopt-symmetric", held_out=20.5))
    assert not results.met
    read = Results(results.path)
    assert read.rows == results.rows
    assert "0.5 dB **behind**" in page.page(read)


def test_a_trained_bar_that_is_missed_is_said(tmp_path: Path) -> None:
    results = Results(tmp_path / "quality.json")
    results.add_trained([Trained("mobile", "W8A8, fast", 0.99, 0.985, loss=0.5, allowed=0.3)])
    assert not results.met
    assert results.missing("mobile", ["W8A8, fast", "another"]) == ["another"]
    assert "+0.50 | 0.3 | **not met**" in page.page(results)
