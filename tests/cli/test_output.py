"""What commands print fits 80 columns with no word cut, and lines do not end in spaces."""

import json
import re
import sys
import time
from pathlib import Path

import pytest

from embedl_deploy.cli import output
from embedl_deploy.cli.program import COMMANDS
from embedl_deploy.tensorrt.engine import compilers, process
from tests.cli.commands import run
from tests.cli.test_start import SMALL
from tests.tensorrt.engine import stand_in
from tests.tensorrt.rules.format_cases import CONV, FORMAT
from tests.tensorrt.rules.models import Text

LONG = "encoder_layers_11_self_attention_output_projection_of_the_very_deepest_of_all_blocks"
CHAIN = CONV.replace("c = Conv", f"{LONG} = Conv").replace("Relu(c)", f"Relu({LONG})")


def fits(text: str) -> None:
    """Lines of at most 80 columns without cut words, and no spaces at their ends."""
    assert text.strip()
    for line in text.splitlines():
        assert len(line) <= 80, line
        assert line == line.rstrip(), repr(line)
        assert not re.search(r"\w…", line), line


@pytest.fixture(autouse=True)
def _narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


@pytest.fixture
def chain(tmp_path: Path) -> Path:
    """A file with a name that is longer than a line."""
    return Text(CHAIN).save(tmp_path)


@pytest.mark.parametrize("every", [(), ("--all",)])
def test_files_are_judged_in_80_columns(
    chain: Path, tmp_path: Path, every: tuple[str, ...]
) -> None:
    fits(run("check", str(chain), *every).stdout)
    shown = run("explain", str(chain), *every).stdout
    fits(shown)
    broken = FORMAT["F04"][0].save(tmp_path)
    fits(run("check", str(broken), *every, code=1).stdout)


@pytest.mark.parametrize("every", [(), ("--all",)])
def test_engines_are_compared_in_80_columns(
    chain: Path, tmp_path: Path, every: tuple[str, ...]
) -> None:
    layers = tmp_path / "layers.json"
    built = [stand_in.layer([f"Conv_{LONG}", "Other"], "FP16"), stand_in.layer(["More"], "INT8")]
    layers.write_text(json.dumps({"Layers": built}))
    shown = run("build", str(chain), "--layers-from", str(layers), *every).stdout
    fits(shown)
    assert "other type" in shown


@pytest.mark.parametrize("every", [(), ("--all",)])
def test_what_a_compiler_made_fits_in_80_columns(
    chain: Path, monkeypatch: pytest.MonkeyPatch, every: tuple[str, ...]
) -> None:
    stand_in.reset()
    monkeypatch.setitem(sys.modules, "tensorrt", stand_in)
    monkeypatch.setattr(process, "run", stand_in.run)
    monkeypatch.setattr(compilers, "_has_driver", lambda: True)
    stand_in.layers = [stand_in.layer([f"Conv_{LONG}", "Relu_y"], "FP16")]
    shown = run("build", str(chain), *every).stdout
    fits(shown)
    assert "lost" in shown
    stand_in.reset()


@pytest.mark.usefixtures("folder")
def test_a_model_is_shown_in_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for every in ((), ("--all",)):
        fits(run("inspect", "user_nets:small", "--shape", "3,8,8", *every).stdout)
    fits(run(*SMALL).stdout)
    fits(run("verify", "out.onnx", "--layers").stdout)
    fits(run("analyze", *SMALL[1:2], *SMALL[3:], "--sensitivity").stdout)


@pytest.mark.parametrize("command", [(), *((name,) for name in COMMANDS)])
def test_help_cuts_no_word(command: tuple[str, ...]) -> None:
    shown = run(*command, "--help").stdout
    assert max(map(len, shown.splitlines())) <= 80
    assert not re.search(r"\w…", shown)
    assert "bool" not in shown, "a flag takes no value"
    if command in {("deploy",), ("analyze",)}:
        assert all(panel in shown for panel in ("Model and data", "Quantization", "What is said"))


def test_a_bare_command_is_answered_in_a_few_lines() -> None:
    shown = run(code=2).stdout
    fits(shown)
    assert len(shown.splitlines()) == len(COMMANDS) + 2
    assert all(f"\n  {name} " in shown for name in COMMANDS)


def test_a_long_stage_says_how_far_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter(range(0, 1000, 20))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))
    with output.Steps() as steps, steps.step("Tuning") as progress:
        for done in range(1, 5):
            progress(done, 9)
    said = [" ".join(line.split()) for line in capsys.readouterr().err.splitlines()]
    assert said == ["20.0 s Tuning", "80.0 s Tuning 2 of 9", "140.0 s Tuning 4 of 9"]
