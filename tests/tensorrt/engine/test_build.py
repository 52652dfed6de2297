"""TensorRT is called by its documented interface, which a stand-in holds us to.

TensorRT itself was not run.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from embedl_deploy.errors import BuildError, CheckError
from embedl_deploy.tensorrt import (
    Fate,
    ShapeRange,
    compare_layers,
    compile_onnx,
    explain_onnx,
    read_layers,
    trtexec_command,
)
from embedl_deploy.tensorrt.engine import compilers, process
from tests.tensorrt.engine import stand_in
from tests.tensorrt.rules.format_cases import CONV
from tests.tensorrt.rules.models import Text

OPEN = Text("y = Relu(x)", (("x", (None, 16, 8, 8)),))
RANGE = {"x": ShapeRange((1, 16, 8, 8), (4, 16, 8, 8), (8, 16, 8, 8))}


@pytest.fixture
def trt(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    stand_in.reset()
    monkeypatch.setitem(sys.modules, "tensorrt", stand_in)
    monkeypatch.setattr(process, "run", stand_in.run)
    monkeypatch.setattr(compilers, "_has_driver", lambda: True)
    yield
    stand_in.reset()


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("tensorrt", "tensorrt_rtx_bindings"):
        monkeypatch.setitem(sys.modules, name, None)


@pytest.mark.usefixtures("trt")
def test_the_engine_and_its_layers_are_written_and_compared(tmp_path: Path) -> None:
    path = Text(CONV).save(tmp_path)
    made = compile_onnx(path, output=tmp_path / "model.plan")
    report = tmp_path / "model.plan.layers.json"
    assert (made.compiler, made.gpu, made.engine) == (
        "TensorRT 10.13.3.9",
        "",
        tmp_path / "model.plan",
    )
    assert made.engine is not None
    assert made.engine.read_bytes() == report.read_bytes()  # as the stand-in has it
    assert made.engine_bytes == report.stat().st_size
    assert [one.name for one in read_layers(report)] == [one.name for one in made.layers]
    assert compare_layers(explain_onnx(path), made.layers).counts == {"as predicted": 2}
    assert [(one.fate, one.computed) for one in made.products] == [(Fate.KEPT, "INT8")]
    assert made.estimate() is None
    assert stand_in.calls == [("create_network", 2), ("build_serialized_network", True)]
    assert {one.name for one in tmp_path.iterdir()} == {
        "model.onnx",
        "model.plan",
        "model.plan.layers.json",
    }


@pytest.mark.usefixtures("trt")
def test_ranges_workspace_and_cache_are_handed_on(tmp_path: Path) -> None:
    path, cache = OPEN.save(tmp_path), tmp_path / "cache"
    for content in (b"+", b"++"):
        compile_onnx(path, ranges=RANGE, workspace=3, timing_cache=cache)
        assert cache.read_bytes() == content
    shapes = (RANGE["x"].smallest, RANGE["x"].best, RANGE["x"].largest)
    assert stand_in.calls[1:5] == [
        ("set_memory_pool_limit", stand_in.MemoryPoolType.WORKSPACE, 3 * 2**20),
        ("set_timing_cache", False),
        ("set_shape", "x", *shapes),
        ("add_optimization_profile",),
    ]
    compile_onnx(path, ranges={"": ShapeRange.exactly((2, 16, 8, 8))})
    assert ("shape", "x", (2, 16, 8, 8)) in stand_in.calls
    assert {one.name for one in tmp_path.iterdir()} == {"model.onnx", "cache"}


@pytest.mark.usefixtures("trt")
def test_what_goes_wrong_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    path, target = Text(CONV).save(tmp_path), tmp_path / "model.plan"
    stand_in.errors.extend(["one thing", "another at Conv_c"])
    refused = compile_onnx(path, output=target)
    assert [(one.message, one.node) for one in refused.errors] == [
        ("one thing", ""),
        ("another at Conv_c", "Conv_c"),
    ]
    assert not refused.built
    stand_in.errors.clear()
    stand_in.fails.add("build")
    (error,) = compile_onnx(path, output=target).errors
    assert error.message == "the compiler built nothing and did not say why"
    stand_in.fails.clear()
    stand_in.fails.add("runtime")
    with pytest.raises(BuildError, match="read the engine"):
        compile_onnx(path, output=target)
    with pytest.raises(BuildError, match="write"):
        compile_onnx(path, output=tmp_path / "no" / "model.plan")
    assert [one.name for one in tmp_path.iterdir()] == ["model.onnx"]


@pytest.mark.usefixtures("trt")
def test_an_old_tensorrt_is_refused(tmp_path: Path) -> None:
    stand_in.reset("10.3.0")
    with pytest.raises(BuildError, match=r"10\.3\.0 is installed"):
        compile_onnx(Text(CONV).save(tmp_path))
    assert stand_in.calls == []


@pytest.mark.usefixtures("trt")
def test_tensorrt_builds_for_the_gpu_at_hand_alone(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="builds for the GPU at hand: leave l4 out"):
        compile_onnx(Text(CONV).save(tmp_path), "l4", compiler="tensorrt")


@pytest.mark.usefixtures("without")
@pytest.mark.parametrize(
    ("compiler", "ways"),
    [
        ("auto", ("pip install --upgrade tensorrt", r"pip install 'embedl_deploy\[rtx\]'")),
        ("tensorrt", ("pip install --upgrade tensorrt",)),
        ("rtx", (r"pip install 'embedl_deploy\[rtx\]'",)),
    ],
)
def test_without_a_compiler_the_error_says_how_to_get_one(
    compiler: str, ways: tuple[str, ...], tmp_path: Path
) -> None:
    path = OPEN.save(tmp_path)
    for way in ways:
        with pytest.raises(BuildError, match=way) as caught:
            compile_onnx(path, compiler=compiler, ranges=RANGE)
    line = trtexec_command(path, path.with_suffix(".plan"), ranges=RANGE)
    assert line in str(caught.value)


# --- the line -----------------------------------------------------------------------------------


def test_the_line_has_the_options_of_its_version() -> None:
    assert trtexec_command("a b.onnx", "m.plan", "11.x") == (
        "trtexec '--onnx=a b.onnx' --saveEngine=m.plan --profilingVerbosity=detailed "
        "--exportLayerInfo=m.plan.layers.json"
    )
    line = trtexec_command(
        "m.onnx", "m.plan", "10.12", ranges=RANGE, workspace=64, timing_cache="c"
    )
    assert line.split()[3:-2] == [
        "--stronglyTyped",
        "--minShapes=x:1x16x8x8",
        "--optShapes=x:4x16x8x8",
        "--maxShapes=x:8x16x8x8",
        "--memPoolSize=workspace:64M",
        "--timingCacheFile=c",
    ]
    with pytest.raises(CheckError, match="no version of TensorRT"):
        trtexec_command("m.onnx", "m.plan", "9.0")


# --- ranges -------------------------------------------------------------------------------------


@pytest.mark.usefixtures("trt")
@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, r"input 'x' has open sizes, \?×16×8×8: say which"),
        ({"": ShapeRange.exactly((1, 16, 8))}, "does not fit the input 'x', which is"),
        ({"x": ShapeRange.exactly((1, 15, 8, 8))}, "does not fit the input 'x', which is"),
    ],
)
def test_ranges_have_to_fit_the_file(
    given: dict[str, ShapeRange], words: str, tmp_path: Path
) -> None:
    with pytest.raises(BuildError, match=words):
        compile_onnx(OPEN.save(tmp_path), ranges=given)


def test_a_range_goes_from_small_to_large() -> None:
    with pytest.raises(BuildError, match="from small to large"):
        ShapeRange((2, 3), (1, 3), (4, 3))
    with pytest.raises(BuildError, match="one length"):
        ShapeRange((2, 3), (2, 3), (4, 3, 1))
