"""Every command that has results writes them as a page too."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.cli.commands import run, run_json

DATA = ("--data", "rows.npz")


def parts(path: Path) -> dict[str, Any]:
    """The data of a page."""
    found = re.search(r'id="data">(.*?)</script>', path.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    data = json.loads(found[1])
    assert isinstance(data, dict)
    return data


def test_inspect_and_analyze_draw_the_model(folder: Path) -> None:
    page = ("--report", "page.html")
    run("inspect", "user_nets:small", "--shape", "3,8,8", *page)
    found = parts(folder / "page.html")
    assert found["summary"]["fused"]["FusedLinear"] == 1
    assert "stub" in {one["op"] for one in found["graph"]}
    said = run_json("analyze", "user_nets:small", *DATA, *page)
    found = parts(folder / "page.html")
    assert found["analysis"]["rows"] == said["rows"]
    assert ["Model", "user_nets:small"] in [one[:2] for one in found["figures"]]


def test_deploy_and_verify_draw_the_file(folder: Path) -> None:
    page = ("--report", "page.html")
    said = run_json("deploy", "user_nets:small", "small.onnx", *DATA, *page)
    found = parts(folder / "page.html")
    assert said["report"] == "page.html"
    assert found["title"] == "small.onnx"
    assert found["check"]["path"] == found["explanation"]["path"] == "small.onnx"
    assert found["parity"]["only_ties"] is True
    figure = said["quantized_against_float"]["sqnr_db"]
    assert found["answers"]["sqnr_db"] == figure
    assert f"INT8 against float: {figure:.1f} dB" in found["verdict"][0]["text"]
    assert found["summary"]["fused"] == said["fused"]
    run("verify", "small.onnx", "user_nets:small", *DATA, *page)
    found = parts(folder / "page.html")
    assert found["parity"] is None
    assert found["answers"]["outputs"][0]["name"] == "output"
    assert found["verdict"][0]["level"] == "info"


@pytest.mark.parametrize("command", ["inspect", "analyze", "deploy", "verify"])
def test_a_wrong_name_is_refused_before_any_work(command: str, folder: Path) -> None:
    files = {"deploy": ["out.onnx"], "verify": []}.get(command, [])
    first = ["in.onnx"] if command == "verify" else []
    data = [] if command == "inspect" else DATA
    said = run(command, *first, "user_nets:gone", *files, *data, "--report", "a.txt", code=2)
    assert "ends in .html" in " ".join(said.stderr.split())
    assert not (folder / "out.onnx").exists()
