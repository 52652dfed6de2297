"""What `trtexec` prints becomes a cost; a stand-in prints it as TensorRT's own does."""

import sys
from pathlib import Path

import pytest

from embedl_deploy.errors import BuildError
from embedl_deploy.tensorrt import TrtexecLatency

SUMMARY = """
[I] Throughput: 233.689 qps
[I] Latency: min = 4.51123 ms, max = 5.53139 ms, mean = 4.54566 ms, median = 4.52756 ms
[I] Enqueue Time: min = 0.5542 ms, max = 1.63188 ms, mean = 1.1058 ms, median = 1.16818 ms
[I] GPU Compute Time: min = 4.23773 ms, max = 5.25439 ms, mean = 4.26986 ms, median = 4.25195 ms
[I] D2H Latency: min = 0.0061 ms, max = 0.0246 ms, mean = 0.0121 ms, median = 0.0122 ms
[I] Total GPU Compute Time: 3.00598 s
"""
V10, V11 = "&&&& RUNNING TensorRT.trtexec [TensorRT v101303]", "&&&& [TensorRT v110000]"


def tool(folder: Path, output: str, code: int = 0, error: str = "") -> str:
    """A command that notes its arguments, and prints."""
    script = folder / "trtexec.py"
    script.write_text(
        "import pathlib, sys\n"
        f"pathlib.Path({str(folder / 'arguments')!r}).write_text(' '.join(sys.argv[1:]))\n"
        f"print({output!r})\nprint({error!r}, file=sys.stderr)\nsys.exit({code})\n"
    )
    return f"{sys.executable} '{script}'"


def test_the_median_of_the_gpu_is_the_cost(tmp_path: Path) -> None:
    command = tool(tmp_path, V11 + SUMMARY)
    found = TrtexecLatency(f"{command} --useCudaGraph")(tmp_path / "a file.onnx")
    assert float(found) == pytest.approx(4251.95)
    assert found.measured_by == "trtexec of TensorRT v110000"
    said = (tmp_path / "arguments").read_text()
    assert said == f"--useCudaGraph --onnx={tmp_path / 'a file.onnx'}"


def test_types_of_the_file_are_asked_for(tmp_path: Path) -> None:
    command = tool(tmp_path, V10 + SUMMARY)
    with pytest.raises(BuildError, match="v101303, which takes the types of the file only with"):
        TrtexecLatency(command)(tmp_path)
    assert TrtexecLatency(f"{command} --stronglyTyped")(tmp_path).microseconds == pytest.approx(
        4251.95
    )
    own = tool(tmp_path, f"{V10} # trtexec --onnx=a.onnx --stronglyTyped{SUMMARY}")  # of a script
    assert TrtexecLatency(own)(tmp_path).microseconds == pytest.approx(4251.95)


def test_a_script_without_a_version_is_taken(tmp_path: Path) -> None:
    assert TrtexecLatency(tool(tmp_path, SUMMARY))(tmp_path).measured_by == sys.executable


@pytest.mark.parametrize(
    ("output", "code", "error", "said"),
    [
        (V11, 0, "", "says no 'GPU Compute Time' with a median"),
        (V11 + SUMMARY, 1, "[I] fine\n[E] Error[4]: no kernel", r"ended with 1: \[E\] Error\[4\]"),
        ("", 3, "", "ended with 3: it said nothing"),
    ],
)
def test_what_fails_is_said(tmp_path: Path, output: str, code: int, error: str, said: str) -> None:
    with pytest.raises(BuildError, match=said):
        TrtexecLatency(tool(tmp_path, output, code, error))(tmp_path)


@pytest.mark.parametrize("command", ["", "trtexec 'a"])
def test_what_is_no_command_is_said(command: str) -> None:
    with pytest.raises(BuildError, match=r"such as 'trtexec|is no command: No closing quotation"):
        TrtexecLatency(command)


def test_what_is_no_text_is_passed_over(tmp_path: Path) -> None:
    script = tmp_path / "bytes.py"
    line = "GPU Compute Time: min = 1 ms, median = 2 ms"
    script.write_text(f"import sys; sys.stdout.buffer.write(b'caf\\xe9 {line}')")
    assert TrtexecLatency(f"{sys.executable} '{script}'")(tmp_path).microseconds == 2000


def test_a_tool_that_is_not_there_or_hangs_is_said(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"cannot run 'trtexec-of-nobody'.*path of trtexec"):
        TrtexecLatency("trtexec-of-nobody --verbose")(tmp_path)
    with pytest.raises(BuildError, match=r"took more than 0.2 s"):
        TrtexecLatency(f"{sys.executable} -c 'import time; time.sleep(20)'", 0.2)(tmp_path)
