"""Half-precision files: typed throughout, and compared on the values that they hold."""

import logging
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto
from torch import Tensor, fx, nn

from embedl_deploy import transform
from embedl_deploy.errors import ExportError, VerificationError
from embedl_deploy.export import OnnxModel, export_onnx, verify_onnx
from embedl_deploy.export.lower import fold
from embedl_deploy.export.operators import DequantizedWeight
from embedl_deploy.export.precision import Keep, Precision, kept_nodes, round_values
from embedl_deploy.modules import FusedModule
from embedl_deploy.quantize import QuantConfig, QuantStub, quantize
from embedl_deploy.tensorrt import TENSORRT, check_onnx
from tests.export import files
from tests.export.cases import CASES, Case
from tests.helpers import warm

Half = Literal["float16", "bfloat16"]
CODES = {"float16": TensorProto.FLOAT16, "bfloat16": TensorProto.BFLOAT16}


@cache
def quantized(name: str, attention: Literal["inputs", "full"] = "inputs") -> fx.GraphModule:
    case = CASES[name]
    torch.manual_seed(0)
    model = case.make().eval()
    result = transform(model if name == "factors" else warm(model), case.args())
    return quantize(result, case.batches(), QuantConfig(attention=attention))


def types(path: Path) -> dict[str, int]:
    """The element type of every tensor in the file, from onnx's own inference."""
    model = onnx.shape_inference.infer_shapes(onnx.load(path), strict_mode=True)
    graph = model.graph
    known = {
        one.name: one.type.tensor_type.elem_type
        for one in (*graph.input, *graph.output, *graph.value_info)
    }
    known |= {one.name: one.data_type for one in graph.initializer}
    made = {name for node in graph.node for name in node.output}
    assert made <= set(known)
    return known


def single(path: Path) -> list[str]:
    """The operators that give float32."""
    known = types(path)
    return sorted(n.op_type for n in onnx.load(path).graph.node if known[n.output[0]] == 1)


@pytest.mark.parametrize("name", CASES)
def test_a_half_file_is_half_throughout(name: str, tmp_path: Path) -> None:
    case, model = CASES[name], quantized(name)
    before = {key: one.clone() for key, one in model.state_dict().items()}
    path = export_onnx(model, case.args(), tmp_path / "model.onnx", precision="float16")
    assert all(torch.equal(one, before[key]) for key, one in model.state_dict().items())
    file = files.File(path)
    if name == "points":  # PyTorch spells an RMS norm in float32
        assert file.ops()["Cast"] == 2
    else:
        floating = {code for code in types(path).values() if code in {1, 10, 11, 16}}
        assert floating == {TensorProto.FLOAT16}
        assert "Cast" not in file.ops()
    files.assert_pairs(file, model, "float16")
    files.assert_attention(file, model)
    files.assert_no_leftovers(file, model)
    after = [node for node in file.nodes if ".affine/" in node.name]
    moved = [node for node in after if file.maker[node.input[0]].op_type != "MatMul"]
    for op, count in case.single:  # a bias is added after its layer
        assert file.ops()[op] == count + [node.op_type for node in moved].count(op)
    files.assert_weights(file, model, "float16")
    parity = verify_onnx(path, model, case.batches())
    if name == "factors":  # its outputs go up to two millions
        assert "outputs are infinite" in str(parity)
        return
    assert parity.only_ties, parity
    assert parity.sqnr_db > 30


@pytest.mark.parametrize("name", ["residual", "attention"])
def test_bfloat16_is_compared_in_float32(name: str, tmp_path: Path) -> None:
    case, model = CASES[name], quantized(name)
    path = export_onnx(model, case.args(), tmp_path / "model.onnx", precision="bfloat16")
    onnx.checker.check_model(path, full_check=True)
    floating = {code for code in types(path).values() if code in {1, 10, 11, 16}}
    assert floating == {TensorProto.BFLOAT16}
    for stubs in (True, False):
        parity = verify_onnx(path, model, case.batches(), stubs=stubs)
        assert parity.only_ties is stubs
        assert parity.sqnr_db > 100


