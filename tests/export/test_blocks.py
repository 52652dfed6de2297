"""Weights alone, in blocks of 4 bits: simulated, stored as INT4, and the same in the file."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, fx, nn

from embedl_deploy import transform
from embedl_deploy.errors import ExportError, QuantizationError
from embedl_deploy.export import export_onnx, verify_onnx
from embedl_deploy.quantize import (
    MinMaxObserver,
    MSEObserver,
    QuantConfig,
    TensorQuantConfig,
    WeightFakeQuantize,
    insert_qdq,
    placement,
    quantize,
)
from embedl_deploy.quantize.rounding import per_channel
from embedl_deploy.rewrite import Result
from embedl_deploy.tensorrt import check_onnx
from tests.export import files
from tests.quantize.nets import ready

INT4 = TensorQuantConfig(bits=4, block_size=16)
ALONE = QuantConfig(activations=None, weights=INT4)
SHAPE = (3, 8, 8)


class Net(nn.Module):
    """A convolution, attention, linear layers of two and three dimensions, and a batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 32, 2, 2)
        self.attention = nn.MultiheadAttention(32, 2, batch_first=True)
        self.cross = nn.MultiheadAttention(32, 2, batch_first=True, bias=False)
        self.expand, self.project = nn.Linear(32, 48), nn.Linear(48, 32)
        self.narrow, self.norm = nn.Linear(32, 16, bias=False), nn.BatchNorm1d(16)
        self.odd = nn.Linear(24, 5)
        self.head = nn.Linear(16, 24)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x).flatten(2).transpose(1, 2)
        y = x + self.attention(x, x, x, need_weights=False)[0]
        y = y + self.cross(y, x, x, need_weights=False)[0]
        y = self.project(torch.relu(self.expand(y))).mean(1)
        result: Tensor = self.odd(self.head(self.norm(self.narrow(y))))
        return result


def data() -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(4, *SHAPE, generator=generator) for _ in range(2)]


@cache
def result() -> Result:
    model = ready(Net, SHAPE)
    norm = model.norm
    assert isinstance(norm, nn.BatchNorm1d)
    with torch.no_grad():
        norm.weight.copy_(torch.linspace(-2, 2, 16))
        norm.weight[7] = 0
    return transform(model, (data()[0],))


@cache
def quantized() -> fx.GraphModule:
    return quantize(result(), data(), ALONE)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_onnx(quantized(), data()[0], tmp_path_factory.mktemp("int4") / "model.onnx")


def blocks(file: files.File) -> dict[str, tuple[onnx.NodeProto, Any, Any]]:
    """The weights in blocks by path: operator, numbers and scales, rows first."""
    found = {}
    for node in file.named("DequantizeLinear"):
        numbers, scale = (file.constants[name] for name in node.input)
        if files.attributes(node)["axis"] == 0:
            numbers, scale = numbers.T, scale.T
        found[node.input[0]] = node, numbers.astype(np.int8), scale
    return found


