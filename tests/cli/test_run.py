"""A run file has the options of `deploy`: it is read, checked, and written."""

import json
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from embedl_deploy.cli.commands.job import Job, PrecisionChoice
from embedl_deploy.cli.commands.runs import read_run, schema, write_run
from embedl_deploy.cli.options import origin
from embedl_deploy.cli.values import Numbers, ObserverChoice, Shape, TargetChoice
from embedl_deploy.errors import LoadError, MissingExtraError
from tests.cli.commands import run, run_json

ROOT = Path(__file__).parents[2]
LEAST = {"model": "user_nets:small", "output": "out.onnx", "data": "rows.npz"}
PLAIN = Job(model="user_nets:small", output=Path("out.onnx"), data="rows.npz")
EVERY = Job(
    model="user_nets:small",
    output=Path("out.onnx"),
    data="photos",
    weights=Path("a.pt"),
    shape=Shape((3, 8, 8)),
    target=TargetChoice.RTX,
    mean=Numbers((0.5, 0.25, 0.125)),
    std=Numbers((0.5,)),
    observer=ObserverChoice.PERCENTILE,
    percentile=99.5,
    skip=["head", "stem.*"],
    held_out=7,
    labels="folders",
    evaluate="user_nets:judge",
    batch=2,
    dynamic_batch=True,
    precision=PrecisionChoice.BFLOAT16,
    keep_float32=["*.softmax"],
    float32_io=True,
    page=Path("page.html"),
)


def saved(folder: Path, values: object) -> Path:
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def test_what_is_written_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_run(EVERY, tmp_path / "run.yaml")
    assert read_run(tmp_path / "run.yaml") == EVERY
    write_run(PLAIN, tmp_path / "least.yaml")
    assert read_run(tmp_path / "least.yaml") == PLAIN


def test_json_is_read_too_and_options_have_their_defaults(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text(json.dumps(LEAST))
    assert read_run(path) == PLAIN


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({**LEAST, "bach": 4}, "there is no option 'bach', did you mean batch?"),
        ({**LEAST, "dynamic_batch": True}, "'dynamic_batch', did you mean dynamic-batch?"),
        ({"model": "a:b", "data": "x"}, "output is missing"),
        ({**LEAST, "batch": 0}, "batch: Input should be greater than or equal to 1, not 0"),
        ({**LEAST, "precision": "int8"}, "precision: Input should be 'float32'"),
        ({**LEAST, "shape": "3,8"}, "shape: Input should be a valid list, not '3,8'"),
        ({**LEAST, "skip": "head"}, "skip: Input should be a valid list, not 'head'"),
        (["model"], "it: "),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, values: object, words: str) -> None:
    with pytest.raises(LoadError) as caught:
        read_run(saved(tmp_path, values))
    assert words in str(caught.value)


def test_what_can_not_be_read_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("model: [")
    with pytest.raises(LoadError, match="neither YAML nor JSON"):
        read_run(tmp_path / "run.yaml")
    with pytest.raises(LoadError, match="No such file"):
        read_run(tmp_path / "gone.yaml")


def test_a_missing_package_names_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path, LEAST)
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(MissingExtraError, match=r"embedl_deploy\[run\]"):
        read_run(path)


def test_the_schema_has_every_option_and_is_that_of_the_docs() -> None:
    form = schema()
    assert len(form["properties"]) == len(fields(Job))
    assert {"keep-float32", "report", "held-out", "skip"} <= form["properties"].keys()
    assert form["required"] == ["model", "data", "output"]
    assert not form["additionalProperties"]
    assert json.loads((ROOT / "docs" / "run.schema.json").read_text()) == form


RECIPES = sorted((ROOT / "examples" / "runs").glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=[one.stem for one in RECIPES])
def test_the_recipes_are_sound(path: Path) -> None:
    job = read_run(path)
    assert origin(job.model, job.weights)
    assert job.config is not None
    assert job.config.weights.bits == 8
    assert job.output.stem in {path.stem, *path.stem.split("_")} or path.stem in job.output.stem


def test_there_are_recipes() -> None:
    assert len(RECIPES) >= 6


def test_a_run_does_what_the_same_options_do(folder: Path) -> None:
    options = ("--skip", "head", "--limit", "4", "--save-run", "mine.yaml")
    first = run_json("deploy", "user_nets:small", "out.onnx", "--data", "rows.npz", *options)
    made = (folder / "out.onnx").read_bytes()
    (folder / "out.onnx").unlink()
    assert first.pop("run") == "mine.yaml"
    assert run_json("run", "mine.yaml") == first
    assert (folder / "out.onnx").read_bytes() == made


def test_a_run_that_contradicts_itself_is_misused(folder: Path) -> None:
    saved(folder, {**LEAST, "gpu": "l4"})
    assert "--gpu needs --compile" in run("run", "run.yaml", code=2).stderr
    assert run_json("run", "run.yaml", code=2)["error"]["type"] == "UsageError"