@pytest.mark.parametrize("precision", ["float32", "float16"])
@pytest.mark.parametrize("attention", ["inputs", "full"])
def test_attention_may_be_one_operator(
    attention: Literal["inputs", "full"], precision: Any, tmp_path: Path
) -> None:
    case, model = CASES["attention"], quantized("attention", attention)
    path = tmp_path / "model.onnx"
    export_onnx(model, case.args(), path, precision=precision, attention_op=True, opset=23)
    assert files.File(path).ops()["Attention"] == (2 if attention == "inputs" else 0)
    assert verify_onnx(path, model, case.batches()).only_ties


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_quantized_probabilities_are_a_pair_behind_the_softmax(
    precision: Any, tmp_path: Path
) -> None:
    case, model = CASES["attention"], quantized("attention", "full")
    path = export_onnx(model, case.args(), tmp_path / "model.onnx", precision=precision)
    file = files.File(path)
    for softmax in file.named("Softmax"):
        (pair,) = file.readers(softmax)
        assert pair.op_type == "QuantizeLinear"
    files.assert_attention(file, model)
    parity = verify_onnx(path, model, case.batches())
    assert parity.only_ties, parity
    assert len(parity.stubs) == len(files.stubs_of(model))


@pytest.mark.parametrize("opset", [18, 22, 24])
def test_other_opsets_compute_the_same(opset: int, tmp_path: Path) -> None:
    case, model = CASES["attention"], quantized("attention")
    path = export_onnx(model, case.args(), tmp_path / "model.onnx", opset=opset)
    assert [one.version for one in files.File(path).model.opset_import] == [opset]
    assert verify_onnx(path, model, case.batches()).only_ties


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_weights_in_floating_point_round_to_the_same_integers(
    precision: Any, tmp_path: Path
) -> None:
    model, case = quantized("residual"), CASES["residual"]
    paths = [tmp_path / "int8.onnx", tmp_path / "float.onnx"]
    for path, weights in zip(paths, ("int8", "float"), strict=True):
        export_onnx(model, case.args(), path, precision=precision, quantized_weights=weights)  # type: ignore[arg-type]
    file = files.File(paths[1])
    pairs = [one for one in file.named("QuantizeLinear") if one.input[0] in file.constants]
    assert len(pairs) == len(files.quantizers_of(model))
    integers = {
        one.name.removesuffix("/DequantizeLinear"): files.File(paths[0]).constants[one.input[0]]
        for one in files.File(paths[0]).named("DequantizeLinear")
        if one.input[0] in files.File(paths[0]).constants
    }
    for pair in pairs:
        weight, scale, zero_point = (file.constants[name] for name in pair.input)
        assert files.attributes(pair) == {"axis": 0}
        assert zero_point.dtype == np.int8
        steps = weight.astype(np.float64) / scale.astype(np.float64).reshape(-1, 1, 1, 1)
        assert np.array_equal(np.rint(steps), integers[pair.name.removesuffix("/QuantizeLinear")])
    parity = verify_onnx(paths[1], model, case.batches())
    assert parity.only_ties, parity


# --- what stays in float32 ----------------------------------------------------------------------

KEPT: dict[str, tuple[list[Keep], list[str]]] = {
    "norms by type": ([nn.LayerNorm], ["Cast", "LayerNormalization"]),
    "softmax by path": (["*.softmax"], ["Cast", "Cast", "Softmax", "Softmax"]),
    "one softmax": (["own.*.softmax"], ["Cast", "Softmax"]),
    "softmax by type": ([nn.Softmax], ["Cast", "Cast", "Softmax", "Softmax"]),
}


@pytest.mark.parametrize("case", KEPT)
def test_what_is_listed_stays_in_float32(case: str, tmp_path: Path) -> None:
    keep, ops = KEPT[case]
    model, args = quantized("attention", "full"), CASES["attention"].args()
    path = tmp_path / "model.onnx"
    export_onnx(model, args, path, precision="float16", keep_float32=keep)
    assert single(path) == ops
    file = files.File(path)
    for node in file.named("QuantizeLinear"):
        source = file.maker.get(node.input[0])
        assert source is None or source.op_type != "Cast"
    for node in file.named("DequantizeLinear"):
        assert "Cast" not in {one.op_type for one in file.readers(node)}
    assert verify_onnx(path, model, CASES["attention"].batches()).only_ties


def test_a_kept_layer_between_pairs_needs_no_cast(tmp_path: Path) -> None:
    case, model = CASES["residual"], quantized("residual")
    path = tmp_path / "model.onnx"
    export_onnx(model, case.args(), path, precision="float16", keep_float32=["short"])
    assert "Cast" not in files.File(path).ops()
    assert single(path) == ["Add", "Conv", "DequantizeLinear", "DequantizeLinear"]
    assert verify_onnx(path, model, case.batches()).only_ties


