"""What is no sound file is said in one sentence; a report says all there is in several forms."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from embedl_deploy.errors import CheckError
from embedl_deploy.onnx_model.loading import LARGE, read_onnx
from embedl_deploy.tensorrt import Report, check_onnx, explain_onnx
from tests.tensorrt.rules.format_cases import CONV, FORMAT, ROWS, TYPES
from tests.tensorrt.rules.models import Text
from tests.tensorrt.rules.placement_cases import LINEAR

CLEAN = Text(CONV)
Arrays = list[tuple[str, NDArray[np.generic]]]


def refused(path: Path) -> str:
    with pytest.raises(CheckError) as caught:
        check_onnx(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def saved(text: str, folder: Path) -> Path:
    return Text(text).save(folder)


# --- bad input ----------------------------------------------------------------------------------


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    assert "No such file" in refused(tmp_path / "gone.onnx")
    assert "is a folder" in refused(tmp_path)


def test_an_unreadable_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    path = CLEAN.save(tmp_path)
    monkeypatch.setattr(Path, "open", fail)
    assert refused(path).endswith(": Permission denied")


@pytest.mark.parametrize(
    "content", [b"", b"\0", b"hello, this is text", b"PK\x03\x04" * 99, b"a" * (2 * LARGE)]
)
def test_what_is_no_onnx_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    assert "is no ONNX file" in refused(path)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("size", [16, 512])
def test_a_truncated_file_is_refused(share: float, size: int, tmp_path: Path) -> None:
    path = saved(f"y = MatMul(x, B_{size}x{size})", tmp_path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    assert "only a part of one" in refused(path)


def test_missing_and_short_external_data_are_named(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    proto = Text("y = MatMul(x, B_64x64)").proto()
    onnx.save(proto, path, save_as_external_data=True, location="model.data", size_threshold=0)
    assert check_onnx(path).ok
    data = tmp_path / "model.data"
    data.write_bytes(data.read_bytes()[:99])
    assert "'model.data', which has 99 bytes" in refused(path)
    data.unlink()
    assert "'model.data' of" in refused(path)
    assert "is missing" in refused(path)


@pytest.mark.parametrize("location", ["../secret", "/etc/passwd", ""])
def test_external_data_outside_the_folder_is_not_read(location: str, tmp_path: Path) -> None:
    proto = Text("y = MatMul(x, B_64x64)").proto()
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    (tmp_path.parent / "secret").write_bytes(bytes(64 * 64 * 4))
    path = tmp_path / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    assert "has to lie in the same folder" in refused(path)


@pytest.mark.parametrize("opset", [7, 12, 25, 99])
def test_an_opset_out_of_range_is_a_finding(opset: int, tmp_path: Path) -> None:
    report = check_onnx(Text(CONV, opset=opset).save(tmp_path))
    assert "F01" in {one.rule for one in report.warnings}
    assert report.ok


def test_an_unknown_domain_is_a_finding(tmp_path: Path) -> None:
    report = check_onnx(saved("a = my.domain.Thing(x)\ny = NoSuchThing(a)", tmp_path))
    assert [one.rule for one in report.warnings] == ["F02", "F02"]
    assert "'my.domain', which needs a plugin" in report.warnings[0].message


def test_a_cycle_is_refused(tmp_path: Path) -> None:
    said = refused(saved("a = Add(x, c)\nb = Relu(a)\nc = Relu(b)\ny = Neg(c)", tmp_path))
    assert "the graph has a cycle: " in said
    assert "Relu 'Relu_b'" in said


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("a = Relu(x)\na = Neg(x)\ny = Add(a, a)", "two values have the name 'a': Relu 'Relu_a'"),
        ("x = Relu(x)\ny = Neg(x)", "two values have the name 'x'"),
    ],
)
def test_names_that_collide_are_refused(lines: str, message: str, tmp_path: Path) -> None:
    assert message in refused(saved(lines, tmp_path))


def test_a_name_that_is_no_text_is_refused(tmp_path: Path) -> None:
    content = CLEAN.save(tmp_path).read_bytes()
    (tmp_path / "model.onnx").write_bytes(content.replace(b"Relu_y", b"Relu\xff\xff"))
    assert "is not UTF-8" in refused(tmp_path / "model.onnx")


@pytest.mark.parametrize("seed", range(60))
def test_a_damaged_file_is_refused_or_checked(seed: int, tmp_path: Path) -> None:
    draw = np.random.default_rng(seed)
    content = bytearray(CLEAN.save(tmp_path).read_bytes())
    for place in draw.integers(0, len(content), 3):
        content[place] = draw.integers(0, 256)
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    try:
        assert str(check_onnx(path))
    except CheckError as error:
        assert "model.onnx" in str(error)  # noqa: PT017 - most of them are refused


def test_a_value_that_nothing_makes_is_refused(tmp_path: Path) -> None:
    proto = Text("y = Add(x, B_16x8x8)").proto()
    del proto.graph.initializer[:]
    onnx.save(proto, tmp_path / "model.onnx")
    assert "Add 'Add_y' reads 'B_16x8x8', which nothing makes" in refused(tmp_path / "model.onnx")
    proto.graph.node[0].input[1] = "x"
    proto.graph.output[0].name = "gone"
    onnx.save(proto, tmp_path / "model.onnx")
    assert "the output 'gone'" in refused(tmp_path / "model.onnx")


def test_data_that_does_not_fit_its_shape_is_refused(tmp_path: Path) -> None:
    proto = CLEAN.proto()
    scale = next(one for one in proto.graph.initializer if one.name == "B_16")
    scale.raw_data = scale.raw_data[:-1]
    onnx.save(proto, tmp_path / "model.onnx")
    assert "'B_16' does not fit its shape [16]" in refused(tmp_path / "model.onnx")


def test_names_of_nodes_may_be_missing_or_repeat(tmp_path: Path) -> None:
    proto = Text(CONV, opset=21, arrays=[("z", np.array(1, np.int8))]).proto()
    for node in proto.graph.node:
        node.name = "same" if node.op_type == "QuantizeLinear" else ""
    onnx.save(proto, tmp_path / "model.onnx")
    report = check_onnx(tmp_path / "model.onnx")
    assert [one.nodes for one in report.errors] == [("same",), ("a",)]


def test_a_path_may_have_spaces_and_other_letters(tmp_path: Path) -> None:
    folder = tmp_path / "två ord – 模型"
    folder.mkdir()
    path = CLEAN.save(folder).rename(folder / "mitt nät.onnx")
    assert check_onnx(str(path)).ok


def test_nodes_out_of_order_are_put_in_order(tmp_path: Path) -> None:
    proto = FORMAT["F04"][0].proto()
    nodes = list(reversed(proto.graph.node))
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    onnx.save(proto, tmp_path / "model.onnx")
    assert {one.rule for one in check_onnx(tmp_path / "model.onnx").errors} == {"F04"}


@pytest.mark.parametrize("version", ["9", "12.x", "10.", "eleven", ""])
def test_a_version_without_rules_is_refused(version: str, tmp_path: Path) -> None:
    with pytest.raises(CheckError, match=r"use 10\.x, 11\.x"):
        check_onnx(CLEAN.save(tmp_path), version)


def test_an_unknown_rule_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckError, match="there is no rule 'X1'"):
        check_onnx(CLEAN.save(tmp_path), ignore=["X1"])


# --- what is looked at --------------------------------------------------------------------------


def test_graphs_in_branches_are_checked(tmp_path: Path) -> None:
    inner = FORMAT["F04"][0].proto()
    branch = inner.graph
    constants = list(branch.initializer)
    del branch.input[:], branch.initializer[:]
    node = helper.make_node(
        "If", ["which"], ["out"], name="if", then_branch=branch, else_branch=branch
    )
    entries = [
        helper.make_tensor_value_info("which", TensorProto.BOOL, []),
        helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 16, 8, 8]),
    ]
    result = [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)]
    graph = helper.make_graph([node], "outer", entries, result, constants)
    onnx.save(helper.make_model(graph, opset_imports=inner.opset_import), tmp_path / "if.onnx")
    assert [one.rule for one in check_onnx(tmp_path / "if.onnx").errors] == ["F04"] * 4


def test_functions_of_the_file_are_checked(tmp_path: Path) -> None:
    proto = Text("y = mine.Rounded(x, s, z)", arrays=[("z", np.array(3, np.int8))]).proto()
    body = [
        helper.make_node("QuantizeLinear", ["a", "b", "c"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "b", "c"], ["d"]),
    ]
    versions = [helper.make_opsetid("", 21)]
    proto.functions.append(
        helper.make_function("mine", "Rounded", ["a", "b", "c"], ["d"], body, versions)
    )
    onnx.save(proto, tmp_path / "model.onnx")
    assert [one.rule for one in check_onnx(tmp_path / "model.onnx").errors] == ["F04", "F04"]


def test_large_weights_stay_in_the_file(tmp_path: Path) -> None:
    weight = np.random.default_rng(0).normal(size=(256, 256)).astype(np.float16)
    weight[200, 200] = np.inf
    path = Text("y = MatMul(x, m)", dtype=TensorProto.FLOAT16, arrays=[("m", weight)]).save(
        tmp_path
    )
    kept = read_onnx(path).graph.initializer[0]
    assert not kept.raw_data
    assert np.array_equal(numpy_helper.to_array(kept, base_dir=str(tmp_path)), weight)
    assert [one.rule for one in check_onnx(path).warnings] == ["T09"]


def test_scales_inside_a_large_file_are_read_through_a_link(tmp_path: Path) -> None:
    scale = np.ones(LARGE, np.float32)
    scale[-1] = 0
    text = "w = DequantizeLinear<axis=0>(m, t)\ny = MatMul(w, x)"
    weight = np.ones((LARGE, 2), np.int8)
    path = Text(text, (("x", (2, 4)),), arrays=[("m", weight), ("t", scale)]).save(tmp_path)
    link = tmp_path / "länk till.onnx"
    link.symlink_to(path)
    assert [one.rule for one in check_onnx(link).errors] == ["F06"]


@pytest.mark.parametrize(("version", "severity"), [("10.x", "error"), ("11.x", "warning")])
def test_a_missing_axis_is_milder_where_its_default_is_right(
    version: str, severity: str, tmp_path: Path
) -> None:
    model = Text("w = DequantizeLinear(W_16x16, B_16, W0_16)\ny = MatMul(x, w)", (("x", (8, 16)),))
    findings = check_onnx(model.save(tmp_path), version).findings
    assert [one.severity.value for one in findings if one.rule == "F09"] == [severity]


def test_what_is_not_known_is_said(tmp_path: Path) -> None:
    dynamic = Text(
        "a = QDQ(x, s)\nw = DQ(W_32x32)\nt = Transpose<perm=[1,0]>(w)\ny = MatMul(a, t)",
        (("x", (None, 32)),),
    )
    report = check_onnx(dynamic.save(tmp_path))
    assert [(one.rule, one.nodes) for one in report.unjudged] == [("P12", ("MatMul_y",))]
    assert "1 rule could not judge every place" in report.summary


@pytest.mark.parametrize(
    ("version", "errors"), [("10.12", 2), ("10.x", 2), ("10.13", 0), ("11", 0)]
)
def test_a_rule_may_depend_on_the_version(version: str, errors: int, tmp_path: Path) -> None:
    """Where the scale is that of a matrix product; an INT8 convolution's is an error always."""
    model = Text(
        LINEAR.replace("a = QDQ(x, s)", "p = ReduceMax<keepdims=0>(x)\na = QDQ(x, p)"), ROWS
    )
    report = check_onnx(model.save(tmp_path), version)
    assert [one.rule for one in report.errors] == ["F05"] * errors
    assert len([one for one in report.findings if one.rule == "F05"]) == 2


