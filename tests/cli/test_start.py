"""The command line starts without torch, ends on Ctrl-C, and writes to regular files alone."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import embedl_deploy
from embedl_deploy.cli.commands import journey
from embedl_deploy.cli.program import COMMANDS, called
from embedl_deploy.errors import ExportError
from embedl_deploy.export.files import written_beside
from tests.cli.commands import files, run
from tests.tensorrt.rules.format_cases import CONV
from tests.tensorrt.rules.models import Text

SMALL = ("deploy", "user_nets:small", "out.onnx", "--data", "rows.npz")


def started(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own, which says at the end whether torch was imported."""
    code = (
        f"import sys; sys.argv = ['embedl-deploy', *{arguments!r}]\n"
        "from embedl_deploy.cli import main\n"
        "try: main()\n"
        "except SystemExit as end: status = end.code or 0\n"
        "print('torch' in sys.modules, file=sys.stderr)\n"
        "sys.exit(status)"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("option", ["--help", "--version", "-h"])
def test_help_and_version_import_no_torch(option: str) -> None:
    done = started(option)
    assert done.stderr.strip() == "False"
    assert done.stdout.strip()
    if option != "--version":
        assert all(name in done.stdout for name in COMMANDS)


@pytest.mark.parametrize("command", ["check", "explain"])
@pytest.mark.parametrize("options", [(), ("--json",)])
def test_judging_a_file_imports_no_torch(
    tmp_path: Path, command: str, options: tuple[str, ...]
) -> None:
    done = started(command, str(Text(CONV).save(tmp_path)), *options)
    assert (done.returncode, done.stderr.strip()) == (0, "False")
    assert "TensorRT" in done.stdout if command == "check" else "kernel" in done.stdout


def test_what_is_called_is_the_first_word() -> None:
    assert called(["check", "x.onnx", "--json"]) == ["check"]
    assert called(["--help"]) == []


def test_the_version_is_an_attribute() -> None:
    from importlib.metadata import version

    assert embedl_deploy.__version__ == version("embedl_deploy")
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        embedl_deploy.nothing  # noqa: B018


def test_ctrl_c_is_one_line_and_leaves_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(journey, "verify_onnx", stopped)
    before = files(folder)
    result = run(*SMALL, code=130)
    assert result.stderr.splitlines()[-1] == "interrupted; nothing was written"
    assert files(folder) == before


def test_a_symbolic_link_stays_one_and_its_file_is_written(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "link.onnx").symlink_to(tmp_path / "there" / "real.onnx")
    with written_beside(tmp_path / "link.onnx") as draft:
        draft.write_text("new")
    assert (tmp_path / "link.onnx").is_symlink()
    assert (tmp_path / "there" / "real.onnx").read_text() == "new"


def test_what_is_no_regular_file_is_left_as_it_is(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.onnx"
    os.mkfifo(pipe)
    with pytest.raises(ExportError, match="no regular file"), written_beside(pipe):
        pass
    assert pipe.is_fifo()
    assert [one.name for one in tmp_path.iterdir()] == ["pipe.onnx"]


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    "arguments",
    [
        ("deploy", "user_nets:small", "out.plan", "--data", "rows.npz"),
        ("deploy", "user_nets:small", "out", "--data", "rows.npz"),
        (*SMALL, "--keep-float32", "*.softmax"),
        (*SMALL, "--float32-io"),
        (*SMALL, "--gpu", "l4"),
    ],
)
def test_options_that_would_be_ignored_are_refused(arguments: tuple[str, ...]) -> None:
    run(*arguments, code=2)


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ((*SMALL, "--gpu", "l4", "--gpu", "sm86"), "--gpu"),
        ((*SMALL, "--shape", "3,8,8", "--shape", "3,9,9"), "--shape"),
        (("tune", "model", "out.onnx", "--gpu", "l4", "--gpu", "sm86"), "--gpu"),
        (("check", "x.onnx", "--version", "10.x", "--version", "11.x"), "--version"),
    ],
)
def test_an_option_with_one_value_is_given_once(arguments: tuple[str, ...], name: str) -> None:
    said = run(*arguments, "--json", "--json", code=2).stdout
    assert json.loads(said)["error"]["message"].endswith(f"give {name} once")


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    "arguments",
    [
        ("check",),
        ("check", "x.onnx", "--unknown"),
        ("inspect", "user_nets:small", "--shape", "3,a,8"),
        (*SMALL, "--gpu", "l4"),
        ("gone",),
    ],
)
def test_a_wrong_command_line_is_said_as_json_too(arguments: tuple[str, ...]) -> None:
    plain, said = run(*arguments, code=2), run(*arguments, "--json", code=2)
    found = json.loads(said.stdout)
    assert (found["schema_version"], found["error"]["type"]) == (1, "UsageError")
    message = found["error"]["message"]
    assert said.stderr == f"error: {message}\n"
    if len(arguments) > 1:
        assert message.split()[-1] in plain.stderr.replace("\u2502", "")


def test_every_object_has_the_version_of_its_schema(tmp_path: Path) -> None:
    path = str(Text(CONV).save(tmp_path))
    assert json.loads(run("check", path, "--json").stdout)["schema_version"] == 1
    assert json.loads(run("check", "gone.onnx", "--json", code=1).stdout)["schema_version"] == 1


@pytest.mark.usefixtures("folder")
def test_deploying_in_a_pipe_says_its_stages_and_nothing_of_other_packages() -> None:
    done = started(*SMALL)
    assert done.returncode == 0, done.stderr
    stages = [line for line in done.stderr.splitlines() if re.match(r" +\d+\.\d s  ", line)]
    wanted = "Loading Transforming Calibrating Exporting Verifying Judging Checking"
    assert [line.split()[-1] for line in stages] == wanted.split()
    times = [float(line.split()[0]) for line in stages]
    assert times == sorted(times)
    said = [line for line in done.stderr.splitlines() if line not in stages]
    assert [line for line in said if line != "a user's module may print"] == ["True"]