def test_inputs_and_outputs_may_stay_in_float32(tmp_path: Path) -> None:
    case, model = CASES["residual"], quantized("residual")
    path = tmp_path / "model.onnx"
    export_onnx(model, case.args(), path, precision="float16", float32_io=True)
    assert single(path) == ["Cast"]  # after the last operator: the first pair takes float32
    assert files.File(path).nodes[-1].op_type == "Cast"
    assert OnnxModel(path)(*case.args())["output"].dtype == torch.float32
    assert verify_onnx(path, model, case.batches()).only_ties


class Ranges(nn.Module):
    """A tensor beyond float16, one below its normal numbers, and a weight beyond it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = (nn.Linear(8, 8, bias=False) for _ in range(3))
        with torch.no_grad():
            self.second.weight.mul_(3e-11)
            self.third.weight.mul_(1e7)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x * 1e6)
        return self.third(self.second(y))


def test_what_half_precision_can_not_hold_stays_in_float32(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.manual_seed(0)
    args = (torch.randn(4, 8),)
    with torch.no_grad():
        model = quantize(transform(Ranges(), args), [args])
    path = tmp_path / "model.onnx"
    with caplog.at_level(logging.WARNING, logger="embedl_deploy"):
        export_onnx(model, args, path, precision="float16")
    said = "\n".join(record.getMessage() for record in caplog.records)
    assert "'mul_stub' and 1 more like it stay in float32: values up to" in said
    assert "'second_stub' stays in float32: its scale of" in said
    assert "'third' stays in float32: a weight of" in said
    parity = verify_onnx(path, model, [args])
    assert parity.only_ties, parity
    assert torch.isfinite(OnnxModel(path)(*args)["output"]).all()


@pytest.mark.parametrize("size", [1e-5, 1e6])
def test_inputs_beyond_half_precision_stay_in_float32(size: float, tmp_path: Path) -> None:
    torch.manual_seed(0)
    args = (torch.randn(4, 3, 6, 6) * size,)
    conv = nn.Conv2d(3, 4, 1)
    conv.weight.data.div_(size)
    model = quantize(transform(nn.Sequential(conv, nn.ReLU()).eval(), args), [args])
    path = export_onnx(model, args, tmp_path / "m.onnx", precision="float16")
    assert files.File(path).model.graph.input[0].type.tensor_type.elem_type == TensorProto.FLOAT
    assert verify_onnx(path, model, [args]).only_ties
    assert "F10" not in {one.rule for one in check_onnx(path).findings}


def test_listing_everything_leaves_pairs_with_one_scale(tmp_path: Path) -> None:
    torch.manual_seed(0)
    args = (torch.randn(4, 3, 6, 6),)
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.MaxPool2d(2), nn.Conv2d(4, 4, 1)).eval()
    model = quantize(transform(net, args), [args])
    path = export_onnx(model, args, tmp_path / "m.onnx", precision="float16", keep_float32=["*"])
    assert verify_onnx(path, model, [args]).only_ties
    assert "F10" not in {one.rule for one in check_onnx(path).findings}


def test_layers_that_stay_in_float32_for_one_reason_are_warned_of_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    layers = [nn.Linear(4, 4) for _ in range(3)]
    for layer in layers:
        layer.weight.data.mul_(1e6)
    model = nn.Sequential(*layers).eval()
    caplog.set_level(logging.INFO, logger="embedl_deploy")
    export_onnx(transform(model), (torch.ones(1, 4),), tmp_path / "m.onnx", precision="float16")
    warned = [one.getMessage() for one in caplog.records if one.levelno == logging.WARNING]
    (said,) = [one for one in warned if "float32" in one]
    assert "'0' and 2 more like it stay in float32: a weight of" in said
    assert said.endswith("is beyond float16")
    assert "'2' stays in float32" in caplog.text


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        (["nothing.*"], r"lists 'nothing\.\*', which fits no module"),
        ([nn.GRU], "which fits no module"),
        ("*.softmax", "pass a list of patterns or types"),
    ],
)
def test_a_list_that_fits_nothing_is_refused(keep: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=message):
        export_onnx(
            quantized("attention"),
            CASES["attention"].args(),
            tmp_path / "model.onnx",
            precision="float16",
            keep_float32=keep,
        )
    assert not list(tmp_path.iterdir())


# --- the values of constants --------------------------------------------------------------------


def test_scales_below_the_normal_numbers_are_raised() -> None:
    torch.manual_seed(0)
    model = quantize(transform(nn.Linear(16, 4)), [torch.randn(8, 16)])
    folded = fold(model)
    (weight,) = (one for one in folded.modules() if isinstance(one, DequantizedWeight))
    weight.scale[1] = 2e-5
    exact = weight.values()
    round_values(folded, torch.float16, kept_nodes(folded, torch.float16), TENSORRT.lowering)
    least = torch.finfo(torch.float16).smallest_normal
    assert weight.scale.min() == least
    assert (weight.values() - exact).abs()[1].max() <= least / 2
    assert (weight.scale.half().float() == weight.scale).all()


def test_the_factor_before_a_query_changes_no_integer() -> None:
    """`round(q·f / (s·f))` is `round(q / s)`: exactly for powers of two, else but for ties."""
    generator = torch.Generator().manual_seed(0)
    query, scale = torch.randn(10_000, generator=generator), torch.tensor(0.0237)
    for factor in (0.25, 0.125, 64**-0.5):
        assert torch.equal((query * factor / (scale * factor)).round(), (query / scale).round())
    for factor in (48**-0.5, 0.3, 7.0):
        apart = (query * factor / (scale * factor)).round() != (query / scale).round()
        steps = (query / scale)[apart]
        assert ((steps - steps.floor() - 0.5).abs() < 1e-4).all()


def test_the_simulation_of_a_half_file_has_its_scales() -> None:
    folded = fold(quantized("residual"))
    round_values(folded, torch.float16, {}, TENSORRT.lowering)
    for one in folded.modules():
        if isinstance(one, QuantStub | DequantizedWeight):
            assert one.scale.dtype == torch.float32
            assert torch.equal(one.scale.half().float(), one.scale)


class Scaled(nn.Module):
    """Attention with a factor of its own."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return nn.functional.scaled_dot_product_attention(q, k, v, scale=self.scale)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("scale", [0.0, -0.5, -2.0])
