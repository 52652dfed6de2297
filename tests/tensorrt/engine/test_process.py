"""What a compiler does to its own process comes back in words, and its log is read strictly.

The compilers here are a few lines each, and take the place of TensorRT in the process.
"""

import sys
from pathlib import Path

import pytest

from embedl_deploy.errors import BuildError
from embedl_deploy.tensorrt import Compilation, compile_onnx
from embedl_deploy.tensorrt.engine.log import parse_log
from tests.tensorrt.rules.models import Text

FAKE = """
import os, signal, sys, time
__version__ = "10.13.0"

class ILogger: pass
class NetworkDefinitionCreationFlag: STRONGLY_TYPED = 1
class ProfilingVerbosity: DETAILED = 2

class Network:
    num_inputs = 0

class Config: pass

class OnnxParser:
    def __init__(self, network, log): self.log = log
    def parse_from_file(self, path):
        self.log.log("VERBOSE", "Static check for parsing node: Relu_a [Relu]")
        self.log.log("VERBOSE", "Parsing node: Relu_a [Relu]")
        if "{when}" == "reading":
            {what}
        return True

class Builder:
    def __init__(self, log): pass
    def create_network(self, flags): return Network()
    def create_builder_config(self): return Config()
    def build_serialized_network(self, network, config):
        {what}
"""
MODEL = Text("a = Relu(x)\ny = Relu(a)")


def compiled_with(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, timeout: float = 60.0
) -> Compilation:
    modules = tmp_path / "modules"
    modules.mkdir()
    (modules / "tensorrt.py").write_text(source)
    monkeypatch.syspath_prepend(modules)
    monkeypatch.setenv("PYTHONPATH", str(modules))
    path = MODEL.save(tmp_path)
    return compile_onnx(path, compiler="tensorrt", timeout=timeout, output=tmp_path / "m.plan")


@pytest.mark.parametrize(
    ("what", "when", "node", "words"),
    [
        ("os.abort()", "reading", "Relu_a", "while it read it: it crashed with SIGABRT"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "building", "", "crashed with SIGSEGV"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "building", "", "perhaps because memory ran out"),
        ("raise MemoryError('no 3 GB')", "building", "", "ran out of memory (MemoryError: no 3"),
        ("raise ValueError('odd')", "reading", "Relu_a", "it failed: ValueError: odd"),
        ("return None", "building", "", "built nothing and did not say why"),
    ],
)
@pytest.mark.skipif(sys.platform == "win32", reason="signals are those of POSIX")
def test_the_end_of_the_process_is_an_error_with_the_operator(
    what: str,
    when: str,
    node: str,
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = FAKE.replace("{when}", when).replace("{what}", what)
    made = compiled_with(source, tmp_path, monkeypatch)
    assert [(words in one.message, one.node) for one in made.errors] == [(True, node)]
    assert not made.built
    assert {one.name for one in tmp_path.iterdir()} == {"model.onnx", "modules"}


def test_a_compiler_that_takes_too_long_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = FAKE.replace("{when}", "building").replace("{what}", "time.sleep(600)")
    made = compiled_with(source, tmp_path, monkeypatch, timeout=3)
    assert [one.message.split(": ")[-1] for one in made.errors] == ["it took longer than 3 seconds"]


def test_a_compiler_that_does_not_load_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = "raise OSError('libnvinfer.so.10: cannot open shared object file')"
    with pytest.raises(BuildError, match=r"installed and does not load: .*libnvinfer\.so\.10"):
        compiled_with(source, tmp_path, monkeypatch)


# --- the log ------------------------------------------------------------------------------------

TENSOR = "{ Name: x, Dimensions: [1,-1], Strides: [2,1], Datatype: Half, Format: (Linear) Row }"
LINE = (
    "Name: a_myl0_0, LayerType: kgen, Inputs: [ %s], Constants: [], Outputs: [ %s], TacticName: t, "
    "StreamId: 0, Metadata: [ONNX Layer: a/b[0]/Relu]__gemm_from_conv1x1[ONNX Layer: c]"
)
LINE = LINE.replace("%s", TENSOR)


def test_a_line_of_the_log_is_a_layer() -> None:
    (layer,) = parse_log(f"Layers:\n{LINE}\n\nI/O Tensors:\n Name: x", "1")
    assert (layer.name, layer.kind) == ("a_myl0_0", "kgen")
    assert layer.nodes == ("a/b[0]/Relu", "c")
    assert [(one.name, one.shape, one.dtype) for one in layer.inputs] == [("x", (1, -1), "FP16")]
    assert layer.bytes is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Layers:",
        f"Layers:\n{LINE.replace('LayerType', 'Kind')}",
        f"Layers:\n{LINE}\nmore",
        f"Layers:\n{LINE.replace('Half', 'Quarter')}",
        f"Layers:\n{LINE.replace('Datatype', 'Type')}",
    ],
)
def test_a_log_that_reads_otherwise_is_an_error_that_says_the_version(text: str) -> None:
    with pytest.raises(BuildError, match=r"for RTX 9\.9 cannot be read.* known as 1\.7\.1\.116"):
        parse_log(text, "9.9")