PAD = "p = Pad<mode={!r}>({}, I_0_0_1_1_0_0_1_1, v)"
LAST = "\nw = DQ(W_16x16x3x3)\ny = Conv({}, w)"


@pytest.mark.parametrize(
    ("mode", "value", "before", "after"),
    [
        ("constant", 0.0, [], ["P22"]),
        ("reflect", 0.0, [], ["P22"]),
        ("edge", 0.0, [], ["P22"]),
        ("wrap", 0.0, [], ["P22"]),
        ("constant", 1.0, ["P01"], []),
    ],
)
def test_a_pair_stands_before_padding_that_is_exact(
    mode: str, value: float, before: list[str], after: list[str], tmp_path: Path
) -> None:
    arrays: Arrays = [("v", np.array(value, np.float32))]
    first = "a = QDQ(x, s)\n" + PAD.format(mode, "a").replace("'", '"') + LAST.format("p")
    then = PAD.format(mode, "x").replace("'", '"') + "\na = QDQ(p, s)" + LAST.format("a")
    for text, rules in ((first, before), (then, after)):
        report = check_onnx(Text(text, arrays=arrays).save(tmp_path))
        assert [one.rule for one in report.warnings] == rules


@pytest.mark.parametrize(("scale", "rules"), [("s", []), ("s1", ["P01"])])
def test_a_concatenation_of_one_scale_is_quantized(
    scale: str, rules: list[str], tmp_path: Path
) -> None:
    text = f"a = QDQ(x, s)\nb = QDQ(r, {scale})\nk = Concat<axis=2>(a, b)" + LAST.format("k")
    model = Text(text, (("x", (1, 16, 8, 8)), ("r", (1, 16, 8, 8))))
    assert [one.rule for one in check_onnx(model.save(tmp_path)).warnings] == rules
    kernels = explain_onnx(tmp_path / "model.onnx").kernels
    assert [one.dtype for one in kernels if one.macs] == ["FP32" if rules else "INT8"]


