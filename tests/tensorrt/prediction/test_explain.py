"""An explanation's figures are those of the model that was exported, and of other tools' files."""

import json
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

from benchmarks.other_tools import by_onnx_runtime, residual
from embedl_deploy import transform
from embedl_deploy.errors import CheckError
from embedl_deploy.export import export_onnx
from embedl_deploy.quantize import quantize
from embedl_deploy.tensorrt import (
    TENSORRT_FP8_CONFIG,
    Basis,
    Explanation,
    Kernel,
    check_onnx,
    compile_onnx,
    explain_onnx,
)
from tests.tensorrt.rules.format_cases import CONV
from tests.tensorrt.rules.found_cases import FOUND
from tests.tensorrt.rules.models import Text
from tests.tensorrt.rules.nets import NETS, exported
from tests.tensorrt.rules.placement_cases import LAST, attention, fp8_attention

LAYERS = {"convolution", "convolution + addition", "matrix product", "norm", "attention", "pooling"}


def explained(model: Text, folder: Path, **options: object) -> Explanation:
    return explain_onnx(model.save(folder), **options)  # type: ignore[arg-type]


def only(explanation: Explanation, rule: str) -> Kernel:
    (found,) = [one for one in explanation.kernels if one.rules[0] == rule]
    return found


# --- our own files ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["residual", "head", "full"])
def test_kernels_are_the_fused_modules_and_all_is_int8(name: str, tmp_path: Path) -> None:
    make, shape = NETS[name]
    result = transform(make().eval(), (torch.zeros(shape),))
    exported(name, tmp_path)
    found = explain_onnx(tmp_path / f"{name}.onnx")
    layers = sum(count for kind, count in found.counts.items() if kind in LAYERS)
    assert layers == result.fused.total()
    assert result.coverage is not None
    assert found.macs == {"INT8": result.coverage.total}
    assert found.shares == {"INT8": 1.0}
    assert not found.refusals


def test_a_half_precision_file_computes_the_rest_in_half(tmp_path: Path) -> None:
    file = exported("block", tmp_path, "float16")
    found = explain_onnx(tmp_path / "block.onnx")
    assert set(found.macs) == {"INT8", "FP16"}
    assert found.shares["INT8"] == pytest.approx(17 / 18)  # one of two products of attention
    assert only(found, "K02").reason == "no fused attention: it is quantized in part: softmax not"
    names = Counter(name for one in found.kernels for name in one.nodes)
    names.update(name for one in found.asides for name in one.nodes)
    assert names == Counter(node.name for node in file.graph.node)


def test_fp8_is_a_type_of_its_own(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 32)).eval()
    example = (torch.randn(2, 32),)
    quantized = quantize(transform(model, example), [example], TENSORRT_FP8_CONFIG)
    found = explain_onnx(export_onnx(quantized, example, tmp_path / "fp8.onnx"))
    assert found.macs == {"FP8": 2 * 2 * 32 * 32}
    assert found.counts == {"matrix product": 2, "quantize": 1}


def test_a_weight_of_four_bits_is_taken_in_and_the_product_stays_in_half(tmp_path: Path) -> None:
    weight = np.ones((32, 32), ml_dtypes.int4)
    scale = np.ones((2, 32), np.float16)
    model = Text(
        "w = DequantizeLinear<axis=0, block_size=16>(m, t)\ny = MatMul(x, w)",
        (("x", (4, 32)),),
        TensorProto.FLOAT16,
        arrays=[("m", weight), ("t", scale)],
    )
    found = only(explained(model, tmp_path), "K08")
    assert (found.dtype, found.folded) == ("FP16", ("DequantizeLinear_w",))
    assert found.reason == "its weight alone is quantized"


# --- files of other tools -----------------------------------------------------------------------


def test_a_file_of_onnx_runtime_shows_what_is_lost(tmp_path: Path) -> None:
    onnx.save(residual(), tmp_path / "float.onnx")
    by_onnx_runtime(tmp_path / "float.onnx", tmp_path / "quantized.onnx")
    before, after = (explain_onnx(tmp_path / f"{name}.onnx") for name in ("float", "quantized"))
    assert before.counts["convolution + addition"] == 1
    assert "convolution + addition" not in after.counts  # pairs at both inputs of the addition
    assert only(after, "K12").nodes[1] == "residual"
    assert only(after, "K20").reason == "an output of the file takes the value in floating point"
    biases = {name for one in after.asides if one.rule == "N02" for name in one.nodes}
    assert biases == {f"b{index}_DequantizeLinear" for index in (1, 2, 3)}
    assert len(after.refusals) == len(check_onnx(tmp_path / "quantized.onnx").errors) == 17
    assert "refuses the file as it is: 17 errors by check_onnx" in str(after)


