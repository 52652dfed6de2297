"""`embedl-deploy inspect` shows what would fuse, what not and why; `--json` says the same."""

import runpy
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.models import resnet18
from typer.testing import CliRunner

from embedl_deploy import transform
from embedl_deploy.cli.app import app
from tests.cli.commands import files, run, run_json

SMALL = "user_nets:small"


@pytest.mark.usefixtures("folder")
def test_the_tables_say_what_fuses_what_not_and_why() -> None:
    words = run("inspect", SMALL, "--shape", "3,8,8").stdout.split()
    assert {"1×3×8×8", "full", "FusedConvBNReLU", "FusedConvBN", "FusedLinear"} <= set(words)
    assert {"PReLU", "slopes", "1×mean"} <= set(words)


def test_nothing_is_written(folder: Path) -> None:
    before = files(folder)
    run("inspect", SMALL, "--shape", "3,8,8")
    assert files(folder) == before


@pytest.mark.usefixtures("folder")
def test_json_has_every_match_and_refusal() -> None:
    found = run_json("inspect", SMALL, "--shape", "3x8x8", "--batch", "2")
    assert found["model"] == SMALL
    assert found["input_shape"] == [2, 3, 8, 8]
    assert found["fused"] == {"FusedConvBN": 2, "FusedConvBNReLU": 1, "FusedLinear": 1}
    assert found["fusions"][0] == {
        "pattern": "ConvBNReLUPattern",
        "path": "stem.0",
        "kind": "FusedConvBNReLU",
        "operations": ["stem.0", "stem.1", "stem.2"],
        "qdq_points": ["INPUT"],
        "kept_float": "",
    }
    assert [one["path"] for one in found["unfused"]] == ["slopes"]
    assert found["unfused"][0]["reason"]
    assert (found["quantized_tensors"], found["quantized_weights"]) == (4, 4)
    covered = found["coverage"]
    assert (covered["fused"], covered["share"], covered["rest"]) == (covered["total"], 1.0, [])
    assert found["unfused"][0]["macs"] == 0


def test_products_in_no_fused_module_are_shown_with_their_share(folder: Path) -> None:
    source = "from torch import nn\nclass Net(nn.Module):\n    def forward(self, x):\n"
    (folder / "products.py").write_text(f"{source}        return x @ x.mT @ x\n")
    found = run_json("inspect", "products:Net", "--shape", "3,8,4")["coverage"]
    assert (found["fused"], found["share"], found["total"]) == (0, 0.0, 3 * 8 * 8 * 4 * 2)
    assert [(one["kind"], one["macs"]) for one in found["rest"]] == [("matmul", 768)] * 2
    text = " ".join(run("inspect", "products:Net", "--shape", "3,8,4").stdout.split())
    assert "2 matmul, first at matmul 100.0% of the multiply-accumulates; no pattern" in text
    assert "0.0% of 1.54 k multiply-accumulates are fused" in text


def test_the_counts_are_those_of_transform() -> None:
    found = run_json("inspect", "torchvision:resnet18")
    result = transform(resnet18(weights=None).eval(), (torch.zeros(1, 3, 224, 224),))
    assert found["input_shape"] == [1, 3, 224, 224]
    assert found["fused"] == dict(result.fused)
    assert len(found["declined"]) == len(result.refusals)
    pooling = "RemoveIdentityAdaptiveAvgPoolPattern"
    assert [one["instead"] for one in found["declined"] if one["pattern"] == pooling] == [
        "AdaptiveAvgPoolPattern"
    ]


def test_without_an_example_no_shape_is_known() -> None:
    found = run_json("inspect", "torchvision:resnet18", "--no-example")
    assert found["input_shape"] is None
    assert found["fused"]["FusedConvBNAddReLU"] == 8
    assert "--shape" in run("inspect", "torchvision:resnet18", "--no-example").stdout


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("name", "tensors"), [("full", 4), ("smart", 4), ("mixed", 3), ("fusions", 4)]
)
def test_the_list_of_patterns_decides_what_is_quantized(name: str, tensors: int) -> None:
    found = run_json("inspect", SMALL, "--shape", "3,8,8", "--patterns", name)
    assert found["patterns"] == name
    assert found["quantized_tensors"] == tensors


@pytest.mark.usefixtures("folder")
def test_all_lists_every_place() -> None:
    grouped = run("inspect", SMALL).stdout
    single = run("inspect", SMALL, "--all").stdout
    assert "last" not in grouped
    assert "last" in single


@pytest.mark.usefixtures("folder")
def test_a_model_in_which_nothing_fuses_is_no_error() -> None:
    assert "nothing" in run("inspect", "user_nets:plain", "--shape", "3,8,8").stdout
    assert run_json("inspect", "user_nets:plain")["quantized_tensors"] == 0


# --- bad input ---------------------------------------------------------------------------------