@pytest.mark.parametrize(
    ("between", "findings"),
    [
        ("m = MaxPool<kernel_shape=[2,2]>(q)", []),
        ("m = Transpose<perm=[0,1,3,2]>(q)", []),
        ("m = Concat<axis=2>(q, q)", []),
        ("m = Relu(q)", 2 * [("F10", "warning")]),
    ],
)
def test_quantized_values_pass_what_keeps_values(
    between: str, findings: list[tuple[str, str]], tmp_path: Path
) -> None:
    text = f"q = QuantizeLinear(x, s, z)\n{between}\na = DequantizeLinear(m, s, z)" + LAST.format(
        "a"
    )
    report = check_onnx(Text(text).save(tmp_path))
    found = [(one.rule, one.severity.value) for one in report.findings]
    assert [one for one in found if one[1] != "info"] == findings


@pytest.mark.parametrize(("shape", "severity"), [((), None), ((1,), "warning"), ((1, 1), "error")])
def test_one_scale_is_a_scalar(
    shape: tuple[int, ...], severity: str | None, tmp_path: Path
) -> None:
    arrays: Arrays = [("s", np.full(shape, 0.1, np.float32)), ("z", np.zeros(shape, np.int8))]
    path = Text("a = QDQ(x, s)" + LAST.format("a"), arrays=arrays).save(tmp_path)
    found = {one.severity.value for one in check_onnx(path).findings if one.rule == "F07"}
    assert found == ({severity} if severity else set())
    types = [one.dtype for one in explain_onnx(path).kernels if one.macs]
    assert types == ["FP32" if shape else "INT8"]


