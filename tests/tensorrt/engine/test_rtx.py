"""TensorRT for RTX compiles small files, and what became of their products is told.

The expectations were seen with the version that the extra `rtx` pins.
"""

import json
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto

from embedl_deploy.errors import BuildError, CheckError
from embedl_deploy.report.compilation import compilation_figures
from embedl_deploy.tensorrt import Compilation, Fate, ShapeRange, compile_onnx
from embedl_deploy.tensorrt.engine import products
from tests.tensorrt.rules.models import Text

pytestmark = pytest.mark.skipif(
    find_spec("tensorrt_rtx_bindings") is None,
    reason="TensorRT for RTX is not installed: pip install 'embedl_deploy[rtx]'",
)

Arrays = list[tuple[str, NDArray[np.generic]]]

HALF = TensorProto.FLOAT16
CONV = "a = QDQ(x, s)\nw = DQ(W_16x16x3x3)\ny = Conv(a, w)"
ATTENTION = """
kt = Transpose<perm=[0,1,3,2]>(k)
scores = MatMul(q, kt)
p = Softmax<axis=-1>(scores)
y = MatMul(p, v)
"""
QUANTIZED = """
a = QDQ(q, h)
b = QDQ(k, h)
kt = Transpose<perm=[0,1,3,2]>(b)
scores = MatMul(a, kt)
m = Softmax<axis=-1>(scores)
p = QDQ(m, h)
c = QDQ(v, h)
d = MatMul(p, c)
y = QDQ(d, h)
"""
HEADS = tuple((name, (1, 2, 128, 64)) for name in "qkv")
RECURRENT = """
e, n, c = LSTM<hidden_size=16>(x, B_1x64x16, B_1x64x16)
r = Reshape(e, I_{0}_16)
y = MatMul(r, B_16x8)
"""
UNCOUNTED = {
    "einsum": Text(
        'e = Einsum<equation="bij,bjk->bik">(x, x)\ny = MatMul(e, B_16x8)', (("x", (2, 16, 16)),)
    ),
    "lstm": Text(RECURRENT.format(4), (("x", (4, 1, 16)),)),
    "attention": Text("e = Attention(q, k, v)\ny = MatMul(e, H_64x8)", HEADS, HALF, 23),
}
OPEN = (("x", (None, 16, 8, 8)),)


def linear(rows: int) -> Text:
    arrays: Arrays = [("wq", np.ones((64, 32), np.int8)), ("ws", np.full(32, 0.5, np.float16))]
    arrays.append(("wz", np.zeros(32, np.int8)))
    lines = "a = QDQ(x, h)\nw = DequantizeLinear<axis=1>(wq, ws, wz)\ny = MatMul(a, w)"
    return Text(lines, (("x", (rows, 64)),), HALF, arrays=arrays)


def compiled(model: Text, folder: Path, gpu: str | None = None) -> Compilation:
    made = compile_onnx(model.save(folder), gpu)
    assert made.built, str(made)
    return made


# --- products -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "gpu", "fates"),
    [
        (Text("y = Conv(x, B_16x16x3x3)"), "sm89", [("kept", "FP32", "FP32")]),
        (Text(CONV), "sm89", [("kept", "INT8", "INT8")]),
        (Text(CONV), "sm120", [("kept", "INT8", "INT8")]),
        (Text(CONV), "sm75", [("lost", "INT8", "FP32")]),
        (Text(CONV.replace("Conv", "ConvTranspose")), "sm86", [("lost", "INT8", "FP32")]),
        (linear(16), "l4", [("kept", "INT8", "INT8")]),
        (Text("y = MatMul(x, B_16x8)", (("x", (4, 16)),)), None, [("kept", "FP32", "FP32")]),
    ],
)
def test_each_product_has_its_fate(
    model: Text, gpu: str | None, fates: Sequence[tuple[str, str, str]], tmp_path: Path
) -> None:
    made = compiled(model, tmp_path, gpu)
    assert [(one.fate, one.simulated, one.computed) for one in made.products] == fates
    assert [bool(one.reason) for one in made.products] == [fate == "lost" for fate, *_ in fates]
    assert len(made.lost) == sum(fate == "lost" for fate, *_ in fates)