BAD = {
    "no spelling": (["nonsense"], "LoadError", "names no model"),
    "no such model": (["torchvision:resnet19"], "LoadError", "did you mean resnet1"),
    "no such module": (["user_missing:make"], "LoadError", "no module 'user_missing'"),
    "no such factory": (["user_nets:smal"], "LoadError", "did you mean small"),
    "no weights file": ([SMALL, "--weights", "none.pt"], "LoadError", "none.pt"),
    "misfit weights": ([SMALL, "--weights", "misfit.pt"], "LoadError", "do not fit"),
    "a file, not a module": (["./user_nets.py:small"], "LoadError", "write user_nets:small"),
    "a file of this folder": (["user_nets.py:small"], "LoadError", "write user_nets:small"),
    "two inputs": (["user_nets:twice", "--shape", "4"], "CaptureError", "its inputs (x, y)"),
    "misfit shape": ([SMALL, "--shape", "5,8,8"], "CaptureError", "'slopes' cannot take"),
    "untraceable": (["user_nets:branches"], "CaptureError", "be traced"),
}


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(("arguments", "kind", "words"), BAD.values(), ids=BAD)
def test_bad_input_is_one_clear_error(arguments: list[str], kind: str, words: str) -> None:
    result = run("inspect", *arguments, code=1)
    assert f"\n{result.stderr}".count("\nerror: ") == 1
    assert words in result.stderr
    assert not result.stdout
    error = run_json("inspect", *arguments, code=1)["error"]
    assert error["type"] == kind
    assert words in error["message"]


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    "arguments",
    [
        [],
        [SMALL, "--shape", "3,a,8"],
        [SMALL, "--shape", "3,0,8"],
        [SMALL, "--shape", ""],
        [SMALL, "--batch", "0"],
        [SMALL, "--patterns", "most"],
        [SMALL, "--no-example", "--shape", "3,8,8"],
        [SMALL, "--unknown"],
    ],
)
def test_a_wrong_command_line_ends_with_two(arguments: list[str]) -> None:
    run("inspect", *arguments, code=2)


@pytest.mark.usefixtures("folder")
def test_debug_shows_where_an_error_came_from() -> None:
    result = CliRunner().invoke(app, ["inspect", "user_nets:branches", "--debug"])
    assert result.exit_code == 1
    assert "Traceback" in result.stderr
    assert "error: " in result.stderr


def test_paragraphs_of_help_break_at_the_end_of_the_line_alone() -> None:
    found = CliRunner().invoke(app, ["deploy", "--help"], env={"COLUMNS": "80"}).stdout
    lines = [line.strip() for line in found.splitlines()]
    start = lines.index(
        "It is transformed, quantized, exported and verified. embedl-deploy --help says"
    )
    assert lines[start + 1] == "how models and data are named."


# --- the rest ----------------------------------------------------------------------------------


def test_the_version_is_that_of_the_package() -> None:
    assert run("--version").stdout == f"embedl-deploy {version('embedl_deploy')}\n"


@pytest.mark.parametrize("command", ["inspect", "deploy"])
def test_help_teaches_the_spellings_and_has_two_examples(command: str) -> None:
    text = run(command, "--help").stdout
    assert all(word in text for word in ("torchvision:", "timm:", "package.module:factory"))
    assert text.count(f"embedl-deploy {command}") == 3  # the usage line and two examples


def test_the_help_teaches_the_spellings_of_data() -> None:
    text = run("--help").stdout
    assert all(word in text for word in ("folder of images", ".npz", "package.module:loader"))


def test_without_typer_the_extra_is_named() -> None:
    code = "import sys; sys.modules['typer'] = None; from embedl_deploy.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: the command line needs the package 'typer'")
    assert "embedl_deploy[cli]" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_package_runs_as_the_command_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["embedl-deploy", "--version"])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_module("embedl_deploy", run_name="__main__")
    assert not stopped.value.code
    assert capsys.readouterr().out == f"embedl-deploy {version('embedl_deploy')}\n"


TEXT = """
import torch
from torch import nn

class Text(nn.Module):
    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(50, 16)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.head = nn.Linear(16, 3)

    def forward(self, ids, mask=None):
        x = self.words(ids)
        x = self.attention(x, x, x, need_weights=False, key_padding_mask=mask)[0]
        return self.head(x)

def batches(): return [torch.randint(0, 50, (4, 9)) for _ in range(2)]
"""


@pytest.mark.parametrize(
    ("options", "shapes"),
    [
        (("--input", "ids:1,7:int64"), [[1, 7]]),
        (("--input", ":2,7:int64"), [[2, 7]]),
        (("--input", "ids:2,7:int64", "--input", "mask:2,7:bool"), [[2, 7], [2, 7]]),
        (("--data", "texts:batches", "--batch", "3"), [[3, 9]]),
        (("--data", "ids.npz"), [[1, 5]]),
    ],
)
def test_a_text_model_gets_its_inputs(
    folder: Path, options: tuple[str, ...], shapes: list[list[int]]
) -> None:
    (folder / "texts.py").write_text(TEXT)
    np.savez(folder / "ids.npz", ids=np.zeros((6, 5), np.int64))
    found = run_json("inspect", "texts:Text", *options)
    assert found["input_shapes"] == shapes
    assert found["coverage"]["total"] > 0
    assert found["fused"]["FusedMHAInProjection"] == 1


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    "options",
    [
        ("--input", "ids"),
        ("--input", "ids:1,7:text"),
        ("--input", "ids:1,zero:int64"),
        ("--input", "ids:1,7:int64:more"),
        ("--input", "x:1,3,8,8", "--shape", "3,8,8"),
        ("--input", "x:1,3,8,8", "--batch", "2"),
        ("--data", "rows.npz", "--shape", "3,8,8"),
        ("--data", "rows.npz", "--no-example"),
    ],
)
def test_inputs_that_contradict_or_cannot_be_read_end_with_two(options: tuple[str, ...]) -> None:
    run("inspect", SMALL, *options, code=2)
