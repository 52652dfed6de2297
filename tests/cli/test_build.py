"""`build` compiles, or says how to elsewhere, and what became of products and predictions."""

import json
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from embedl_deploy.tensorrt import explain_onnx
from embedl_deploy.tensorrt.engine import compilers, process
from tests.cli.commands import run, run_json
from tests.tensorrt.engine import stand_in
from tests.tensorrt.rules.format_cases import CONV
from tests.tensorrt.rules.models import Text

OPEN = Text("y = Relu(x)", (("x", (None, 16, 8, 8)),))


needs_rtx = pytest.mark.skipif(
    find_spec("tensorrt_rtx_bindings") is None,
    reason="TensorRT for RTX is not installed: pip install 'embedl_deploy[rtx]'",
)


@pytest.fixture(autouse=True)
def _stand_in(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    if request.node.get_closest_marker("skipif") is None:
        stand_in.reset()
        monkeypatch.setitem(sys.modules, "tensorrt", stand_in)
        monkeypatch.setattr(process, "run", stand_in.run)
        monkeypatch.setattr(compilers, "_has_driver", lambda: True)


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
    assert "TensorRT 10.13.3.9: 2 kernels" in said
    assert "of 1 product 1 kept" in said


def test_json_has_the_outcomes(path: str, tmp_path: Path) -> None:
    found = run_json("build", path, str(tmp_path / "other.plan"))
    (made,) = found["compilations"]
    assert made["engine"] == str(tmp_path / "other.plan")
    assert (made["fates"], found["comparison"]["counts"]) == ({"kept": 1}, {"as predicted": 2})


def test_a_product_that_loses_its_type_fails_where_that_is_asked_for(path: str) -> None:
    stand_in.layers = [stand_in.layer(["Conv_c", "Relu_y"], "FP16")]
    (made,) = run_json("build", path, "--strict", code=1)["compilations"]
    assert made["fates"] == {"lost": 1}
    assert "multiplied in FP16" in made["products"][0]["reason"]
    assert "1 lost INT8 FP16 Conv_c" in " ".join(run("build", path).stdout.split())


def test_a_refused_file_is_an_error_with_the_compilers_words(path: str) -> None:
    stand_in.errors.append("nothing good")
    said = run("build", path, code=1).stdout
    (made,) = run_json("build", path, code=1)["compilations"]
    figures = ("engine", "engine_bytes", "kernels", "bytes")
    assert [made[key] for key in figures] == [None] * 4
    assert "error: nothing good" in said
    assert "TensorRT 10.13.3.9 built no engine: nothing good" in said
    assert not Path(path).with_name("model.plan").exists()


@needs_rtx
def test_several_gpus_are_compiled_for_and_compared(tmp_path: Path) -> None:
    path = str(Text(CONV).save(tmp_path))
    said = run("build", path, "--gpu", "sm75, l4", "--strict", code=1).stdout
    rows = [" ".join(line.split()) for line in said.splitlines()]
    assert any(row.startswith("sm75 4 0.0 1 100.0% FP32") for row in rows), said
    assert any(row.startswith("l4 3 0.0 0 100.0% INT8") for row in rows), said
    assert {one.name for one in tmp_path.iterdir()} == {
        "model.onnx",
        "model.sm75.plan",
        "model.l4.plan",
    }
    more = ("--gpu", "l4", "--gpu", "sm75,l4")
    made = run_json("build", path, str(tmp_path / "several.plan"), *more)["compilations"]
    assert [one["gpu"] for one in made] == ["l4", "sm75"]
    made = run_json("build", path, str(tmp_path / "a.plan"), "--gpu", "l4")["compilations"]
    assert [(one["gpu"], one["built"], one["fates"]) for one in made] == [("l4", True, {"kept": 1})]
    assert made[0]["estimate"]["gpu"] == "l4"
    assert "estimate: " in run("build", path, "--gpu", "l4").stdout


@needs_rtx
@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--gpu", "l4,foo"), "the GPU 'foo' is unknown; known are t4"),
        (("--gpu", "orin"), "does not build for orin, which is SM87"),
        (("--compiler", "tensorrt", "--gpu", "l4"), "no TensorRT is installed here"),
    ],
)
def test_gpus_that_do_not_go_are_refused(
    options: tuple[str, ...], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    path = str(Text(CONV).save(tmp_path))
    assert words in run_json("build", path, *options, code=1)["error"]["message"]


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
    found = run_json("build", path, "--layers-from", report(path), "--strict")
    assert found["counts"] == {"as predicted": 2}
    assert stand_in.calls == []
    split = report(path, (0, ["Relu_y"]), (1, ["Conv_c"]))
    assert run_json("build", path, "--layers-from", split)["broken"] == ["Conv_c"]
    said = " ".join(run("build", path, "--layers-from", split, "--strict", code=1).stdout.split())
    assert "1 split convolution" in said


def test_a_page_shows_what_was_compiled(path: str, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    run("build", path, "--report", str(page))
    said = page.read_text(encoding="utf-8")
    assert '<h2 id="compiled-1">' in said
    assert "Of 2 predicted kernels: 2 as predicted" in said
    run("build", path, "--layers-from", report(path), "--report", str(page))
    assert '<h2 id="kernels">' in page.read_text(encoding="utf-8")
    run("build", path, "--trtexec", "--report", str(page), code=2)


def test_other_layers_are_counted_and_can_be_listed(path: str) -> None:
    layers = [*stand_in.as_predicted(explain_onnx(path))]
    layers += [stand_in.layer([f"more_{index}"], "FP16") for index in range(7)]
    target = Path(path).with_name("layers.json")
    target.write_text(json.dumps({"Layers": layers}))
    some = run("build", path, "--layers-from", str(target)).stdout
    assert "Other layers – 7, not predicted" in some
    assert "more_6" not in some
    assert "more_6" in run("build", path, "--layers-from", str(target), "--all").stdout


def test_without_tensorrt_one_error_says_what_to_do(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("tensorrt", "tensorrt_rtx_bindings"):
        monkeypatch.setitem(sys.modules, name, None)
    message = run_json("build", path, code=1)["error"]["message"]
    assert message.startswith("no TensorRT nor TensorRT for RTX is installed here: pip install")
    _, line, then = message.splitlines()
    assert [line.strip()] == run("build", path, "--trtexec").stdout.splitlines()
    assert "--layers-from" in then


@pytest.mark.parametrize(
    "options",
    [
        ("--layers-from", "a.json", "--trtexec"),
        ("--shape", "1,2", "--min", "1,2", "--max", "1,2"),
        ("--opt", "1,2"),
        ("--min", "1,2"),
        ("--workspace", "0"),
    ],
)
def test_options_that_contradict_are_refused(options: tuple[str, ...], path: str) -> None:
    run("build", path, *options, code=2)