def test_graphs_in_branches_are_explained(tmp_path: Path) -> None:
    inner = Text("y = Relu(x)").proto()
    constants = list(inner.graph.initializer)
    del inner.graph.input[:]
    ends = [
        helper.make_tensor_value_info("which", TensorProto.BOOL, []),
        helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 16, 8, 8]),
    ]
    branches = {"then_branch": inner.graph, "else_branch": inner.graph}
    node = helper.make_node("If", ["which"], ["out"], name="if", **branches)
    result = [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)]
    graph = helper.make_graph([node], "outer", ends, result, constants)
    onnx.save(helper.make_model(graph, opset_imports=inner.opset_import), tmp_path / "if.onnx")
    found = explain_onnx(tmp_path / "if.onnx")
    assert found.counts == {"pointwise": 2, "other": 1}


# --- why ----------------------------------------------------------------------------------------

REASONS = {
    "K16": (
        'p = Pad<mode="reflect">(x, I_0_0_1_1_0_0_1_1)\ny = Conv(p, B_16x16x3x3)',
        "K16",
        "",
    ),
    "K19 input": (CONV, "K19", "it reads an input of the file, which is in floating point"),
    "K19 float": (
        "c = Softmax(x)\na = QDQ(c, s)\nw = DQ(W_16x16x1x1)\ny = Conv(a, w)",
        "K19",
        "Softmax 'Softmax_c' before it computes in floating point",
    ),
    "K20": (
        "a = QDQ(x, s)\nb = Softmax(a)\ny = Relu(b)",
        "K20",
        "Softmax 'Softmax_b' takes the value in floating point",
    ),
    "K13": (
        "a = QDQ(x, s)\nb = Relu(a)\ny = Softmax(b)",
        "K13",
        "it reads quantized values, and gives Softmax 'Softmax_y' others",
    ),
    "K04": (
        CONV.rpartition("\n")[0] + "\nn = Add(c, x)" + LAST.format("n"),
        "K04",
        "its residual is in floating point, which decides the type of what it gives",
    ),
}


@pytest.mark.parametrize(("lines", "rule", "reason"), REASONS.values(), ids=REASONS)
def test_a_prediction_says_why(lines: str, rule: str, reason: str, tmp_path: Path) -> None:
    assert only(explained(Text(lines), tmp_path), rule).reason == reason


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (attention(head=24), "INT8 attention has heads of 24"),
        (attention(positions=513), "INT8 attention has 513 positions"),
        (attention(p="p1 = Identity(p)"), "it is quantized in part: softmax not"),
    ],
)
def test_attention_that_is_not_fused_says_why(model: Text, reason: str, tmp_path: Path) -> None:
    assert only(explained(model, tmp_path), "K02").reason == f"no fused attention: {reason}"


def test_fp8_attention_of_few_keys_is_not_fused_as_compiled(tmp_path: Path) -> None:
    softmax = only(explained(fp8_attention(key=31), tmp_path), "K02")
    why = "FP8 attention has 31 positions of the key, and none is fused below 32"
    assert (softmax.reason, softmax.basis) == (f"no fused attention: {why}", Basis.COMPILED)
    products = [one for one in explained(fp8_attention(key=31), tmp_path).kernels if one.macs]
    assert [one.dtype for one in products] == ["FP8", "FP8", "FP16"]
    for model in (fp8_attention(query=1), fp8_attention(key=32), attention(positions=4)):
        assert only(explained(model, tmp_path), "K01").basis is Basis.DOCUMENTED


@pytest.mark.skipif(
    find_spec("tensorrt_rtx_bindings") is None, reason="TensorRT for RTX is not installed"
)
@pytest.mark.parametrize("name", FOUND)
def test_what_was_found_is_what_the_compiler_does(name: str, tmp_path: Path) -> None:
    path = FOUND[name].text.save(tmp_path)
    made, kernels = compile_onnx(path, "rtx4090", compiler="rtx"), explain_onnx(path).kernels
    types = {node: one.dtype for one in kernels for node in one.nodes}
    assert bool(FOUND[name].errors) == (not made.built)
    assert {one.node: one.computed for one in made.products} == {
        one.node: types[one.node] for one in made.products
    }
    fused = [one for one in kernels if one.rules[0] == "K01"]
    assert len(fused) == sum(bool(one.reads) for one in made.attentions)


def test_what_depends_on_the_gpu_is_unknown(tmp_path: Path) -> None:
    lines = "a = QDQ(x, s)\nw = DQ(W_16x1x3x3)\ny = Conv<group=16>(a, w)"
    found = only(explained(Text(lines), tmp_path), "K05")
    assert (found.basis, "depends on the GPU" in found.reason) == (Basis.UNKNOWN, True)


def test_one_kernel_quantizes_a_tensor_for_all_its_readers(tmp_path: Path) -> None:
    one = "{0} = QDQ(x, s)\nw{0} = DQ(W_16x16x1x1)\n{1} = Conv({0}, w{0})\n"
    lines = one.format("a", "c") + one.format("b", "d") + "y = Add(c, d)"
    found = only(explained(Text(lines), tmp_path), "K19")
    assert found.nodes == ("QuantizeLinear_a_q", "QuantizeLinear_b_q")


