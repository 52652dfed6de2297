"""`check` says what it found, and its exit status says how bad that is."""

from pathlib import Path

import pytest

from tests.cli.commands import run, run_json
from tests.tensorrt.rules.format_cases import CONV, FORMAT, TYPES
from tests.tensorrt.rules.models import Text


@pytest.fixture
def clean(tmp_path: Path) -> str:
    return str(Text(CONV).save(tmp_path))


@pytest.fixture
def broken(tmp_path: Path) -> str:
    return str(FORMAT["F04"][0].save(tmp_path))


@pytest.fixture
def warned(tmp_path: Path) -> str:
    return str(TYPES["T07"][0].save(tmp_path))


def test_the_exit_status_is_that_of_the_worst(clean: str, tmp_path: Path) -> None:
    run("check", clean)
    run("check", clean, "--strict")
    run("check", str(FORMAT["F04"][0].save(tmp_path)), code=1)


def test_warnings_fail_only_where_that_is_asked_for(warned: str) -> None:
    assert run_json("check", warned)["warnings"] == 1
    assert run_json("check", warned, "--strict", code=1)["ok"] is True


def test_findings_are_shown_with_reason_and_remedy(broken: str) -> None:
    said = " ".join(run("check", broken, code=1).stdout.split())
    assert "2 F04 the zero-point is not 0" in said
    assert "first at QuantizeLinear_a_q" in said
    assert "Write an int8 zero-point of zeros" in said
    assert "2 errors, 0 warnings, 2 notes by 53 rules for TensorRT 11.x" in said
    every = " ".join(run("check", broken, "--all", code=1).stdout.split())
    assert "1 F04 the zero-point is not 0: TensorRT quantizes symmetrically at Deq" in every


def test_everything_that_a_rule_says_is_shown(tmp_path: Path) -> None:
    pools = "".join(
        f"{out} = MaxPool<kernel_shape=[1,1],dilations=[2,2]>({name})\n"
        for name, out in ("xa", "ab", "bc")
    )
    image, half = (1, 16, 8, 8), '<mode="linear",antialias=1>'
    path = Text(
        f"{pools}d = LpPool<kernel_shape=[1,1],dilations=[2,2]>(c)\n"
        f"e = Resize{half}(d, , , I_1_16_4_4)\nf = Reshape(e, I_256)\ng = Softmax(f)\n"
        "h = LogSoftmax(g)\ni = ArgMax<keepdims=0>(h)\ny = Det(e)",
        (("x", image),),
    ).save(tmp_path)
    said = " ".join(run("check", str(path), code=1).stdout.split())
    assert "9 F16 MaxPool is dilated, first at MaxPool_a" in said
    assert "also: LpPool is dilated at LpPool_d also: Resize has antialiasing" in said
    assert "and 2 other kinds (--all)" in said
    assert said.count("MaxPool is dilated") == 1
    every = run("check", str(path), "--all", code=1).stdout
    assert (every.count("MaxPool is dilated"), every.count("also:")) == (3, 0)


def test_what_could_not_be_judged_is_shown(tmp_path: Path) -> None:
    path = Text("a = QDQ(x, s)\nw = DQ(W_32x32)\ny = MatMul(a, w)", (("x", (None, 32)),))
    said = run("check", str(path.save(tmp_path)), "--ignore", "F09").stdout
    assert "Not judged" in said
    assert "P12  a size of the product is not fixed" in said


def test_long_names_keep_the_indentation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    name = "layer_" * 20
    said = run("check", str(Text(CONV.replace("a", name)).save(tmp_path))).stdout
    lines = [line for line in said.splitlines() if "layer_" in line]
    assert len(lines) > 1
    assert all(line.startswith(" " * 5) for line in lines)


def test_rules_and_version_are_chosen(broken: str) -> None:
    found = run_json("check", broken, "--ignore", "F04", "--version", "10.13")
    assert (found["ignored"], found["version"]) == (["F04"], "10.13")


def test_a_file_that_can_not_be_read_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "ett nät.onnx"
    path.write_text("no ONNX")
    found = run_json("check", str(path), code=1)
    assert found["error"]["type"] == "CheckError"
    assert "ett nät.onnx' is no ONNX file" in found["error"]["message"]
    assert "there is no rule 'F99'" in run("check", str(path), "--ignore", "F99", code=1).stderr