@pytest.mark.parametrize(("lines", "dtype"), [(ATTENTION, "FP16"), (QUANTIZED, "INT8")])
def test_attention_is_one_kernel_of_two_products(lines: str, dtype: str, tmp_path: Path) -> None:
    made = compiled(Text(lines, HEADS, HALF), tmp_path)
    assert [one.reads for one in made.attentions] == [(dtype,)]
    assert made.attention_kernels == {dtype: 1}
    assert [(one.fate, one.computed) for one in made.products] == 2 * [(Fate.MERGED, dtype)]
    assert [one.macs for one in made.products] == 2 * [2 * 128 * 128 * 64]
    assert [one.macs for one in made.layers if one.is_attention] == [4 * 128 * 128 * 64]
    assert made.shares == {dtype: 1.0}


def test_an_attention_that_is_quantized_in_part_is_no_kernel(tmp_path: Path) -> None:
    part = QUANTIZED.replace("p = QDQ(m, h)\n", "").replace("MatMul(p", "MatMul(m")
    made = compiled(Text(part, HEADS, HALF), tmp_path)
    assert [one.reads for one in made.attentions] == [()]
    assert made.attention_kernels == {}
    assert "0 of 1 attention in one kernel" in made.summary


def test_figures_follow_from_the_layers(tmp_path: Path) -> None:
    made = compiled(Text("y = Relu(x)"), tmp_path, "l4")
    assert (len(made.kernels), made.bytes) == (1, 2 * 4 * 16 * 8 * 8)
    time = made.estimate()
    assert time is not None
    assert time.microseconds == pytest.approx(2 + 8192 / 300e3)
    assert time.launches == 2
    other = made.estimate("rtx4090")
    assert other is not None
    assert other.microseconds == pytest.approx(2 + 8192 / 1008e3)
    assert "published peaks (NVIDIA L4 datasheet)" in time.assumptions
    with pytest.raises(BuildError, match="compiled for l4, which a10 cannot run"):
        made.estimate("a10")
    values = json.loads(json.dumps(made.to_dict()))
    assert values["estimate"]["estimated_microseconds"] == time.microseconds
    assert values["layers"][0]["bytes"] == 8192


@pytest.mark.parametrize("name", UNCOUNTED)
def test_what_is_not_counted_is_said(name: str, tmp_path: Path) -> None:
    made = compiled(UNCOUNTED[name], tmp_path)
    (operator,) = made.uncounted
    assert operator.endswith("_e")
    said = f"of those that are known, 100.0% in {'FP16' if name == 'attention' else 'FP32'}; "
    assert f"{said}1 operator not counted, such as '{operator}'" in made.summary
    unknown = [one for one in made.kernels if one.macs is None]
    assert unknown
    assert all(not one.nodes or operator in one.nodes for one in unknown)
    time = made.estimate()
    assert time is not None
    assert time.uncounted == len(unknown)
    assert f"without the arithmetic of {len(unknown)} kernel" in time.assumptions
    assert "1 not counted" in compilation_figures(made)[4]


def test_an_engine_with_a_loop_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="a loop, as of an LSTM over many steps"):
        compile_onnx(Text(RECURRENT.format(16), (("x", (16, 1, 16)),)).save(tmp_path))


def test_a_product_of_open_sizes_is_not_counted_as_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Text("a = MatMul(x, B_16x16)\ny = Relu(a)", (("x", (8, 16)),))
    known = compiled(model, tmp_path)
    assert known.uncounted == ()
    monkeypatch.setattr(products, "multiply_accumulates", lambda _: None)
    made = compiled(model, tmp_path)
    assert [one.macs for one in known.kernels] == [8 * 16 * 16]
    assert [one.macs for one in made.kernels] == [None]
    assert (made.uncounted, made.shares) == (("MatMul_a",), {})
    assert "multiply-accumulates are not known; 1 operator not counted" in made.summary


# --- sizes, names, files ------------------------------------------------------------------------


def test_open_sizes_take_a_range_and_have_no_figures(tmp_path: Path) -> None:
    path = Text(CONV, OPEN).save(tmp_path)
    ends = (1, 16, 8, 8), (4, 16, 8, 8), (8, 16, 8, 8)
    made = compile_onnx(path, ranges={"x": ShapeRange(*ends)})
    assert made.fates == {"kept": 1}
    assert (made.bytes, made.estimate()) == (None, None)
    fixed = compile_onnx(path, ranges={"": ShapeRange.exactly(ends[1])})
    assert fixed.fates == {"kept": 1}
    assert fixed.bytes is not None
    assert fixed.products[0].macs == 4 * 16 * 6 * 6 * 16 * 9


