"""What is in the file, and that it computes what was simulated."""

import gc
import weakref
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, fx, nn

from embedl_deploy import transform
from embedl_deploy.errors import ExportError
from embedl_deploy.export import export_onnx, verify_onnx
from embedl_deploy.quantize import QuantConfig, TensorQuantConfig, quantize
from embedl_deploy.target import Target
from embedl_deploy.tensorrt import TENSORRT, TENSORRT_RTX
from tests.export import files
from tests.export.cases import CASES, Attention, Case, Named
from tests.helpers import warm


@cache
def fused(name: str) -> fx.GraphModule:
    case = CASES[name]
    torch.manual_seed(0)
    model = case.make().eval()
    return transform(model if name == "factors" else warm(model), case.args()).model


@cache
def quantized(name: str) -> fx.GraphModule:
    return quantize(fused(name), CASES[name].batches())


def content(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def ort_outputs(path: Path, args: tuple[Tensor, ...]) -> list[Tensor]:
    """ONNX Runtime without any of our code, and without its own fusions."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]
    feed = dict(zip(names, [one.numpy() for one in args], strict=True))
    return [torch.from_numpy(one) for one in session.run(None, feed)]


def outputs(model: nn.Module, args: tuple[Tensor, ...]) -> list[Tensor]:
    with torch.no_grad():
        output = model(*args)
    if isinstance(output, dict):
        return list(output.values())
    return list(output) if isinstance(output, tuple) else [output]


@pytest.mark.parametrize("name", CASES)
def test_a_quantized_model_is_exported_as_simulated(name: str, tmp_path: Path) -> None:
    case, model, path = CASES[name], quantized(name), tmp_path / "model.onnx"
    before, graph = content(model), str(model.graph)
    assert export_onnx(model, case.args(), path) == path
    assert str(model.graph) == graph
    assert all(torch.equal(one, before[key]) for key, one in content(model).items())
    assert [one.name for one in tmp_path.iterdir()] == ["model.onnx"]
    file = files.File(path)
    files.assert_typed(file)
    files.assert_pairs(file, model)
    files.assert_attention(file, model)
    files.assert_weights(file, model)
    files.assert_no_leftovers(file, model)
    files.assert_whole_kernels(file, model, case.kept_norms)
    files.assert_names(file, model)
    stubs = len(files.stubs_of(model)) - (name == "twice")  # one tensor there, computed twice
    assert file.ops()["QuantizeLinear"] == stubs
    assert file.ops()["DequantizeLinear"] == stubs + len(files.quantizers_of(model))
    for op, count in case.single:
        assert file.ops()[op] == count
    parity = verify_onnx(path, model, case.batches())
    assert parity.only_ties, parity
    assert len(parity.stubs) == stubs


@pytest.mark.parametrize("name", CASES)
def test_a_float_model_is_exported_as_it_is(name: str, tmp_path: Path) -> None:
    case, model, path = CASES[name], fused(name), tmp_path / "model.onnx"
    before = content(model)
    export_onnx(model, case.args(), path)
    assert all(torch.equal(one, before[key]) for key, one in content(model).items())
    file = files.File(path)
    files.assert_typed(file)
    files.assert_whole_kernels(file, model, case.kept_norms)
    files.assert_names(file, model)
    assert file.ops()["QuantizeLinear"] == file.ops()["DequantizeLinear"] == 0
    for args in case.batches():
        want = outputs(model, args)
        for one, other in zip(ort_outputs(path, args), want, strict=True):
            scale = other.abs().amax((0, *range(2, other.dim())), keepdim=True)
            assert ((one - other).abs() <= 1e-5 * scale.clamp(min=1e-30)).all()
    assert verify_onnx(path, model, case.batches()).only_ties


def test_every_channel_is_folded_exactly(tmp_path: Path) -> None:
    """Channel by channel, since the factors differ by forty orders of magnitude."""
    case, model = CASES["factors"], quantized("factors")
    path = export_onnx(model, case.args(), tmp_path / "model.onnx")
    for args in case.batches():
        (want,), (got,) = outputs(model, args), ort_outputs(path, args)
        scale = want.abs().amax((0, 2, 3), keepdim=True)
        assert ((got - want).abs() <= 1e-5 * scale).all()
    integers = {
        node.name: file_constant
        for file in [files.File(path)]
        for node in file.named("DequantizeLinear")
        if (file_constant := file.constants.get(node.input[0])) is not None
    }
    zero = integers["conv.conv.weight/DequantizeLinear"][1:3]
    assert not zero.any()


@pytest.mark.parametrize("bits", [2, 4, 7])
def test_fewer_bits_are_clamped_before_the_pair(bits: int, tmp_path: Path) -> None:
    config = TensorQuantConfig(bits=bits)
    case = CASES["residual"]
    model = quantize(fused("residual"), case.batches(), QuantConfig(config, config))
    path = export_onnx(model, case.args(), tmp_path / "model.onnx")
    loud = [(10 * args[0],) for args in case.batches()]
    assert verify_onnx(path, model, [*case.batches(), *loud]).only_ties
    file = files.File(path)
    files.assert_weights(file, model)
    assert file.ops()["Clip"] == 3


@pytest.mark.parametrize("name", ["residual", "attention"])
def test_exports_are_identical_to_the_byte(name: str, tmp_path: Path) -> None:
    paths = [tmp_path / "one.onnx", tmp_path / "two.onnx"]
    for path in paths:
        export_onnx(quantized(name), CASES[name].args(), path)
    assert paths[0].read_bytes() == paths[1].read_bytes()


@pytest.mark.parametrize(
    ("name", "rows"), [("residual", 2), ("head", 1), ("attention", 1), ("pools", 2)]
)
def test_a_dynamic_batch_runs_at_any_size(name: str, rows: int, tmp_path: Path) -> None:
    case, model = CASES[name], quantized(name)
    example = tuple(one[:rows] for one in case.args())
    path = export_onnx(model, example, tmp_path / "model.onnx", dynamic_batch=True)
    file = files.File(path)
    first = [one.type.tensor_type.shape.dim[0].dim_param for one in file.model.graph.input]
    assert first == ["batch"] * len(case.shapes)
    files.assert_pairs(file, model)
    for size in (1, 2, 3, 5):
        generator = torch.Generator().manual_seed(size)
        shapes = [(size, *shape[1:]) for shape in case.shapes]
        args = tuple(torch.randn(shape, generator=generator) for shape in shapes)
        assert verify_onnx(path, model, [args]).only_ties
        assert [len(one) for one in ort_outputs(path, args)] == [size] * len(outputs(model, args))


def test_a_fixed_batch_is_fixed(tmp_path: Path) -> None:
    path = export_onnx(quantized("head"), CASES["head"].args(), tmp_path / "model.onnx")
    dims = files.File(path).model.graph.input[0].type.tensor_type.shape.dim
    assert [dim.dim_value for dim in dims] == [2, 3, 12, 12]


def test_names_of_inputs_and_outputs_are_those_of_forward(tmp_path: Path) -> None:
    path = export_onnx(quantized("named"), CASES["named"].args(), tmp_path / "model.onnx")
    graph = files.File(path).model.graph
    assert [one.name for one in graph.input] == ["left", "right"]
    assert [one.name for one in graph.output] == ["output_0", "output_1", "output_2"]
    path = export_onnx(quantized("head"), CASES["head"].args(), tmp_path / "model.onnx")
    assert [one.name for one in files.File(path).model.graph.output] == ["output"]


def test_names_can_be_given(tmp_path: Path) -> None:
    model, case = quantized("named"), CASES["named"]
    path = tmp_path / "model.onnx"
    names = ["sum", "copy", "act"]
    export_onnx(model, case.args(), path, input_names=["a", "b"], output_names=names)
    graph = files.File(path).model.graph
    assert [one.name for one in graph.input] == ["a", "b"]
    assert [one.name for one in graph.output] == names
    left, right = case.args(5)
    assert verify_onnx(path, model, [{"right": right, "left": left}]).only_ties


BAD_NAMES: dict[str, tuple[dict[str, Any], str]] = {
    "too few inputs": ({"input_names": ["a"]}, "1 input names were given for 2 inputs"),
    "too many outputs": ({"output_names": list("abcd")}, "4 output names .* for 3 outputs"),
    "twice": ({"output_names": ["a", "a", "b"]}, "need different names, not left, right, a, a, b"),
    "taken": ({"output_names": ["left", "a", "b"]}, "need different names"),
    "text": ({"input_names": "ab"}, "input names are a text, 'ab'; pass a list"),
}


@pytest.mark.parametrize("case", BAD_NAMES)
def test_names_that_do_not_fit_are_refused(case: str, tmp_path: Path) -> None:
    names, message = BAD_NAMES[case]
    with pytest.raises(ExportError, match=message):
        export_onnx(quantized("named"), CASES["named"].args(), tmp_path / "a.onnx", **names)
    assert not list(tmp_path.iterdir())


def test_a_name_that_is_used_inside_is_free_to_choose(tmp_path: Path) -> None:
    model, case = quantized("residual"), CASES["residual"]
    plain = files.File(export_onnx(model, case.args(), tmp_path / "plain.onnx"))
    inside = plain.named("Conv")[0].output[0]
    weight = next(iter(plain.constants))
    path = tmp_path / "named.onnx"
    export_onnx(model, case.args(), path, input_names=[weight], output_names=[inside])
    graph = files.File(path).model.graph
    assert [graph.input[0].name, graph.output[0].name] == [weight, inside]
    assert verify_onnx(path, model, case.batches()).only_ties


def test_the_mode_of_the_model_is_left(tmp_path: Path) -> None:
    model = quantize(fused("residual"), CASES["residual"].batches()).train()
    model.get_submodule("conv.batch_norm").eval()
    before = {path: module.training for path, module in model.named_modules()}
    path = export_onnx(model, CASES["residual"].args(), tmp_path / "model.onnx")
    assert {path: module.training for path, module in model.named_modules()} == before
    assert verify_onnx(path, model, CASES["residual"].batches()).only_ties
    assert {path: module.training for path, module in model.named_modules()} == before


def test_a_single_tensor_stands_for_its_tuple(tmp_path: Path) -> None:
    (example,) = CASES["head"].args()
    path = export_onnx(quantized("head"), example, tmp_path / "model.onnx")
    assert verify_onnx(path, quantized("head"), [example]).only_ties


class Scaled(nn.Module):
    """An input that is a number."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, x: Tensor, factor: Tensor) -> Tensor:
        return self.linear(x) * factor


@pytest.mark.parametrize("dynamic", [True, False])
def test_an_input_may_have_no_rows(*, dynamic: bool, tmp_path: Path) -> None:
    args = (torch.randn(3, 4), torch.tensor(2.0))
    model = quantize(transform(Scaled(), args), [args])
    path = export_onnx(model, args, tmp_path / "model.onnx", dynamic_batch=dynamic)
    graph = files.File(path).model.graph
    assert [one.name for one in graph.input] == ["x", "factor"]
    more = (torch.randn(6, 4), torch.tensor(3.0))
    parity = verify_onnx(path, model, [args, more])
    assert parity.only_ties
    assert parity.values == 9 * 3


def test_masks_that_are_no_batch_stay_whole(tmp_path: Path) -> None:
    """A batch is cut to the size that the file fixes; an input of another size is not."""
    case = Case(Attention, ((2, 5, 16), (2, 7, 6)))
    model = quantized("attention")
    path = export_onnx(model, case.args(), tmp_path / "model.onnx")
    many = Case(Attention, ((6, 5, 16), (6, 7, 6))).args()
    parity = verify_onnx(path, model, [many])
    assert parity.only_ties
    assert parity.values == 6 * 5 * 16


def test_half_of_a_model_may_stay_in_floating_point(tmp_path: Path) -> None:
    from embedl_deploy.tensorrt import TENSORRT_MIXED_PRECISION_PATTERNS

    case = CASES["convolutions"]
    torch.manual_seed(0)
    source = warm(case.make().eval())
    result = transform(source, case.args(), patterns=TENSORRT_MIXED_PRECISION_PATTERNS)
    model = quantize(result, case.batches())
    path = export_onnx(model, case.args(), tmp_path / "model.onnx")
    file = files.File(path)
    depthwise = next(node for node in file.named("Conv") if node.name == "depthwise.conv/Conv")
    assert file.constants[depthwise.input[1]].dtype == np.float32
    assert file.ops()["QuantizeLinear"] == 6
    assert verify_onnx(path, model, case.batches()).only_ties


def test_a_forward_that_names_its_input_output(tmp_path: Path) -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 3)

        def forward(self, output: Tensor) -> Tensor:
            return self.linear(output)

    example = torch.randn(2, 4)
    model = quantize(transform(Odd()), [example])
    path = export_onnx(model, (example,), tmp_path / "model.onnx")
    graph = files.File(path).model.graph
    assert graph.input[0].name == "output"
    assert graph.output[0].name == "output_"
    assert verify_onnx(path, model, [example]).only_ties