def test_a_factor_that_can_not_move_stays_at_the_logits(
    scale: float,
    fused: bool,  # noqa: FBT001 - a parameter of the test
    tmp_path: Path,
) -> None:
    """Attention is then not quantized; a pattern of one's own may do so all the same."""
    args = tuple(torch.randn(1, 2, 5, 8) for _ in range(3))
    result = transform(Scaled(scale), args)
    (match,) = result.matches
    assert "one above zero" in match.kept_float
    (module,) = (one for one in result.model.modules() if isinstance(one, FusedModule))
    assert module.qdq_points == ()
    model = result.model
    if fused:
        module.qdq_points, module.kept_float = match.pattern.qdq_points, ""
        model = quantize(result, [args], QuantConfig(attention="inputs"))
    path = export_onnx(model, args, tmp_path / "model.onnx")
    assert verify_onnx(path, model, [args]).only_ties


def test_a_head_size_that_was_not_known_is_found(tmp_path: Path) -> None:
    case = Case(lambda: Scaled(1.0), ((1, 2, 5, 8), (1, 2, 7, 8), (1, 2, 7, 8)))
    source = Scaled(1.0)
    source.scale = None  # type: ignore[assignment]
    config = QuantConfig(attention="inputs")
    model = quantize(transform(source), case.batches(), config)
    path = export_onnx(model, case.args(), tmp_path / "model.onnx", precision="float16")
    assert verify_onnx(path, model, case.batches()).only_ties


# --- choices ------------------------------------------------------------------------------------

CHOICES: dict[str, tuple[dict[str, Any], str]] = {
    "precision": ({"precision": "fp16"}, "'fp16' is no precision; choose 'float32', 'float16'"),
    "old opset": ({"opset": 17}, "opset 17 is not between 18 and 24"),
    "new opset": ({"opset": 25}, "opset 25 is not between 18 and 24"),
    "half opset": ({"precision": "float16", "opset": 18}, "float16 needs opset 19, not 18"),
    "bfloat16 opset": ({"precision": "bfloat16", "opset": 21}, "bfloat16 needs opset 22"),
    "attention": ({"attention_op": True, "opset": 21}, "Attention needs opset 23, not 21"),
    "weights": ({"quantized_weights": "int4"}, "quantized_weights is 'int4'; choose 'int8'"),
    "both": ({"dynamic_batch": True, "dynamic_shapes": ({0: "n"},)}, "exclude each other"),
}


@pytest.mark.parametrize("case", CHOICES)
def test_choices_that_do_not_fit_are_refused(case: str, tmp_path: Path) -> None:
    choices, message = CHOICES[case]
    with pytest.raises(ExportError, match=message):
        export_onnx(quantized("head"), CASES["head"].args(), tmp_path / "model.onnx", **choices)
    assert not list(tmp_path.iterdir())


