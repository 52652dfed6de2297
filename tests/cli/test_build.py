"""`build` builds, or says how to elsewhere, and holds the layers against the prediction."""

import json
import sys
from pathlib import Path

import pytest

from embedl_deploy.tensorrt import explain_onnx
from tests.cli.commands import run, run_json
from tests.tensorrt.engine import stand_in
from tests.tensorrt.rules.format_cases import CONV
from tests.tensorrt.rules.models import Text

OPEN = Text("y = Relu(x)", (("x", (None, 16, 8, 8)),))


@pytest.fixture(autouse=True)
def _stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in.reset()
    monkeypatch.setitem(sys.modules, "tensorrt", stand_in)
    monkeypatch.setenv("COLUMNS", "120")


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(Text(CONV).save(tmp_path))


def report(path: str, *changes: tuple[int, list[str]]) -> str:
    """As predicted, but for layers that have other operators."""
    layers = stand_in.as_predicted(explain_onnx(path))
    for index, nodes in changes:
        layers[index] = stand_in.layer(nodes, "INT8")
    target = Path(path).with_name("layers.json")
    target.write_text(json.dumps({"Layers": layers}))
    return str(target)


def test_an_engine_is_built_beside_the_file(path: str) -> None:
    said = " ".join(run("build", path).stdout.split())
    assert Path(path).with_name("model.plan").exists()
    assert "1 as predicted convolution INT8 INT8 K05 Conv_c" in said
    assert "of 2 predicted kernels: 2 as predicted; 0 reformats, 0 other layers" in said


def test_json_has_the_outcomes(path: str, tmp_path: Path) -> None:
    found = run_json("build", path, str(tmp_path / "other.plan"))
    assert found["engine"] == str(tmp_path / "other.plan")
    assert (found["version"], found["counts"]) == ("10.13", {"as predicted": 2})


def test_ranges_are_read(tmp_path: Path) -> None:
    path = str(OPEN.save(tmp_path))
    run("build", path, "--min", "1,16,8,8", "--max", "x:4,16,8,8", code=2)
    run("build", path, "--min", "1,16,8,8", "--max", "4,16,8,8", "--workspace", "5")
    assert ("set_shape", "x", (1, 16, 8, 8), (4, 16, 8, 8), (4, 16, 8, 8)) in stand_in.calls
    run("build", path, "--shape", "x:2,16,8,8")
    assert ("set_shape", "x", (2, 16, 8, 8), (2, 16, 8, 8), (2, 16, 8, 8)) in stand_in.calls
    assert "has open sizes" in run_json("build", path, code=1)["error"]["message"]


def test_the_line_for_elsewhere_is_one_line(path: str) -> None:
    line = run("build", path, "--trtexec", "--version", "10.13").stdout
    assert line.startswith(f"trtexec --onnx={path} --saveEngine=")
    assert "--stronglyTyped" in line
    assert line.count("\n") == 1
    assert run_json("build", path, "--trtexec")["command"].startswith("trtexec ")
    assert stand_in.calls == []


def test_a_report_from_elsewhere_is_compared(path: str) -> None:
    found = run_json("build", path, "--report", report(path), "--strict")
    assert found["counts"] == {"as predicted": 2}
    assert stand_in.calls == []
    split = report(path, (0, ["Relu_y"]), (1, ["Conv_c"]))
    assert run_json("build", path, "--report", split)["broken"] == ["Conv_c"]
    said = " ".join(run("build", path, "--report", split, "--strict", code=1).stdout.split())
    assert "1 split convolution" in said


def test_other_layers_are_counted_and_can_be_listed(path: str) -> None:
    layers = [*stand_in.as_predicted(explain_onnx(path))]
    layers += [stand_in.layer([f"more_{index}"], "FP16") for index in range(7)]
    target = Path(path).with_name("layers.json")
    target.write_text(json.dumps({"Layers": layers}))
    some = run("build", path, "--report", str(target)).stdout
    assert "Other layers – 7, not predicted" in some
    assert "more_6" not in some
    assert "more_6" in run("build", path, "--report", str(target), "--all").stdout


def test_without_tensorrt_one_error_says_what_to_do(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    message = run_json("build", path, code=1)["error"]["message"]
    assert message.startswith("TensorRT is not installed here: pip install tensorrt")
    _, line, then = message.splitlines()
    assert [line.strip()] == run("build", path, "--trtexec").stdout.splitlines()
    assert "--report" in then


@pytest.mark.parametrize(
    "options",
    [
        ("--report", "a.json", "--trtexec"),
        ("--shape", "1,2", "--min", "1,2", "--max", "1,2"),
        ("--opt", "1,2"),
        ("--min", "1,2"),
        ("--workspace", "0"),
    ],
)
def test_options_that_contradict_are_refused(options: tuple[str, ...], path: str) -> None:
    run("build", path, *options, code=2)
