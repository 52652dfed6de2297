"""The first thing that `deploy` says is what quantization did to the answers."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from torch import Tensor

from embedl_deploy.cli.commands.answer import Answers
from embedl_deploy.cli.data import Normalization, Reading, split_data
from embedl_deploy.cli.data.split import rows_of
from embedl_deploy.cli.models import load_model, random_share
from embedl_deploy.errors import LoadError
from embedl_deploy.export import Parity
from embedl_deploy.report.page import verdict
from embedl_deploy.report.parity import answers_dict
from tests.cli.commands import run, run_json

CODE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 3)
    def forward(self, x):
        return self.head(self.conv(x).relu().mean((2, 3)))

def seeded():
    torch.manual_seed(5)
    return Net()

def loaded():
    net = Net()
    net.load_state_dict({name: torch.full_like(one, 0.1) for name, one in net.state_dict().items()})
    return net

model = Net()

def judge(predict):
    scores = predict(torch.ones(4, 3, 8, 8))
    return {"sum": float(scores.sum()), "rows": len(scores)}

def pairs():
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(9, 2, 3, 8, 8, generator=generator)
    return [(one, torch.tensor([index % 3, 0])) for index, one in enumerate(rows)]
"""


@pytest.fixture
def project(folder: Path) -> Path:
    (folder / "nets.py").write_text(CODE)
    for index in range(24):
        place = folder / "classes" / f"n0{index % 3}"
        place.mkdir(parents=True, exist_ok=True)
        pixels = np.full((8, 8, 3), 10 * index, np.uint8)
        Image.fromarray(pixels).save(place / f"{index:02}.png")
    return folder


def reading(**options: Any) -> Reading:
    usual: dict[str, Any] = {
        "shape": None,
        "batch_size": 4,
        "limit": 512,
        "held": 64,
        "normalization": None,
    }
    return Reading(**{**usual, "labels": "", "inputs": 1, "classes": 0, **options})


@pytest.mark.parametrize(("count", "limit", "held"), [(16, 512, 64), (100, 20, 64), (1000, 512, 9)])
def test_what_judges_does_not_calibrate(count: int, limit: int, held: int) -> None:
    calibrating, judging, seen = rows_of(count, limit, held)
    assert not seen
    assert not set(calibrating) & set(judging)
    assert 0 < len(calibrating) <= limit
    assert 0 < len(judging) <= held
    assert max(judging) >= count / 2  # spread over all


def test_too_few_samples_do_both() -> None:
    assert rows_of(15, 512, 64) == (list(range(15)), list(range(15)), True)


def test_images_of_a_folder_for_each_class_have_labels(project: Path) -> None:
    how = reading(shape=(3, 8, 8), classes=3, normalization=Normalization((0.0,), (1.0,)))
    split = split_data(str(project / "classes"), how)
    pairs = list(split.held_out)
    assert "3 folders" in split.labels
    assert sum(len(one) for one in split.calibration) == 21
    for images, labels in pairs:
        assert isinstance(images, Tensor)
        assert labels is not None
        index = (images[:, 0, 0, 0] * 25.5).round().long()
        assert torch.equal(index % 3, labels)
    # a model of other classes has other labels
    assert not split_data(str(project / "classes"), reading(shape=(3, 8, 8), classes=1000)).labels


def test_labels_of_arrays_stay_with_their_rows(tmp_path: Path) -> None:
    rows = np.arange(40, dtype=np.float32).reshape(40, 1)
    np.savez(tmp_path / "d.npz", x=rows, y=np.arange(40) % 7)
    np.save(tmp_path / "y.npy", np.arange(40) % 7)
    for labels in ("y", str(tmp_path / "y.npy")):
        if labels != "y":
            np.savez(tmp_path / "d.npz", x=rows)
        split = split_data(str(tmp_path / "d.npz"), reading(labels=labels))
        for batch, found in split.held_out:
            assert isinstance(batch, Tensor)
            assert found is not None
            assert torch.equal(batch[:, 0].long() % 7, found)
        calibrating = torch.cat([one for one in split.calibration if isinstance(one, Tensor)])
        assert len(calibrating) == 35
    np.save(tmp_path / "y.npy", np.arange(39))
    with pytest.raises(LoadError, match="for each of the 40 samples"):
        split_data(str(tmp_path / "d.npz"), reading(labels=str(tmp_path / "y.npy")))


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize(
    ("spec", "least", "most"),
    [
        ("nets:Net", 0.99, 1),
        ("nets:seeded", 0.99, 1),
        ("nets:loaded", 0, 0),
        ("nets:model", None, 0),
    ],
)
def test_random_weights_are_seen(spec: str, least: float | None, most: float) -> None:
    before = torch.random.get_rng_state()
    share = random_share(spec, load_model(spec))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert share is None if least is None else share is not None and least <= share <= most


@pytest.mark.usefixtures("project")
def test_accuracy_and_preprocessing_are_said_and_kept() -> None:
    plain = ("--shape", "3,8,8", "--mean", "0.5", "--std", "0.25")
    options = ("nets:loaded", "out.onnx", "--data", "classes", *plain, "--evaluate", "nets:judge")
    found = run_json("deploy", *options)
    answers = found["quantized_against_float"]
    assert (answers["held_out"], answers["samples"]) == (True, 3)
    assert answers["accuracy"]["samples"] == 3
    assert (
        answers["evaluation"]["float" if "float" in answers["evaluation"] else "model"]["rows"] == 4
    )
    assert (found["data"]["mean"], found["data"]["calibration_samples"]) == ([0.5], 21)
    assert found["random_weights"] == 0
    props = {one.key: one.value for one in onnx.load("out.onnx").metadata_props}
    assert '"source": "classes"' in props["embedl_deploy"]
    again = run_json("verify", "out.onnx")
    assert again["accuracy"] == answers["accuracy"]
    assert again["outputs"] == answers["outputs"]
    said = " ".join(run("verify", "out.onnx").stdout.split())
    assert said.startswith("INT8 against float")
    assert "Accuracy top-1" in said
    assert "Evaluated sum" in said


SPLIT: Any = SimpleNamespace(seen=False)


def test_the_output_with_the_most_noise_is_the_first_that_is_said() -> None:
    """Large exact outputs, such as coordinates, would hide it in a figure of all."""
    parity = Parity(samples=5)
    exact, noise = torch.full((5, 9, 3), 1e4), torch.ones(5, 9, 3)
    for place in range(6):
        parity.add_output(f"out_{place}", exact / 10**place, exact / 10**place + noise)
    assert parity.sqnr_db > 70
    rows = Answers("FP8", True, parity, None, SPLIT).rows
    assert rows[0] == (
        "FP8 against float",
        "-20.0 dB at out_5, the worst of 6 outputs; 5 samples held out from calibration",
    )
    assert [text.split()[0] for _, text in rows[1:5]] == ["out_5", "out_4", "out_3", "out_2"]
    assert rows[5] == ("", "and 2 more with less noise; --json has all")
    kind, line = verdict._answered({"word": "FP8", **answers_dict(parity, None)})
    assert (kind, line.split(";")[0]) == (
        "info",
        "FP8 against float: -20.0 dB at out_5, the worst output",
    )


@pytest.mark.usefixtures("project")
def test_batches_of_code_may_bring_labels() -> None:
    found = run_json("deploy", "nets:loaded", "out.onnx", "--data", "nets:pairs", "--no-verify")
    answers = found["quantized_against_float"]
    assert (answers["held_out"], answers["samples"]) == (True, 2)  # the eighth batch
    assert answers["accuracy"]["samples"] == 2
