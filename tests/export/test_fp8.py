"""FP8 (E4M3) in the file: the same numbers as simulated, also with batch norms folded in."""

import itertools
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, fx, nn

from embedl_deploy import transform
from embedl_deploy.errors import ExportError, QuantizationError
from embedl_deploy.export import OnnxModel, Parity, StubParity, export_onnx, verify_onnx
from embedl_deploy.export.lower import fold
from embedl_deploy.export.operators import DequantizedWeight
from embedl_deploy.export.precision import round_values
from embedl_deploy.quantize import FixedObserver, QuantConfig, TensorQuantConfig, quantize
from embedl_deploy.quantize.rounding import FLOAT8, fake_quantize
from embedl_deploy.quantize.stubs import QuantStub, WeightFakeQuantize
from embedl_deploy.tensorrt import TENSORRT, TENSORRT_FP8_CONFIG, check_onnx, lacks_fp8_kernel
from tests.export import files
from tests.export.cases import CASES
from tests.quantize.nets import NETS, batches, ready

FP8 = TensorQuantConfig(format="float8_e4m3")
NUMBERS = torch.arange(256).to(torch.uint8).view(torch.float8_e4m3fn).float()
NUMBERS = NUMBERS[~NUMBERS.isnan()]


@cache
def quantized(name: str, attention: str = "inputs") -> fx.GraphModule:
    result = transform(ready(NETS[name]), tuple(batches(1, 1)))
    probabilities = TENSORRT_FP8_CONFIG.probabilities
    config = QuantConfig(FP8, FP8, attention=attention, probabilities=probabilities)  # type: ignore[arg-type]
    return quantize(result, batches(), config)