def test_weights_are_stored_as_int4_without_zero_points(path: Path) -> None:
    file = files.File(path)
    stored = {one.name: one for one in file.model.graph.initializer}
    weights = files.quantizers_of(quantized())
    found = blocks(file)
    assert found.keys() == weights.keys()
    assert len(found) == 12
    for name, (node, numbers, scale) in found.items():
        assert len(node.input) == 2
        assert stored[name].data_type == onnx.TensorProto.INT4
        assert len(stored[name].raw_data) * 2 == numbers.size
        assert files.attributes(node)["block_size"] == 16
        assert scale.shape == (numbers.shape[0], numbers.shape[1] // 16)
        assert np.abs(numbers).max() == 7
        assert scale.min() > 0
    assert not file.named("QuantizeLinear")


def test_the_stored_blocks_are_the_simulated_weights(path: Path) -> None:
    """Read with onnx alone; a batch norm's factors, one of them zero, move into the scales."""
    found, model = blocks(files.File(path)), quantized()
    for name, (rounded, parts) in files.written_as(model).items():
        numbers, scale = (np.concatenate([found[part][at] for part in parts]) for at in (1, 2))
        want = rounded
        if name == "narrow.linear.weight":
            norm = model.get_submodule("narrow").batch_norm
            assert isinstance(norm, nn.BatchNorm1d)
            assert norm.running_var is not None
            factor = norm.weight.detach() / (norm.running_var + norm.eps).sqrt()
            assert (factor < 0).any()
            assert (factor == 0).any()
            want = want * factor[:, None]
        got = numbers * scale.repeat(16, 1)
        np.testing.assert_allclose(got, want.numpy(), rtol=3e-7, atol=1e-30)


def test_nothing_stands_between_a_weight_and_its_product(path: Path) -> None:
    file = files.File(path)
    for node, _, _ in blocks(file).values():
        assert {reader.op_type for reader in file.readers(node)} <= {"MatMul", "Gemm"}


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_the_file_computes_what_was_simulated(precision: Any, tmp_path: Path) -> None:
    path = export_onnx(quantized(), data()[0], tmp_path / "model.onnx", precision=precision)
    parity = verify_onnx(path, quantized(), data())
    assert parity.only_ties, parity
    assert not parity.stubs
    report = check_onnx(path)
    assert not [*report.errors, *report.warnings]


def test_one_wrong_scale_is_found(path: Path, tmp_path: Path) -> None:
    proto = onnx.load(path)
    scale = next(one for one in proto.graph.initializer if one.name == "head.linear.weight.scale")
    values = np.frombuffer(scale.raw_data, np.float32).copy()
    values[3] *= 1.01
    scale.raw_data = values.tobytes()
    onnx.save(proto, tmp_path / "wrong.onnx")
    assert not verify_onnx(tmp_path / "wrong.onnx", quantized(), data()).only_ties


def test_what_has_no_whole_blocks_stays_with_the_reason() -> None:
    left = {(row.path, row.reason) for row in placement(quantized()).rows if row.what == "none"}
    assert (
        "conv",
        "its weight of shape (32, 3, 2, 2) has no rows of a multiple of 16 values",
    ) in left
    assert ("odd", "its weight of shape (5, 24) has no rows of a multiple of 16 values") in left
    assert ("head", "skipped by activations=None") in left
    whole = [row for row in placement(quantized()).rows if row.what == "weight"]
    assert {row.reason for row in whole} == {"one scale for 16 in a row"}


def test_blocks_are_restored_from_a_state_dict() -> None:
    again = insert_qdq(result(), ALONE)
    assert again.state_dict().keys() == quantized().state_dict().keys()
    for one in again.modules():
        if isinstance(one, WeightFakeQuantize):
            one.scale.fill_(1.0)
    again.load_state_dict(quantized().state_dict())
    with torch.no_grad():
        assert torch.equal(again.eval()(data()[0]), quantized()(data()[0]))


@pytest.mark.parametrize("scale", ["observed", "learned"])
def test_blocks_train(scale: Any) -> None:
    config = TensorQuantConfig(bits=4, block_size=16, scale=scale)
    model = insert_qdq(result(), QuantConfig(None, config)).train()
    model(data()[0]).square().sum().backward()
    assert all(one.grad is not None and one.grad.isfinite().all() for one in model.parameters())
    quantizer = files.quantizers_of(model)["head.linear.weight"]
    assert quantizer.scale.shape == (24, 1)
    if scale == "learned":
        assert quantizer.scale.grad is not None
        assert quantizer.scale.grad.any()


def test_each_block_has_the_range_of_its_values() -> None:
    weight = torch.randn(6, 48, generator=torch.Generator().manual_seed(0))
    quantizer = WeightFakeQuantize(INT4, weight)
    largest = weight.view(6, 3, 16).abs().amax(2)
    torch.testing.assert_close(quantizer.scale, largest / 7)
    assert torch.equal(
        per_channel(quantizer.scale, weight, 0)[:, 16:32], quantizer.scale[:, 1:2].expand(6, 16)
    )


@pytest.mark.parametrize("observer", [MinMaxObserver, MSEObserver])
def test_a_block_is_observed_like_a_channel(observer: Callable[[], Any]) -> None:
    weight = torch.randn(150, 32, generator=torch.Generator().manual_seed(0))
    in_blocks = WeightFakeQuantize(TensorQuantConfig(4, observer, block_size=16), weight)
    rows = WeightFakeQuantize(TensorQuantConfig(4, observer), weight.reshape(300, 16))
    assert torch.equal(in_blocks.scale.flatten(), rows.scale)


def test_weights_alone_may_be_int8(tmp_path: Path) -> None:
    model = quantize(result(), data(), QuantConfig(activations=None))
    path = export_onnx(model, data()[0], tmp_path / "model.onnx")
    file = files.File(path)
    files.assert_weights(file, model)
    assert not file.named("QuantizeLinear")
    assert verify_onnx(path, model, data()).only_ties
    report = check_onnx(path)
    assert not report.errors
    assert {one.rule for one in report.warnings} == {"P01"}


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "int8": (lambda: TensorQuantConfig(block_size=64), "blocks are for weights of at most 4 bits"),
    "fp8": (
        lambda: TensorQuantConfig(format="float8_e4m3", block_size=64),
        "not float8_e4m3: kernels take no others",
    ),
    "odd": (lambda: TensorQuantConfig(4, block_size=65), "positive even number, not 65"),
    "negative": (lambda: TensorQuantConfig(4, block_size=-2), "positive even number, not -2"),
    "activations": (lambda: QuantConfig(INT4, INT4), "activations have one scale a tensor"),
    "both": (lambda: QuantConfig(weights=INT4), "write activations=None"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_blocks_is_refused(name: str) -> None:
    make, said = REFUSED[name]
    with pytest.raises(QuantizationError, match=said):
        make()


def test_files_without_blocks_are_refused(tmp_path: Path) -> None:
    for choice, said in (
        ({"opset": 20}, "weights in blocks need opset 21, not 20"),
        ({"quantized_weights": "float"}, "weights in blocks are stored as numbers"),
    ):
        with pytest.raises(ExportError, match=said):
            export_onnx(quantized(), data()[0], tmp_path / "model.onnx", **choice)
    wide = QuantConfig(None, TensorQuantConfig(bits=4, block_size=128))
    with pytest.raises(QuantizationError, match="no Q/DQ point"):
        quantize(result(), data(), wide)
