"""`embedl-deploy tune` writes a plan that `deploy` follows."""

import json
from pathlib import Path

import pytest

from embedl_deploy.tuning import Cost
from embedl_deploy.tuning import run as tuning
from tests.cli.commands import run, run_json

TWICE = ("user_nets:twice", "plan.json", "--data", "user_nets:pairs", "--target", "tensorrt")
DEPLOY = ("deploy", "user_nets:twice", "out.onnx", "--data", "user_nets:pairs", "--no-verify")

PLAN = {
    "schema": 2,
    "config": {"skip": [{"which": "right"}]},
    "target": "TensorRT",
    "compiler": "TensorRT for RTX 9",
    "gpu": "l4",
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
    assert (plan["schema"], plan["complete"]) == (2, True)
    assert {one["name"] for one in plan["groups"]} == {"left", "right"}
    said = run("tune", *TWICE, "--trials", "0", "--report", "page.html").stdout
    assert plan["verdict"].rpartition(" at ")[0] in " ".join(said.split())
    assert 'class="chart front"' in Path("page.html").read_text()


@pytest.mark.usefixtures("folder")
def test_deploy_follows_a_plan() -> None:
    Path("plan.json").write_text(json.dumps(PLAN))
    assert run_json(*DEPLOY, "--plan", "plan.json")["quantized_weights"] == 1
    shown = " ".join(run(*DEPLOY, "--plan", "plan.json").stdout.split())
    assert "for TensorRT: measured for l4 with TensorRT for RTX 9" in shown
    said = run(*DEPLOY, "--plan", "plan.json", "--attention", "full", code=2).stderr
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
        (json.dumps(PLAN | {"config": None}), "keeps float16"),
        (json.dumps(PLAN | {"target": "TensorRT for RTX"}), "is for TensorRT for RTX"),
    ],
)
def test_a_plan_that_cannot_be_followed_is_one_error(text: str, said: str) -> None:
    Path("plan.json").write_text(text)
    assert said in run_json(*DEPLOY, "--plan", "plan.json", code=1)["error"]["message"]
    assert not Path("out.onnx").exists()


@pytest.mark.usefixtures("folder")
def test_two_bounds_are_a_usage_error() -> None:
    assert (
        "one of --min-sqnr"
        in run("tune", *TWICE, "--min-sqnr", "30", "--max-time", "9", code=2).stderr
    )


@pytest.mark.slow
@pytest.mark.usefixtures("folder", "pairs_pay")
def test_deploy_searches_first_and_keeps_the_plan() -> None:
    tuned = (*DEPLOY, "--tune", "--precision", "float16", "--min-sqnr", "5")
    found = run_json(*tuned, "--report", "page.html", "--save-run", "run.yaml")
    assert (found["plan"], found["precision"]) == ("out.plan.json", "float16")
    plan = json.loads(Path("out.plan.json").read_text())
    assert plan == found["tuning"]
    assert (plan["bound"], plan["complete"]) == ("at least 5 dB", True)
    assert 'class="chart front"' in Path("page.html").read_text()
    again = run_json("run", "run.yaml")
    assert again["plan"] == "out.plan.json"
    assert "tuning" not in again
    assert again["quantized_weights"] == found["quantized_weights"] > 0


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--min-sqnr", "30"], "need --tune"),
        (["--tune"], "--precision float16"),
        (["--tune", "--plan", "plan.json"], "leave these out"),
        (["--tune", "--attention", "full", "--precision", "float16"], "leave these out"),
    ],
)
def test_options_that_contradict_a_search_are_usage_errors(options: list[str], said: str) -> None:
    assert said in " ".join(run(*DEPLOY, *options, code=2).stderr.replace("│", " ").split())
