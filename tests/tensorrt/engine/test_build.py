"""An engine is built by the documented interface, which a stand-in holds us to.

TensorRT itself was not run.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from embedl_deploy.errors import BuildError, CheckError
from embedl_deploy.tensorrt import ShapeRange, build_engine, read_layers, trtexec_command
from embedl_deploy.tensorrt.engine import builder
from tests.tensorrt.engine import stand_in
from tests.tensorrt.rules.format_cases import CONV
from tests.tensorrt.rules.models import Text

OPEN = Text("y = Relu(x)", (("x", (None, 16, 8, 8)),))
RANGE = {"x": ShapeRange((1, 16, 8, 8), (4, 16, 8, 8), (8, 16, 8, 8))}


@pytest.fixture
def trt(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    stand_in.reset()
    monkeypatch.setitem(sys.modules, "tensorrt", stand_in)
    yield
    stand_in.reset()


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)


@pytest.mark.usefixtures("trt")
def test_the_engine_and_its_layers_are_written_and_compared(tmp_path: Path) -> None:
    built = build_engine(Text(CONV).save(tmp_path), tmp_path / "model.plan")
    assert built.version == "10.13"
    assert built.path.read_bytes() == built.report.read_bytes()  # as the stand-in has it
    assert built.report.name == "model.plan.layers.json"
    assert read_layers(built.report) == built.layers
    assert built.comparison.counts == {"as predicted": 2}
    assert stand_in.calls == [("create_network", 2), ("build_serialized_network", True)]
    assert {one.name for one in tmp_path.iterdir()} == {
        "model.onnx",
        "model.plan",
        "model.plan.layers.json",
    }


@pytest.mark.usefixtures("trt")
def test_ranges_workspace_and_cache_are_handed_on(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    options = {"ranges": RANGE, "workspace": 3, "timing_cache": cache}
    for content in (b"+", b"++"):
        build_engine(OPEN.save(tmp_path), tmp_path / "model.plan", **options)  # type: ignore[arg-type]
        assert cache.read_bytes() == content
    shapes = (RANGE["x"].smallest, RANGE["x"].best, RANGE["x"].largest)
    assert stand_in.calls[1:5] == [
        ("set_memory_pool_limit", stand_in.MemoryPoolType.WORKSPACE, 3 * 2**20),
        ("set_shape", "x", *shapes),
        ("add_optimization_profile",),
        ("set_timing_cache", False),
    ]


@pytest.mark.usefixtures("trt")
def test_what_goes_wrong_is_one_error_and_leaves_nothing(tmp_path: Path) -> None:
    path, target = Text(CONV).save(tmp_path), tmp_path / "model.plan"
    stand_in.errors.extend(["one thing", "another"])
    with pytest.raises(BuildError, match=r"does not take .*: one thing; another; embedl-deploy"):
        build_engine(path, target)
    stand_in.errors.clear()
    for place, words in (("build", "built no engine"), ("runtime", "can not read the engine")):
        stand_in.fails.add(place)
        with pytest.raises(BuildError, match=words):
            build_engine(path, target)
        stand_in.fails.clear()
    with pytest.raises(BuildError, match="can not write"):
        build_engine(path, tmp_path / "no" / "model.plan")
    assert [one.name for one in tmp_path.iterdir()] == ["model.onnx"]


@pytest.mark.usefixtures("trt")
@pytest.mark.parametrize(("version", "said"), [("10.12.0.36", "10.12"), ("11.4.0", "11.4")])
def test_the_version_is_that_of_the_module(version: str, said: str) -> None:
    stand_in.reset(version)
    assert builder.version_of(stand_in) == said


@pytest.mark.usefixtures("trt")
def test_an_old_tensorrt_is_refused(tmp_path: Path) -> None:
    stand_in.reset("10.3.0")
    with pytest.raises(BuildError, match=r"10\.3\.0 is installed; 10\.12 or newer is needed"):
        build_engine(Text(CONV).save(tmp_path), tmp_path / "model.plan")


@pytest.mark.usefixtures("without")
@pytest.mark.parametrize("version", ["10.x", "11.x"])
def test_without_tensorrt_the_error_has_the_line_to_run_elsewhere(
    version: str, tmp_path: Path
) -> None:
    path, target = OPEN.save(tmp_path), tmp_path / "model.plan"
    with pytest.raises(BuildError) as caught:
        build_engine(path, target, version, ranges=RANGE)
    assert trtexec_command(path, target, version, ranges=RANGE) in str(caught.value)
    assert "pip install tensorrt" in str(caught.value)


def test_a_tensorrt_that_does_not_load_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(name: str) -> None:
        raise OSError(f"lib{name}.so: cannot open shared object file")

    monkeypatch.setattr(builder, "import_module", fail)
    with pytest.raises(BuildError, match="TensorRT is installed and does not load: libtensorrt"):
        build_engine(Text(CONV).save(tmp_path), tmp_path / "model.plan")


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
        build_engine(OPEN.save(tmp_path), tmp_path / "model.plan", ranges=given)


def test_a_range_goes_from_small_to_large() -> None:
    with pytest.raises(BuildError, match="from small to large"):
        ShapeRange((2, 3), (1, 3), (4, 3))
    with pytest.raises(BuildError, match="one length"):
        ShapeRange((2, 3), (2, 3), (4, 3, 1))