# --- sizes --------------------------------------------------------------------------------------

FREE = Text("y = MatMul(x, B_16x32)", (("x", (None, None, 16)),))

MACS = {
    "grouped": (Text("y = Conv<group=4>(x, B_8x4x3x3)"), 6 * 6 * 8 * 4 * 9),
    "transposed": (Text("y = ConvTranspose(x, B_16x4x2x2)"), 16 * 64 * 4 * 4),
    "rows": (Text("y = Gemm<transA=1>(x, B_5x3)", (("x", (5, 7)),)), 7 * 3 * 5),
    "batch": (Text("y = MatMul(x, x)", (("x", (2, 3, 4, 4)),)), 2 * 3 * 4 * 4 * 4),
    "attention": (
        Text("y = Attention(q, q, v)", (("q", (1, 2, 8, 16)), ("v", (1, 2, 8, 4))), opset=23),
        2 * 8 * 8 * (16 + 4),
    ),
    "flat attention": (
        Text(
            "y = Attention<q_num_heads=2, kv_num_heads=2>(q, q, v)",
            (("q", (1, 8, 32)), ("v", (1, 8, 8))),
            opset=23,
        ),
        8 * 8 * (32 + 8),
    ),
}


@pytest.mark.parametrize(("model", "count"), MACS.values(), ids=MACS)
def test_multiply_accumulates_are_counted(model: Text, count: int, tmp_path: Path) -> None:
    assert explained(model, tmp_path).macs == {"FP32": count}


def test_open_sizes_are_said_and_can_be_given(tmp_path: Path) -> None:
    found = explained(FREE, tmp_path)
    assert found.uncounted == ("MatMul_y",)
    assert found.kernels[0].macs is None
    assert found.assumed == (
        "the first size of the input 'x' is taken as 1",
        "the input 'x' has sizes that are not fixed: 1×?×16",
    )
    assert "are not known; 1 operator not counted" in found.summary
    for name in ("", "x"):
        given = explained(FREE, tmp_path, shapes={name: (2, 5, 16)})
        assert (given.macs, given.assumed) == ({"FP32": 2 * 5 * 16 * 32}, ())


def test_sizes_follow_through_arithmetic_on_shapes(tmp_path: Path) -> None:
    lines = "s0 = Shape(x)\nn = Gather(s0, I_0)\nt = Concat<axis=0>(n, I_16_64)\n"
    model = Text(lines + "r = Reshape(x, t)\ny = MatMul(r, B_64x2)", (("x", (None, 16, 8, 8)),))
    assert explained(model, tmp_path, shapes={"": (3, 16, 8, 8)}).macs == {"FP32": 3 * 16 * 64 * 2}


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        ({"z": (1, 2, 16)}, "does not have an input 'z'; its inputs are x"),
        ({"x": (2, 16)}, "has 3 dimensions, not 2"),
        ({"x": (2, 5, 15)}, "has 16 where 15 was given"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(
    shapes: dict[str, tuple[int, ...]], words: str, tmp_path: Path
) -> None:
    with pytest.raises(CheckError, match=words):
        explained(FREE, tmp_path, shapes=shapes)


def test_a_name_is_needed_where_there_are_several_inputs(tmp_path: Path) -> None:
    model = Text("y = Add(a, b)", (("a", (None, 2)), ("b", (None, 2))))
    with pytest.raises(CheckError, match="its inputs are a, b"):
        explained(model, tmp_path, shapes={"": (1, 2)})


# --- forms --------------------------------------------------------------------------------------


def test_an_explanation_says_all_in_its_forms(tmp_path: Path) -> None:
    found = explained(Text(CONV), tmp_path)
    values = json.loads(json.dumps(found.to_dict()))
    assert values["shares"] == {"INT8": 1.0}
    assert values["kernels"][1]["rules"] == ["K05", "Q01", "Q03"]
    assert values["kernels"][1]["basis"] == "documented"
    lines = str(found).splitlines()
    assert lines[0].startswith("Rule  Kernel       Type  Count  Arithmetic  Basis")
    assert lines[-1].startswith("2 kernels (1 documented, 1 reported) for ")


def test_a_model_without_arithmetic_says_so(tmp_path: Path) -> None:
    found = explained(Text("y = Relu(x)"), tmp_path)
    assert found.summary == "1 kernel (1 documented) for 1 operator; nothing multiplies"


@pytest.mark.parametrize("seed", range(30))
def test_a_damaged_file_is_refused_or_explained(seed: int, tmp_path: Path) -> None:
    draw = np.random.default_rng(seed)
    content = bytearray(Text(CONV).save(tmp_path).read_bytes())
    for place in draw.integers(0, len(content), 3):
        content[place] = draw.integers(0, 256)
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    try:
        assert str(explain_onnx(path))
    except CheckError as error:
        assert "model.onnx" in str(error)  # noqa: PT017 - most of them are refused
