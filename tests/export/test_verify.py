"""A file that does not compute what was simulated is found out."""

import shutil
from collections import OrderedDict
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, fx, nn
from torch.utils.data import DataLoader, TensorDataset

from embedl_deploy import transform
from embedl_deploy.errors import CalibrationError, QuantizationError, VerificationError
from embedl_deploy.export import OnnxModel, export_onnx, verify_onnx
from embedl_deploy.quantize import insert_qdq, quantize
from tests.helpers import warm

SHAPE = (2, 3, 16, 16)


class Net(nn.Module):
    """Convolutions, a residual, and a classifier after the last stub."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.again, self.norm_again = nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.norm(self.conv(x)))
        y = torch.relu(self.norm_again(self.again(y)) + y)
        return self.head(y.flatten(2).mean(2))


def data(seed: int = 1, rows: int = 2) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(rows, *SHAPE[1:], generator=generator) for _ in range(4)]


@cache
def fused(seed: int = 0) -> fx.GraphModule:
    torch.manual_seed(seed)
    return transform(warm(Net().eval()), (data()[0],)).model


@cache
def quantized(seed: int = 0) -> fx.GraphModule:
    return quantize(fused(seed), data())


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    return export_onnx(quantized(), (data()[0],), folder / "model.onnx")


@pytest.fixture(scope="module")
def of_another(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    return export_onnx(quantized(1), (data()[0],), folder / "model.onnx")


def test_the_export_itself_is_only_ties(exported: Path) -> None:
    parity = verify_onnx(exported, quantized(), data(7))
    assert parity.only_ties
    assert parity.values == 4 * 2 * 10
    assert sorted(parity.stubs) == ["conv_stub", "mean_stub", "x_stub"]
    assert parity.stubs["x_stub"].values == 4 * 2 * 3 * 16 * 16


Change = Callable[[np.ndarray[Any, Any]], None]


def one_up(values: np.ndarray[Any, Any]) -> None:
    """One integer moves by one."""
    index = np.unravel_index(np.abs(values.astype(int)).argmin(), values.shape)
    values[index] += 1


def one_negated(values: np.ndarray[Any, Any]) -> None:
    values[0] = -values[0]


def slightly_larger(values: np.ndarray[Any, Any]) -> None:
    values *= np.float32(1.001)


def a_little_more(values: np.ndarray[Any, Any]) -> None:
    values[1] += np.float32(0.005 * np.abs(values).max())


PLANTED: dict[str, tuple[str, Change]] = {
    "a weight, first layer": ("conv.conv.weight", one_up),
    "a weight, middle": ("again.conv.weight", one_up),
    "a weight, last layer": ("head.linear.weight", one_up),
    "a channel negated": ("again.conv.weight", one_negated),
    "a weight scale": ("again.conv.weight.scale", slightly_larger),
    "a weight scale, last": ("head.linear.weight.scale", slightly_larger),
    "a bias": ("conv.conv.bias", a_little_more),
    "a bias, last": ("head.linear.bias", a_little_more),
    "the scale of the input": ("x_stub.scale", slightly_larger),
    "the scale of the last stub": ("mean_stub.scale", slightly_larger),
}


@pytest.mark.parametrize("fault", PLANTED)
def test_a_planted_fault_is_found(fault: str, exported: Path, tmp_path: Path) -> None:
    name, change = PLANTED[fault]
    model = onnx.load(exported)
    (tensor,) = (one for one in model.graph.initializer if one.name == name)
    values = numpy_helper.to_array(tensor).copy()
    change(values if values.ndim else values.reshape(1))
    assert not np.array_equal(values, numpy_helper.to_array(tensor))
    tensor.CopyFrom(numpy_helper.from_array(values, name))
    onnx.save(model, tmp_path / "faulty.onnx")
    assert not verify_onnx(tmp_path / "faulty.onnx", quantized(), data()).only_ties


def test_a_lost_activation_is_found(exported: Path, tmp_path: Path) -> None:
    model = onnx.load(exported)
    relu = next(node for node in model.graph.node if node.op_type == "Relu")
    relu.op_type = "Identity"
    onnx.save(model, tmp_path / "faulty.onnx")
    assert not verify_onnx(tmp_path / "faulty.onnx", quantized(), data()).only_ties


def test_the_file_of_another_model_is_found(exported: Path, of_another: Path) -> None:
    assert not verify_onnx(of_another, quantized(), data()).only_ties
    assert not verify_onnx(exported, quantized(1), data()).only_ties
    assert verify_onnx(of_another, quantized(1), data()).only_ties


def test_the_float_file_of_a_quantized_model_is_found(tmp_path: Path) -> None:
    path = export_onnx(fused(), (data()[0],), tmp_path / "model.onnx")
    with pytest.raises(VerificationError, match=r"has 3 stubs .* quantizes nothing"):
        verify_onnx(path, quantized(), data())
    assert verify_onnx(path, fused(), data()).only_ties


def test_the_quantized_file_of_a_float_model_is_found(exported: Path) -> None:
    with pytest.raises(VerificationError, match=r"quantizes at '.*', where the model has no stub"):
        verify_onnx(exported, fused(), data())


class Deeper(nn.Module):
    """Other shapes at the same stubs."""

    def __init__(self, size: int = 10, outputs: int = 1) -> None:
        super().__init__()
        self.conv, self.head, self.outputs = nn.Conv2d(3, 16, 5), nn.Linear(16, size), outputs

    def forward(self, x: Tensor) -> Any:
        y = self.head(torch.relu(self.conv(x)).flatten(2).mean(2))
        return (y,) * self.outputs if self.outputs > 1 else y


def test_outputs_that_do_not_fit_are_named(exported: Path) -> None:
    sized = quantize(transform(Deeper(size=7).eval()), data())
    with pytest.raises(VerificationError, match=r"'output' has shape \(2, 10\) in the file and"):
        verify_onnx(exported, sized, data())
    several = quantize(transform(Deeper(outputs=2).eval()), data())
    with pytest.raises(VerificationError, match="model has 2 outputs and the file 1"):
        verify_onnx(exported, several, data())


def test_without_stubs_only_outputs_are_compared(exported: Path) -> None:
    parity = verify_onnx(exported, quantized(), data(), stubs=False)
    assert parity.stubs == {}
    assert parity.values == 80
    assert not parity.only_ties  # it was not compared
    assert parity.sqnr_db > 30


def test_a_batch_is_cut_to_what_the_file_fixes(exported: Path) -> None:
    parity = verify_onnx(exported, quantized(), data(rows=5))
    assert parity.only_ties
    assert parity.values == 4 * 4 * 10  # of each five, two pieces of two


FORMS: dict[str, Callable[[], Any]] = {
    "tuples": lambda: [(one, torch.zeros(2)) for one in data()],
    "dicts": lambda: [{"x": one} for one in data()],
    "generator": lambda: iter(data()),
    "loader": lambda: DataLoader(
        TensorDataset(torch.cat(data()), torch.zeros(8)), batch_size=2, drop_last=True
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_batches_come_in_any_form(form: str, exported: Path) -> None:
    assert verify_onnx(exported, quantized(), FORMS[form]()).values == 80


def test_progress_is_told(exported: Path) -> None:
    told: list[tuple[int, int | None]] = []
    verify_onnx(exported, quantized(), data(), progress=lambda *one: told.append(one))
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_as_it_is(exported: Path, *, training: bool) -> None:
    model = quantize(fused(), data()).train(training)
    statistics = {name: one.clone() for name, one in model.named_buffers()}
    assert verify_onnx(exported, model, data()).only_ties
    assert {one.training for one in model.modules()} == {training}
    assert all(torch.equal(one, statistics[name]) for name, one in model.named_buffers())
    assert not any(one._forward_hooks for one in model.modules())


def test_hooks_are_gone_after_a_failure(exported: Path) -> None:
    model = quantize(transform(Deeper(size=7).eval()), data())
    with pytest.raises(VerificationError):
        verify_onnx(exported, model, data())
    assert not any(one._forward_hooks for one in model.modules())


BAD: dict[str, tuple[Any, type[Exception], str]] = {
    "empty": ([], VerificationError, "no data to verify with"),
    "too few rows": (data(rows=1), VerificationError, "less than one batch of it"),
    "wrong shape": ([torch.zeros(2, 3, 5, 5)], VerificationError, "does not run on inputs"),
    "wrong type": ([torch.zeros(SHAPE, dtype=torch.int64)], VerificationError, "does not run"),
    "wrong name": ([{"y": data()[0]}], VerificationError, r"inputs x; \['y'\] were given"),
    "nothing in it": ([()], VerificationError, "takes the inputs x; 0 by position"),
    "one tensor": (data()[0], CalibrationError, "data is a Tensor; pass a list of batches"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_data_is_said(case: str, exported: Path) -> None:
    batches, kind, message = BAD[case]
    with pytest.raises(kind, match=message):
        verify_onnx(exported, quantized(), batches)


def test_a_file_that_is_none_is_said(tmp_path: Path, exported: Path) -> None:
    with pytest.raises(VerificationError, match="there is no file"):
        verify_onnx(tmp_path / "none.onnx", quantized(), data())
    with pytest.raises(VerificationError, match="there is no file"):
        verify_onnx(tmp_path, quantized(), data())
    for name, content in {"text": b"hello", "cut": exported.read_bytes()[:-500]}.items():
        (tmp_path / name).write_bytes(content)
        for stubs in (True, False):
            with pytest.raises(VerificationError, match=name):
                verify_onnx(tmp_path / name, quantized(), data(), stubs=stubs)
        with pytest.raises(VerificationError, match="load"):
            OnnxModel(tmp_path / name)


def test_a_model_that_was_not_quantized_at_all_is_said(exported: Path) -> None:
    with pytest.raises(VerificationError, match="not a Net"):
        verify_onnx(exported, Net(), data())


def test_an_uncalibrated_model_is_said(exported: Path) -> None:
    with pytest.raises(QuantizationError, match="has no scale yet"):
        verify_onnx(exported, insert_qdq(fused()), data())


def test_a_file_runs_by_position_by_name_and_from_bytes(exported: Path) -> None:
    (batch, *_) = data()
    runtime = OnnxModel(exported.read_bytes(), threads=1)
    assert runtime.input_names == ("x",)
    assert runtime.output_names == ("output",)
    assert runtime.batch_size == 2
    by_position, by_name = runtime(batch), runtime(x=batch)
    assert list(by_position) == ["output"]
    assert torch.equal(by_position["output"], by_name["output"])
    assert torch.equal(OnnxModel(exported)(batch)["output"], by_name["output"])
    with pytest.raises(VerificationError, match=r"2 by position were given"):
        runtime(batch, batch)
    with pytest.raises(VerificationError, match="takes the inputs x"):
        runtime(y=batch)


def test_the_file_may_lie_anywhere(exported: Path, tmp_path: Path) -> None:
    folder = tmp_path / "with spaces, größer 数"
    folder.mkdir()
    shutil.copy(exported, folder / "modèle 1.onnx")
    assert verify_onnx(folder / "modèle 1.onnx", quantized(), data()).only_ties


@pytest.mark.parametrize("name", ["slice(None, -1, None)", "it's"])
def test_a_stub_is_found_under_any_name_of_a_module(name: str, tmp_path: Path) -> None:
    """A slice of a sequence of modules, exported, is such a module."""
    part = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 1))
    x = torch.randn(2, 3, 6, 6)
    outer = nn.Sequential(OrderedDict({name: part, "head": nn.Conv2d(4, 2, 1)})).eval()
    quantized = quantize(transform(outer, (x,)), [x])
    path = export_onnx(quantized, (x,), tmp_path / "model.onnx")
    assert verify_onnx(path, quantized, [x]).only_ties