def test_dimensions_may_vary_by_choice(tmp_path: Path) -> None:
    case, model = CASES["pools"], quantized("pools")
    shapes = {"x": {2: torch.export.Dim("height"), 3: torch.export.Dim("width")}}
    source = transform(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), case.args())
    model = quantize(source, case.batches())
    (name,) = (str(n.target) for n in model.graph.nodes if n.op == "placeholder")
    path = tmp_path / "model.onnx"
    export_onnx(model, case.args(), path, precision="float16", dynamic_shapes={name: shapes["x"]})
    dims = files.File(path).model.graph.input[0].type.tensor_type.shape.dim
    assert [one.dim_param or one.dim_value for one in dims] == [2, 3, "height", "width"]
    parity = verify_onnx(path, model, [torch.randn(2, 3, 9, 14)])
    assert parity.only_ties


def test_a_result_stands_for_its_model(tmp_path: Path) -> None:
    result = transform(nn.Linear(4, 3), (torch.randn(2, 4),))
    path = export_onnx(result, torch.randn(2, 4), tmp_path / "model.onnx", precision="float16")
    assert verify_onnx(path, result.model, [torch.randn(2, 4)]).only_ties


# --- verification -------------------------------------------------------------------------------


def test_a_planted_fault_in_a_half_file_is_found(tmp_path: Path) -> None:
    case, model = CASES["residual"], quantized("residual")
    path = export_onnx(model, case.args(), tmp_path / "model.onnx", precision="float16")
    file = onnx.load(path)
    (tensor,) = (one for one in file.graph.initializer if one.name == "x_stub.scale")
    value = onnx.numpy_helper.to_array(tensor)
    tensor.CopyFrom(onnx.numpy_helper.from_array(np.nextafter(value, np.float16(1)), tensor.name))
    onnx.save(file, path)
    parity = verify_onnx(path, model, case.batches())
    assert not parity.only_ties
    assert parity.first_divergence is not None
    assert parity.first_divergence.path in {"x_stub", "conv_stub"}


def test_an_overflow_in_half_precision_is_found(tmp_path: Path) -> None:
    """No stub sees it, so nothing kept it in float32; what ONNX Runtime computes shows it."""
    model = transform(nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 2)))
    with torch.no_grad():
        for one in model.model.parameters():
            one.fill_(1.0)
    example = torch.full((2, 4), 2e4)
    path = export_onnx(model, example, tmp_path / "model.onnx", precision="float16")
    parity = verify_onnx(path, model.model, [example])
    assert not parity.only_ties
    assert "outputs are infinite or no numbers" in str(parity)


def test_of_a_file_from_another_tool_the_outputs_are_compared(tmp_path: Path) -> None:
    torch.manual_seed(0)
    source, path = nn.Sequential(nn.Linear(4, 3), nn.ReLU()).eval(), tmp_path / "theirs.onnx"
    batch = torch.randn(2, 4)
    torch.onnx.export(source, (batch,), path, dynamo=True, verbose=False)
    for model in (source, quantize(transform(source), [batch])):
        parity = verify_onnx(path, model, [batch])
        assert parity.foreign
        assert parity.stubs == {}
        assert not parity.only_ties
        assert str(parity).endswith("another tool wrote the file, so outputs alone were compared")
    assert verify_onnx(path, source, [batch]).sqnr_db > 100
    own = export_onnx(transform(source), batch, tmp_path / "own.onnx")
    with pytest.raises(VerificationError, match="not a Sequential"):
        verify_onnx(own, source, [batch])


@pytest.mark.parametrize("precision", ["float32", "float16", "bfloat16"])
def test_without_stubs_a_file_is_compared_with_any_model(
    precision: Precision, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    source, batch = nn.Sequential(nn.Linear(4, 3), nn.ReLU()).eval(), torch.randn(2, 4)
    model = quantize(transform(source), [batch])
    path = export_onnx(model, batch, tmp_path / "own.onnx", precision=precision)
    parity = verify_onnx(path, source, [batch], stubs=False)
    assert 30 < parity.sqnr_db < 60
    assert not parity.foreign


class Halves(nn.Module):
    """Two convolutions of one half each, the first of tiny values."""

    def __init__(self) -> None:
        super().__init__()
        self.ways = nn.ModuleList(nn.Conv2d(4, 4, 1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        one, other = (x * 1.0).chunk(2, 1)
        return torch.cat([self.ways[0](one), self.ways[1](other)], 1)


def test_a_part_that_stays_in_float32_keeps_the_whole_there(tmp_path: Path) -> None:
    example = torch.randn(1, 8, 2, 2)
    example[:, :4] *= 1e-6
    model = quantize(transform(Halves().eval()), [example])
    path = export_onnx(model, example, tmp_path / "model.onnx", precision="float16")
    assert verify_onnx(path, model, [example]).only_ties