@pytest.mark.parametrize(("scale", "rule"), [("s", "F10"), ("s1", "P07")])
def test_a_pair_right_after_another_is_found(scale: str, rule: str, tmp_path: Path) -> None:
    model = Text(f"a = QDQ(x, s)\nb = QDQ(a, {scale})" + LAST.format("b"))
    assert [one.rule for one in check_onnx(model.save(tmp_path)).warnings] == [rule]


def test_one_cause_is_said_once(tmp_path: Path) -> None:
    (found,) = [
        one for one in check_onnx(TYPES["T06"][0].save(tmp_path)).findings if one.rule == "T06"
    ]
    assert len(found.nodes) == 3


@pytest.mark.parametrize("opset", [17, 21])
def test_pairs_of_tensorrts_own_are_read_as_fp8(opset: int, tmp_path: Path) -> None:
    pair = "{0}q = trt.TRT_FP8QuantizeLinear({0}, h)\n{0}d = trt.TRT_FP8DequantizeLinear({0}q, h)\n"
    text = pair.format("x") + pair.format("w") + "y = Conv(xd, wd)"
    arrays: Arrays = [("w", np.ones((32, 32, 3, 3), np.float16))]
    model = Text(text, (("x", (1, 32, 8, 8)),), TensorProto.FLOAT16, opset, arrays)
    report = check_onnx(model.save(tmp_path))
    assert [one.rule for one in report.findings if one.severity.value != "info"] == []
    assert dict(explain_onnx(tmp_path / "model.onnx").shares) == {"FP8": 1.0}
    one = Text(pair.format("x") + "y = Conv(xd, w)", model.inputs, model.dtype, opset, arrays)
    assert [one.rule for one in check_onnx(one.save(tmp_path)).warnings] == ["P01"]


