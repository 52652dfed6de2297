"""`embedl-deploy tune` writes a plan that `deploy` follows."""

import json
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch

from embedl_deploy.cli.commands import journey
from embedl_deploy.export import Parity
from embedl_deploy.tuning import Cost
from embedl_deploy.tuning import run as tuning
from tests.cli.commands import run, run_json

needs_rtx = pytest.mark.skipif(
    find_spec("tensorrt_rtx_bindings") is None,
    reason="TensorRT for RTX is not installed: pip install 'embedl_deploy[rtx]'",
)
TWICE = ("user_nets:twice", "plan.json", "--data", "user_nets:pairs", "--target", "tensorrt")
DEPLOY = ("deploy", "user_nets:twice", "out.onnx", "--data", "user_nets:pairs", "--no-verify")

PLAN = {
    "schema": 4,
    "config": {"skip": [{"which": "right"}]},
    "target": "TensorRT",
    "compiler": "TensorRT for RTX 9",
    "gpu": "l4",
    "batch": 1,
    "precision": "float16",
    "groups": [{"paths": ["left"]}, {"paths": ["right"]}],
}


@pytest.fixture
def pairs_pay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each pair in the file makes it cheaper, in place of a compiler."""

    def cost(path: Path, **_: object) -> Cost:
        return Cost(100.0 - path.read_bytes().count(b"DequantizeLinear"))

    monkeypatch.setattr(tuning, "cost_of", cost)


@pytest.mark.slow
@pytest.mark.usefixtures("folder", "pairs_pay")
def test_a_plan_is_written_and_followed() -> None:
    found = run_json("tune", *TWICE, "--trials", "0")
    plan = json.loads(Path("plan.json").read_text())
    more = {"output", "schema_version"}
    assert plan == {key: value for key, value in found.items() if key not in more}
    assert (plan["schema"], plan["complete"]) == (4, True)
    assert {one["name"] for one in plan["groups"]} == {"left", "right"}
    said = run("tune", *TWICE, "--trials", "0", "--report", "page.html").stdout
    assert plan["verdict"].rpartition(" at ")[0] in " ".join(said.split())
    assert 'class="chart front"' in Path("page.html").read_text()


@pytest.mark.usefixtures("folder")
def test_a_search_skips_what_is_there() -> None:
    error = run_json("tune", *TWICE, "--skip", "gone", code=1)["error"]
    assert "'gone'" in error["message"]


@pytest.mark.usefixtures("folder")
def test_deploy_follows_a_plan() -> None:
    Path("plan.json").write_text(json.dumps(PLAN))
    half = (*DEPLOY, "--plan", "plan.json", "--precision", "float16")
    found = run_json(*half)
    assert (found["quantized_weights"], found["observer"], found["recipe"]) == (1, None, "fast")
    shown = " ".join(run(*half).stdout.split())
    assert "for TensorRT: measured for l4 in float16 at batch 1 with TensorRT for RTX 9" in shown
    assert "tune again" not in shown
    shown = " ".join(run(*half, "--batch", "2").stdout.split())
    assert "and this file takes 2: tune again for that" in shown
    shown = " ".join(run(*DEPLOY, "--plan", "plan.json", "--precision", "bfloat16").stdout.split())
    assert "and this file is bfloat16: tune again for that" in shown
    shown = " ".join(run(*DEPLOY, "--plan", "plan.json").stdout.split())
    assert "and this file is float32: --precision float16 writes that" in shown
    said = run(*half, "--attention", "full", code=2).stderr
    assert "--plan excludes" in said


FP8 = {"format": "float8_e4m3"}
BLOCKS = {"activations": None, "weights": {"bits": 4, "block_size": 4}}


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("config", "kind", "counts"),
    [
        ({"activations": FP8, "weights": FP8}, "FP8", "2 tensors and 2 weights"),
        (BLOCKS, "INT4", "1 weight"),
    ],
)
def test_the_numbers_of_a_plan_are_those_that_are_said(
    config: dict[str, object], kind: str, counts: str
) -> None:
    Path("plan.json").write_text(json.dumps(PLAN | {"config": config}))
    command = (*DEPLOY[:-1], "--plan", "plan.json", "--precision", "float16")
    words = " ".join(run(*command, "--report", "page.html").stdout.split())
    assert words.startswith(f"{kind} against float ")
    assert f"{counts} to {kind} " in words
    assert f"float16 and {kind}, inputs and outputs too" in words
    assert "INT8" not in words.partition("Expected")[0]
    assert f"{kind} against float</h2>" in Path("page.html").read_text()
    assert run_json(*DEPLOY, "--plan", "plan.json")["numbers"] == [kind]


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{}", "is no plan"),
        (json.dumps(PLAN | {"config": None}), "--precision float16"),
        (json.dumps(PLAN | {"target": "TensorRT for RTX"}), "is for TensorRT for RTX"),
    ],
)
def test_a_plan_that_cannot_be_followed_is_one_error(text: str, said: str) -> None:
    Path("plan.json").write_text(text)
    assert said in run_json(*DEPLOY, "--plan", "plan.json", code=1)["error"]["message"]
    assert not Path("out.onnx").exists()


@pytest.fixture
def float_plan(folder: Path) -> Path:
    (folder / "plan.json").write_text(json.dumps(PLAN | {"config": None}))
    return folder / "plan.json"


def _holds_the_float_file(found: dict[str, Any]) -> None:
    nothing = ("calibration_batches", "observer", "recipe", "attention")
    assert [found[name] for name in nothing] == [None] * len(nothing)
    assert found["data"]["calibration_samples"] is None
    assert (found["numbers"], found["quantized_tensors"], found["quantized_weights"]) == ([], 0, 0)
    parity = found["parity"]
    assert (parity["only_ties"], parity["differing_share"]) == (True, None)
    assert found["quantized_against_float"]["sqnr_db"] > 40
    file = onnx.load(found["output"])
    assert not {"QuantizeLinear", "DequantizeLinear"} & {one.op_type for one in file.graph.node}
    kinds = {one.data_type for one in file.graph.initializer if len(one.dims) > 1}
    assert kinds == {onnx.TensorProto.FLOAT16}


FLOAT = (*DEPLOY[:-1], "--plan", "plan.json", "--precision", "float16")


@pytest.mark.usefixtures("float_plan")
def test_a_plan_that_keeps_float16_gives_that_file() -> None:
    _holds_the_float_file(run_json(*FLOAT, "--recipe", "accurate"))
    words = " ".join(run(*FLOAT).stdout.split())
    assert words.startswith(
        "Placement float16: the plan 'plan.json' quantizes nothing float16 against"
    )
    assert "Quantized nothing: the plan keeps float16" in words
    assert "Data user_nets:pairs" in words
    assert "Precision float16, inputs and outputs too" in words
    assert "calibrated" not in words.lower()
    assert "INT8" not in words
    assert run_json("verify", "out.onnx")["numbers"] == []


@pytest.mark.usefixtures("float_plan")
def test_without_quantizers_there_is_nothing_to_look_at() -> None:
    run(*FLOAT)
    analyzed = ("analyze", DEPLOY[1], *DEPLOY[3:5], "--plan", "plan.json")
    for command in (analyzed, ("verify", "out.onnx", "--layers")):
        error = run_json(*command, code=1)["error"]
        assert "keeps float16, so there is no quantizer" in error["message"]


@pytest.mark.usefixtures("float_plan")
def test_a_float16_file_that_loses_the_values_is_not_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lost = Parity()
    for add in (lost.add, lost.add_rounding):
        add(torch.ones(3), torch.full((3,), 0.5) if add == lost.add else torch.ones(3))
    assert lost.only_ties
    monkeypatch.setattr(journey, "verify_onnx", lambda *_, **__: lost)
    message = run_json(*FLOAT, code=1)["error"]["message"]
    assert "float16 does not hold the values" in message
    assert "--keep-float32" in message
    assert not Path("out.onnx").exists()


@needs_rtx
@pytest.mark.usefixtures("float_plan")
def test_a_float16_file_is_compiled_once() -> None:
    command = (*FLOAT, "--no-verify", "--compile", "--gpu", "l4", "--report", "page.html")
    found = run_json(*command)["compiled"]
    assert (found["quantized"], found["verdict"]) == (None, None)
    assert {one["simulated"] for one in found["float16"]["products"]} == {"FP16"}
    page = Path("page.html").read_text()
    assert "; estimate: " in page
    assert "<dt>Beside</dt>" not in page


@pytest.mark.slow
@pytest.mark.usefixtures("folder")
def test_where_no_placement_pays_the_file_is_float16(monkeypatch: pytest.MonkeyPatch) -> None:
    def cost(path: Path, **_: object) -> Cost:
        return Cost(100.0 + path.read_bytes().count(b"DequantizeLinear"))

    monkeypatch.setattr(tuning, "cost_of", cost)
    tuned = ("deploy", "user_nets:single", "out.onnx", "--data", "user_nets:rows", "--tune")
    files = ("--save-run", "run.yaml", "--report", "page.html")
    said = run(*tuned, "--precision", "float16", *files).stdout
    words = " ".join(said.split())
    verdict = json.loads(Path("out.plan.json").read_text())["verdict"]
    assert verdict.startswith("keep float16 (100.0): no placement costs less")
    assert f"Placement {verdict} float16 against float " in words
    page = Path("page.html").read_text()
    assert f"Placement: {verdict}" in page
    assert 'class="chart front"' in page
    again = run_json("run", "run.yaml")
    assert again["plan"] == "out.plan.json"
    _holds_the_float_file(again)


@pytest.mark.slow
@pytest.mark.usefixtures("folder", "pairs_pay")
def test_a_search_for_bfloat16_is_followed_by_a_file_of_it() -> None:
    run("tune", *TWICE, "--trials", "0", "--precision", "bfloat16")
    assert json.loads(Path("plan.json").read_text())["precision"] == "bfloat16"
    tuned = (*DEPLOY, "--tune", "--precision", "bfloat16")
    found = run_json(*tuned)
    assert (found["precision"], found["tuning"]["precision"]) == ("bfloat16", "bfloat16")


@pytest.mark.slow
def test_a_latency_is_measured_in_place_of_the_estimate(folder: Path) -> None:
    line = "GPU Compute Time: min = 1 ms, max = 3 ms, mean = 2 ms, median = 1.5 ms"
    (folder / "tool.py").write_text(f"print('[TensorRT v110000]\\n[I] {line}')")
    measured = ("--latency", f"{sys.executable} tool.py", "--trials", "0")
    found = run_json("tune", *TWICE, *measured)
    assert (found["compiler"], found["gpu"]) == ("trtexec of TensorRT v110000", "")
    assert found["cost_from"] == "measured at batch 1 by trtexec of TensorRT v110000"
    assert found["verdict"].startswith("keep float16 (1500.0 µs)")
    error = run_json("tune", *TWICE, "--latency", "nothing-there", code=1)["error"]
    assert "cannot run 'nothing-there'" in error["message"]
    assert "--max-time" in run("tune", *TWICE, *measured, "--max-bytes", "1", code=2).stderr


@pytest.mark.usefixtures("folder")
def test_two_bounds_are_a_usage_error() -> None:
    assert (
        "one of --min-sqnr"
        in run("tune", *TWICE, "--min-sqnr", "30", "--max-time", "9", code=2).stderr
    )


@pytest.mark.slow
@pytest.mark.usefixtures("folder", "pairs_pay")
def test_deploy_searches_first_and_keeps_the_plan() -> None:
    tuned = (*DEPLOY, "--tune", "--precision", "float16", "--min-sqnr", "5", "--skip", "right")
    found = run_json(*tuned, "--report", "page.html", "--save-run", "run.yaml")
    assert (found["plan"], found["precision"]) == ("out.plan.json", "float16")
    plan = json.loads(Path("out.plan.json").read_text())
    assert plan == found["tuning"]
    assert (plan["bound"], plan["complete"]) == ("at least 5 dB", True)
    assert [one["name"] for one in plan["groups"]] == ["left"]
    assert {"which": "right"}.items() <= plan["config"]["skip"][0].items()
    assert 'class="chart front"' in Path("page.html").read_text()
    again = run_json("run", "run.yaml")
    assert again["plan"] == "out.plan.json"
    assert "tuning" not in again
    assert again["quantized_weights"] == found["quantized_weights"] == 1


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--min-sqnr", "30"], "need --tune"),
        (["--latency", "trtexec"], "need --tune"),
        (["--tune"], "--precision float16 or bfloat16"),
        (["--tune", "--plan", "plan.json"], "leave these out"),
        (["--tune", "--attention", "full", "--precision", "float16"], "leave these out"),
    ],
)
def test_options_that_contradict_a_search_are_usage_errors(options: list[str], said: str) -> None:
    assert said in " ".join(run(*DEPLOY, *options, code=2).stderr.replace("│", " ").split())