def test_names_with_spaces_and_other_letters_are_read(tmp_path: Path) -> None:
    proto = Text(CONV).proto()
    for node in proto.graph.node:
        node.name = f"é bloc[0].{node.op_type}, {node.output[0]} [x], Constants: [ü"
    folder = tmp_path / "é ü [0]"
    folder.mkdir()
    onnx.save(proto, folder / "mod èle.onnx")
    made = compile_onnx(folder / "mod èle.onnx", output=folder / "möd.plan")
    assert made.fates == {"kept": 1}, str(made)
    assert made.engine == folder / "möd.plan"
    assert made.engine.stat().st_size == made.engine_bytes > 0


def test_external_data_is_found(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    proto = Text("y = Conv(x, B_16x16x3x3)").proto()
    onnx.save(proto, path, save_as_external_data=True, size_threshold=0, location="weights.bin")
    assert compile_onnx(path).fates == {"kept": 1}
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(CheckError, match=r"data file 'weights\.bin' .* is missing"):
        compile_onnx(path)


def test_a_file_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    path = Text("y = Relu(x)").save(tmp_path)
    with pytest.raises(BuildError, match="cannot write"):
        compile_onnx(path, output=tmp_path / "no" / "model.plan")
    (tmp_path / "folder").mkdir()
    with pytest.raises(BuildError, match="cannot write"):
        compile_onnx(path, output=tmp_path / "folder")
    assert {one.name for one in tmp_path.iterdir()} == {"model.onnx", "folder"}


# --- refusals -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "gpu", "node", "words"),
    [
        (Text("a = Relu(x)\ny = Nonsense(a)"), "sm89", "Nonsense_y", "Plugin not found"),
        (Text("y = Conv(x, W_16x16x3x3)"), "sm89", "Conv_y", "must be of same type"),
        (Text("b = Relu(B_0)\ny = Conv(x, B_16x16x3x3, B_0)"), "sm89", "Conv_y", "bias"),
    ],
)
def test_what_the_compiler_refuses_is_an_error_with_the_operator(
    model: Text, gpu: str, node: str, words: str, tmp_path: Path
) -> None:
    path = model.save(tmp_path)
    made = compile_onnx(path, gpu, output=tmp_path / "model.plan")
    assert [one.node for one in made.errors] == [node]
    assert words in made.errors[0].message
    assert f"built no engine at '{node}'" in str(made)
    assert (made.engine, made.products, made.estimate()) == (None, (), None)
    assert json.loads(json.dumps(made.to_dict()))["built"] is False
    assert [one.name for one in tmp_path.iterdir()] == ["model.onnx"]


@pytest.mark.parametrize(
    ("gpu", "words"),
    [
        ("h100", "does not build for h100, which is SM90, but for SM75, SM80, SM86"),
        ("orin", "which is SM87"),
        ("sm90", "which is SM90"),
        ("gtx1080", "the GPU 'gtx1080' is unknown; known are t4, a100"),
        ("", "is unknown"),
    ],
)
def test_a_gpu_that_cannot_be_compiled_for_is_refused(gpu: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=words):
        compile_onnx(Text("y = Relu(x)").save(tmp_path), gpu)


def test_fp8_is_not_built_for_gpus_without_it(tmp_path: Path) -> None:
    zero = np.zeros((), ml_dtypes.float8_e4m3fn)
    arrays: Arrays = [
        ("z8", zero),
        ("w8", np.ones((64, 32), zero.dtype)),
        ("zw", np.zeros(32, zero.dtype)),
    ]
    arrays.append(("ws", np.full(32, 0.5, np.float16)))
    lines = """
    q = QuantizeLinear(x, h, z8)
    a = DequantizeLinear(q, h, z8)
    w = DequantizeLinear<axis=1>(w8, ws, zw)
    y = MatMul(a, w)
    """
    path = Text(lines, (("x", (16, 64)),), HALF, arrays=arrays).save(tmp_path)
    assert [one.computed for one in compile_onnx(path, "sm89").products] == ["FP8"]
    refused = compile_onnx(path, "sm80")
    assert "sm80, because the model contains HW-specific datatypes" in refused.errors[0].message


def test_a_warning_comes_back_with_its_count(tmp_path: Path) -> None:
    arrays: Arrays = [("ws", np.full(16, 0.5, np.float16)), ("wz", np.zeros(16, np.int8))]
    lines = CONV.replace(", s)", ", h)").replace(
        "DQ(W_16x16x3x3)", "DequantizeLinear<axis=0>(W_16x16x3x3, ws, wz)"
    )
    made = compiled(Text(lines, dtype=HALF, arrays=arrays), tmp_path)
    assert {(one.severity, one.count) for one in made.remarks} == {("warning", 1)}
    assert any("scales to fp32" in one.message for one in made.remarks)
    assert made.errors == ()
