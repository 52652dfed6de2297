"""The comparison of compiled files, without the other tools and the compiler."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest
from onnx import TensorProto

from benchmarks.compiled import Row, read, write
from benchmarks.compiled_peers import OURS, PEERS, best_of, page, settings, shortfalls
from benchmarks.halved import halve

MODEL = "transformers:bert"
_TEXT = """<ir_version: 9, opset_import: ["" : 20]>
net (float[1,2,4,4] x) => (float[1,2,8,8] y)
<float[2,2,1,1] weight = {0.5, -0.25, 1.5, 0.75}, float scale = {0.03125}, int8 zero = {0},
 float small = {1e-9}, float far = {1e9}, float[4] scales = {1, 1, 2, 2}>
{
    number = QuantizeLinear (x, scale, zero)
    back = DequantizeLinear (number, scale, zero)
    product = Conv (back, weight)
    typed = Cast <to = 1> (product)
    least = Min (typed, far)
    more = Add (least, small)
    half = Constant <value = float {0.5}> ()
    size = Constant <value_ints = [4]> ()
    zeros = ConstantOfShape (size)
    rest = Add (half, zeros)
    sum = Add (more, rest)
    y = Resize <mode = "nearest"> (sum, , scales)
}"""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """One in float32, and what is made of it."""
    folder = tmp_path_factory.mktemp("files")
    source, target = folder / "float32.onnx", folder / "float16.onnx"
    onnx.save(onnx.parser.parse_model(_TEXT), source)
    halve(source, target)
    return source, target


def test_a_file_in_half_precision_computes_the_same(files: tuple[Path, Path]) -> None:
    draw = np.random.default_rng(0).standard_normal((1, 2, 4, 4)).astype(np.float16)
    want, got = [
        onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"x": one})
        for path, one in zip(files, (draw.astype(np.float32), draw), strict=True)
    ]
    assert got[0].dtype == np.float16
    assert np.abs(want[0]).max() > 1
    np.testing.assert_allclose(got[0].astype(np.float32), want[0], atol=0.01)


def test_nothing_but_scales_of_a_resize_stays_float32(files: tuple[Path, Path]) -> None:
    model = onnx.load(files[1])
    onnx.checker.check_model(model, full_check=True)
    stored = {one.name: one for one in model.graph.initializer}
    left = [one.name for one in stored.values() if one.data_type == TensorProto.FLOAT]
    assert left == ["scales"]
    assert onnx.numpy_helper.to_array(stored["small"]) > 0
    assert onnx.numpy_helper.to_array(stored["far"]) == np.finfo(np.float16).max
    assert onnx.numpy_helper.to_array(stored["zero"]).dtype == np.int8


def row(kind: str, kernels: int, moved: float, estimate: float) -> Row:
    """Of a file without faults."""
    fates = {"kept": 4}
    return Row(
        *(MODEL, kind, "compiler 1", True, fates, "", kernels, int(moved * 1e6), estimate),
        *({"INT8": 1.0}, (2, 2), {}, ""),
    )


ROWS = [
    row("float16", 20, 3.0, 80.0),
    row("rtx", 30, 2.0, 70.0),
    row("rtx-full", 20, 1.0, 60.0),
    row("tensorrt", 40, 2.5, 90.0),
    row("nncf-transformer", 30, 2.0, 75.0),
    row("modelopt-half", 25, 1.0, 85.0),
]


def changed(kind: str, **values: object) -> list[Row]:
    """The rows, with one that differs."""
    return [replace(one, **values) if one.kind == kind else one for one in ROWS]  # type: ignore[arg-type]


def test_ours_is_held_against_the_best_file_of_another_tool() -> None:
    best = best_of(ROWS)
    assert best is not None
    assert best.kind == "nncf-transformer"
    assert not shortfalls(MODEL, ROWS)
    faster = changed("modelopt-half", estimate=60.0)
    said = [f"{MODEL}: 30 kernels of `rtx`, 25 of modelopt-half"]
    said += [f"{MODEL}: 2.0 MB of `rtx`, 1.0 of modelopt-half"]
    assert shortfalls(MODEL, faster) == said


@pytest.mark.parametrize("kind", ["rtx", "tensorrt"])
def test_what_is_lost_is_short(kind: str) -> None:
    lost = changed(kind, products={"kept": 3, "lost": 1})
    assert shortfalls(MODEL, lost) == [f"{MODEL}: 1 products of `{kind}` lost"]
    split = changed(kind, attention=(1, 2))
    assert shortfalls(MODEL, split) == [
        f"{MODEL}: 1 attentions of `{kind}` in one kernel, 2 in float16"
    ]


def test_what_was_not_built_is_short() -> None:
    assert shortfalls(MODEL, changed("rtx", built=False)) == [f"{MODEL}: no file of rtx"]
    ours = [one for one in ROWS if one.kind in OURS]
    assert shortfalls(MODEL, ours) == [f"{MODEL}: no file of another tool"]


def test_the_page_says_what_is_short_and_comes_back_from_its_data(tmp_path: Path) -> None:
    rows = changed("rtx", kernels=31)
    data = tmp_path / "rows.json"
    write(rows, data, page(rows))
    assert "31 kernels of `rtx`, 30 of nncf-transformer" in data.with_suffix(".md").read_text()
    assert [one.kernels for one in read(data)] == [one.kernels for one in rows]


def test_transformers_are_quantized_with_settings_for_them() -> None:
    assert "nncf-transformer" in settings(MODEL)
    assert "nncf-symmetric" in settings("torchvision:resnet50")
    both = {*settings(MODEL), *settings("torchvision:resnet50")}
    assert both == {*OURS, *PEERS}