def test_pairs_that_no_rule_reads_are_named(tmp_path: Path) -> None:
    model = Text("y = trt.TRT_INT4QuantizeLinear(x, h)", dtype=TensorProto.FLOAT16)
    assert [one.rule for one in check_onnx(model.save(tmp_path)).unjudged] == ["F03"]


def test_nodes_may_be_kept_in_float32(tmp_path: Path) -> None:
    text = "f = Cast<to=1>(x)\np = Softmax(f)\nh = Cast<to=10>(p)\ny = MatMul(h, H_8x8)"
    path = Text(text, dtype=TensorProto.FLOAT16).save(tmp_path)
    assert [one.rule for one in check_onnx(path).warnings] == ["T04"]
    assert [one.rule for one in check_onnx(path, keep_float32=["*_q"]).warnings] == ["T04"]
    for name in ("Softmax", "Softmax_p", "*_p"):
        assert not check_onnx(path, keep_float32=[name]).warnings


# --- reports ------------------------------------------------------------------------------------


def broken(folder: Path) -> Report:
    return check_onnx(FORMAT["F04"][0].save(folder))


def test_a_report_says_all_in_its_forms(tmp_path: Path) -> None:
    report = broken(tmp_path)
    assert not report.ok
    assert len(report.errors) + len(report.warnings) + len(report.infos) == len(report.findings)
    assert report.errors[0].nodes == ("QuantizeLinear_a_q",)
    assert report.errors[0].remedy
    values = json.loads(json.dumps(report.to_dict()))
    assert values["ok"] is False
    assert values["errors"] == len(report.errors) == 2
    assert values["findings"][0]["rule"] == "F04"
    assert len(values["rules"]) == 53


def test_a_report_prints_as_tables(tmp_path: Path) -> None:
    lines = str(broken(tmp_path)).splitlines()
    assert lines[0].startswith("Rule  Severity  Count  First at")
    assert lines[2].split()[:4] == ["F04", "error", "2", "QuantizeLinear_a_q"]
    assert lines[-1] == "2 errors, 0 warnings, 2 notes by 53 rules for TensorRT 11.x"


def test_ignored_rules_are_not_run(tmp_path: Path) -> None:
    report = check_onnx(FORMAT["F04"][0].save(tmp_path), ignore=["F04", "P21"])
    assert report.ok
    assert report.ignored == ("F04", "P21")
    assert len(report.rules) == 51