def test_an_output_that_is_an_input(tmp_path: Path) -> None:
    """The exported file has a copy of it, under a name of its own."""
    model, case = quantized("named"), CASES["named"]
    path = export_onnx(model, case.args(), tmp_path / "model.onnx")
    args = case.args(3)
    assert torch.equal(ort_outputs(path, args)[1], args[0])
    assert isinstance(model(*args), dict)
    assert list(model(*args)) == list(Named()(*args))


@pytest.mark.parametrize("precision", ["float32", "float16"])
@pytest.mark.parametrize("target", [TENSORRT, TENSORRT_RTX], ids=["tensorrt", "rtx"])
@pytest.mark.parametrize("rounded", [True, False])
def test_an_export_keeps_nothing_of_the_model_in_memory(
    precision: Any, target: Target, *, rounded: bool, tmp_path: Path
) -> None:
    example = torch.rand(2, 8)
    source = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))
    result = transform(source, (example,), target=target)
    model = quantize(result, [example]) if rounded else result.model
    del result
    kept = [weakref.ref(one) for one in model.parameters()]
    export_onnx(model, (example,), tmp_path / "model.onnx", precision=precision)
    del model
    gc.collect()
    assert [one() for one in kept] == [None] * len(kept)
    assert len(kept) >= 4


@pytest.mark.parametrize("skipped", ["first", "second"])
def test_a_weight_that_is_quantized_in_one_place_alone(skipped: str, tmp_path: Path) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.act = nn.Linear(8, 8), nn.ReLU()
            self.second = nn.Linear(8, 8)
            self.second.weight = self.first.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.second(self.act(self.first(x)))

    example = torch.rand(2, 8)
    result = transform(Tied().eval(), (example,))
    model = quantize(result, [example], QuantConfig(skip=(skipped,)))
    path = export_onnx(model, (example,), tmp_path / "model.onnx")
    assert verify_onnx(path, model, [example]).only_ties
    for got, want in zip(ort_outputs(path, (example,)), outputs(model, (example,)), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-3)