@pytest.fixture(scope="module")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file in FP8."""
    path = tmp_path_factory.mktemp("fp8") / "model.onnx"
    return export_onnx(quantized("resnet"), batches(1)[0], path)


def rounded_by_file(values: Tensor, scale: Tensor) -> Tensor:
    """What ONNX Runtime makes of a pair, written without this library."""
    pair = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
    ]
    ends = [helper.make_tensor_value_info(one, TensorProto.FLOAT, [None]) for one in ("x", "y")]
    zero = helper.make_tensor("z", TensorProto.FLOAT8E4M3FN, [], [0.0])
    constants = [numpy_helper.from_array(scale.numpy(), "s"), zero]
    graph = helper.make_graph(pair, "pair", ends[:1], ends[1:], constants)
    opset = helper.make_opsetid("", 19)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=9)
    return OnnxModel(model.SerializeToString())(values)["y"]


@pytest.mark.parametrize("scale", [1.0, 0.0371, 3e-5, 17.3])
def test_the_simulation_rounds_as_the_operators_do(scale: float) -> None:
    """To the bit: random values of all sizes, every number, and every middle between two."""
    middles = (NUMBERS.sort().values[1:] + NUMBERS.sort().values[:-1]) / 2
    random = [torch.randn(2000) * 10.0**power for power in range(-5, 4)]
    values = torch.cat((*random, NUMBERS, middles)) * scale
    want = fake_quantize(values, torch.tensor(scale), FLOAT8)
    assert torch.equal(rounded_by_file(values, torch.tensor(scale)), want)


@given(st.lists(st.floats(-3, 3, width=32), min_size=4, max_size=4), st.integers(0, 9))
def test_a_factor_of_the_channel_changes_no_number(factors: list[float], seed: int) -> None:
    """The identity after folding: the steps of `w·g` at scale `s·|g|` are those of `w` at `s`."""
    weight = torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(seed))
    norm = nn.BatchNorm2d(4).eval()
    norm.weight.data.copy_(torch.tensor(factors))
    conv = nn.Conv2d(3, 4, 3)
    conv.weight.data.copy_(weight)
    result = transform(nn.Sequential(conv, norm).eval(), (torch.zeros(1, 3, 4, 4),))
    folded = fold(quantize(result, [torch.randn(1, 3, 4, 4)], QuantConfig(FP8, FP8)))
    (stored,) = (one for one in folded.modules() if isinstance(one, DequantizedWeight))
    plain = WeightFakeQuantize(FP8, weight).stored(weight).float()
    factor = norm.weight.detach() / (1 + norm.eps) ** 0.5
    assert torch.equal(stored.stored.float(), plain * factor.sign().view(-1, 1, 1, 1))
    want = WeightFakeQuantize(FP8, weight)(weight) * factor.view(-1, 1, 1, 1)
    torch.testing.assert_close(stored.values(), want, rtol=1e-6, atol=1e-30)


@pytest.mark.parametrize(
    ("name", "precision"), [("resnet", "float16"), ("convnext", "float32"), ("vit", "float16")]
)
def test_the_file_computes_what_was_simulated(name: str, precision: str, tmp_path: Path) -> None:
    model = quantized(name)
    path = export_onnx(model, batches(1)[0], tmp_path / "model.onnx", precision=precision)  # type: ignore[arg-type]
    parity = verify_onnx(path, model, batches(2, seed=5))
    assert parity.only_ties, parity
    assert len(parity.stubs) == sum(isinstance(one, QuantStub) for one in model.modules())
    assert not check_onnx(path).errors


def test_numbers_and_zero_points_are_fp8(resnet: Path) -> None:
    model, file = quantized("resnet"), files.File(resnet)
    weights = files.quantizers_of(model)
    stored = [node for node in file.named("DequantizeLinear") if node.input[0] in file.constants]
    assert len(stored) == len(weights) > 0
    for node in stored:
        numbers, scale, zero = (file.constants[name] for name in node.input)
        assert numbers.dtype.name == zero.dtype.name == "float8_e4m3fn"
        assert not zero.astype(np.float32).any()
        assert files.attributes(node) == {"axis": 0}
        assert scale.shape == zero.shape == numbers.shape[:1]
        largest = np.abs(numbers.astype(np.float32)).reshape(len(scale), -1).max(1)
        assert (largest == 448).all()
    for node in file.named("QuantizeLinear"):
        assert file.constants[node.input[2]].dtype.name == "float8_e4m3fn"
        assert file.constants[node.input[2]].shape == ()
    assert "int8" not in {one.dtype.name for one in file.constants.values()}


def test_weights_in_floating_point_round_to_the_same(resnet: Path, tmp_path: Path) -> None:
    model, x = quantized("resnet"), batches(1)[0]
    path = export_onnx(model, x, tmp_path / "model.onnx", quantized_weights="float")
    assert torch.equal(*(OnnxModel(one)(x)["output"] for one in (resnet, path)))


@pytest.mark.parametrize("name", ["factors", "attention", "transposed"])
def test_factors_of_norms_and_queries_change_no_number(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    result = transform(case.make().eval(), case.args())
    model = quantize(result, case.batches(), QuantConfig(FP8, FP8, attention="full"))
    path = export_onnx(model, case.args(), tmp_path / "model.onnx")
    parity = verify_onnx(path, model, case.batches())
    assert parity.only_ties, parity
    assert not check_onnx(path).errors


def test_opset_18_has_no_fp8(tmp_path: Path) -> None:
    model, x = quantized("resnet"), batches(1)[0]
    with pytest.raises(ExportError, match="FP8 needs opset 19, not 18"):
        export_onnx(model, x, tmp_path / "model.onnx", opset=18)
    path = export_onnx(model, x, tmp_path / "model.onnx", opset=19)
    assert verify_onnx(path, model, batches(1)).only_ties
    assert not check_onnx(path).errors


# --- verification -------------------------------------------------------------------------------


def test_one_wrong_number_is_found(resnet: Path, tmp_path: Path) -> None:
    proto, path = onnx.load(resnet), tmp_path / "model.onnx"
    name = "layer2.0.conv1.conv.weight"
    weight = next(one for one in proto.graph.initializer if one.name == name)
    changed = bytearray(weight.raw_data)
    where = max(range(len(changed)), key=lambda index: changed[index] & 0x7F)
    changed[where] -= 8  # half of the largest number
    weight.raw_data = bytes(changed)
    onnx.save(proto, path)
    parity = verify_onnx(path, quantized("resnet"), batches(1))
    assert not parity.only_ties
    assert parity.first_divergence is not None


def test_a_tie_is_one_spacing_at_any_size() -> None:
    """448, 240 and the smallest number: whatever the spacing there, neighbours are one apart."""
    numbers = NUMBERS[NUMBERS >= 0].unique()
    for one, other in itertools.pairwise(numbers):
        middle = (one + other) / 2
        parity = StubParity("")
        parity.add(middle[None] * (1 - 1e-7), torch.stack([other]), grid=FLOAT8)
        parity.add(middle[None] * (1 + 1e-7), torch.stack([one]), grid=FLOAT8)
        assert parity.largest <= 1
        assert not parity.diverges


@pytest.mark.parametrize(("at", "diverges"), [(300.0, True), (20.0, True), (0.01, False)])
def test_what_is_coarser_than_sums_counts(at: float, diverges: bool) -> None:  # noqa: FBT001
    """Two numbers off is a divergence, but where the spacing is finer than sums are exact."""
    near = int((NUMBERS.unique() - at).abs().argmin())
    numbers = NUMBERS.unique()
    parity = StubParity("")
    parity.add(numbers[near][None], numbers[near + 2][None], grid=FLOAT8)
    assert parity.differing == 1
    assert parity.diverges is diverges


def test_parity_is_met_and_said_of_numbers(resnet: Path) -> None:
    parity: Parity = verify_onnx(resnet, quantized("resnet"), batches(1))
    assert parity.only_ties
    differ = "of the numbers differ" if parity.tie_share else "no rounded number differs"
    assert differ in str(parity)


# --- what TensorRT wants ------------------------------------------------------------------------


def test_a_file_of_the_ready_made_config_has_no_warnings(tmp_path: Path) -> None:
    data = batches(2, 1, (32, 8, 8))
    result = transform(ready(Wide, (32, 8, 8)), (data[0],))
    model = quantize(result, data, TENSORRT_FP8_CONFIG)
    path = export_onnx(model, data[0], tmp_path / "model.onnx", precision="float16")
    report = check_onnx(path)
    assert not [*report.errors, *report.warnings]
    assert verify_onnx(path, model, data).only_ties
    points = [point for path, one in files.stubs_of(model).items() for point in one.points]
    at = {point.split(".")[0].split()[0] for point in points}
    assert at == {"conv", "attention", "head"}


def test_probabilities_have_the_range_of_fp8_kernels() -> None:
    for attention, count in (("inputs", 0), ("full", 2)):
        model = quantized("vit", attention)
        found = [
            one.scale.item()
            for one in model.modules()
            if isinstance(one, QuantStub) and any("PROBABILITIES" in p for p in one.points)
        ]
        assert found == pytest.approx([1 / 448] * count)


def test_kernels_that_are_not_there() -> None:
    refused = [
        nn.Conv2d(16, 32, 3),
        nn.Conv2d(32, 16, 3),
        nn.Conv2d(32, 32, 3, groups=2),
        nn.Conv2d(32, 32, 7),
        nn.ConvTranspose2d(32, 32, 3),
        nn.AdaptiveAvgPool2d(1),
    ]
    taken = [nn.Conv2d(32, 32, 5), nn.Conv1d(17, 17, 31), nn.Linear(4, 4), nn.LayerNorm(4)]
    assert [lacks_fp8_kernel("", nn.Sequential(one)) for one in refused] == [True] * len(refused)
    assert [lacks_fp8_kernel("", nn.Sequential(one)) for one in taken] == [False] * len(taken)


def test_a_fixed_range_is_what_was_given() -> None:
    observer = FixedObserver(6.0)
    assert observer.compute() is None
    observer.collect(torch.tensor([-1.0, 2.0]))
    assert observer.compute() == 6.0
    assert observer.lowest == -1.0
    for bound in (0.0, -1.0, float("nan")):
        with pytest.raises(QuantizationError, match="the bound of a range is above 0"):
            FixedObserver(bound)


def test_a_tiny_scale_is_raised_by_a_power_of_two() -> None:
    """In half precision; numbers that stay normal keep their mantissa, so nothing is rounded."""
    conv = nn.Conv2d(3, 4, 1)
    with torch.no_grad():
        conv.weight.copy_(torch.tensor([1.0, 3e-3, 1e-4, 1e-6]).view(4, 1, 1, 1) * conv.weight)
    result = transform(nn.Sequential(conv).eval(), (torch.zeros(1, 3, 4, 4),))
    folded = fold(quantize(result, [torch.randn(1, 3, 4, 4)], QuantConfig(FP8, FP8)))
    (weight,) = (one for one in folded.modules() if isinstance(one, DequantizedWeight))
    before, numbers = weight.values(), weight.stored.float()
    round_values(folded, torch.float16, {}, TENSORRT.lowering)
    least = torch.finfo(torch.float16).smallest_normal
    assert (weight.scale >= least).all()
    shares = (numbers / weight.stored.float()).flatten(1)
    assert ((shares[:2].log2() % 1) == 0).all()
    torch.testing.assert_close(weight.values()[:2], before[:2], rtol=2**-11, atol=0)
    assert ((weight.values() - before).abs() <= least * 2.0**-9).flatten(1)[2:].all()


# --- a network that FP8 kernels are for ---------------------------------------------------------


class Wide(nn.Module):
    """Convolutions with and without FP8 kernels, attention and linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(32, 32, 3, padding=1), nn.BatchNorm2d(32)
        self.depthwise, self.narrow = nn.Conv2d(32, 32, 3, groups=32), nn.Conv2d(32, 16, 1)
        self.attention = nn.MultiheadAttention(32, 2, batch_first=True)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(32, 48)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = torch.relu(self.norm(self.conv(x)) + x)
        gate = self.pool(self.narrow(self.depthwise(y)))
        rows = y.flatten(2).transpose(1, 2)
        return self.head(self.attention(rows, rows, rows, need_weights=False)[0]), gate
