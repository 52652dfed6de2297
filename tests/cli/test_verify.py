"""`verify` compares a file with a model, and its exit status says how that went."""

from pathlib import Path

import onnx
import pytest
import torch
from onnx import numpy_helper
from onnxruntime import quantization

from embedl_deploy.cli.data import load_data
from embedl_deploy.cli.models import load_model
from tests.cli.commands import files, run, run_json

DATA = ("--data", "rows.npz")
OURS = ("verify", "out.onnx", "user_nets:small", *DATA)


@pytest.fixture
def ours(folder: Path) -> Path:
    run("deploy", "user_nets:small", "out.onnx", *DATA, "--observer", "mse")
    return folder / "out.onnx"


@pytest.fixture
def foreign(folder: Path) -> Path:
    """A file of ONNX Runtime, quantized from what PyTorch exports."""
    model = load_model("user_nets:small")
    torch.onnx.export(model, (torch.zeros(1, 3, 8, 8),), folder / "float.onnx", dynamo=True)
    rows = iter(load_data("rows.npz", batch_size=1))

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def get_next(self) -> object:
            batch = next(rows, None)
            return None if batch is None else {"x": batch.numpy()}  # type: ignore[union-attr]

    quantization.quantize_static(folder / "float.onnx", folder / "foreign.onnx", Reader())
    return folder / "foreign.onnx"


def spoil(path: Path) -> None:
    """Another bias in the last layer."""
    file = onnx.load(path)
    bias = next(one for one in file.graph.initializer if one.name == "head.linear.bias")
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + 3, bias.name))
    onnx.save(file, path)


def test_outputs_of_our_file_are_compared_with_the_model(ours: Path) -> None:
    before = files(ours.parent)
    found = run_json(*OURS)
    assert found["ok"] is True
    assert 15 < found["sqnr_db"] < 80
    assert found["outputs"][0]["largest_relative_difference"] > 0
    assert files(ours.parent) == before
    said = " ".join(run(*OURS).stdout.split())
    assert "Compared 12 output values of rows.npz" in said
    assert "Verdict at least the 10 dB that are asked for" in said


@pytest.mark.usefixtures("ours")
def test_the_bar_can_be_chosen() -> None:
    found = run_json(*OURS, "--min-sqnr", "90", code=1)
    assert found["ok"] is False


def test_layers_of_our_file_are_compared_with_the_simulation(ours: Path) -> None:
    found = run_json(*OURS, "--layers", "--observer", "mse")
    assert (found["ok"], found["only_ties"], found["numbers"]) == (True, True, ["INT8"])
    assert {one["diverges"] for one in found["layers"]} == {False}
    said = " ".join(run(*OURS, "--layers", "--observer", "mse").stdout.split())
    assert "the file computes what was simulated" in said
    spoil(ours)
    assert run_json(*OURS, "--layers", "--observer", "mse", code=1)["only_ties"] is False


@pytest.mark.usefixtures("folder")
def test_layers_of_the_accurate_recipe_are_those_of_the_same_recipe() -> None:
    run("deploy", "user_nets:small", "out.onnx", *DATA, "--recipe", "accurate")
    options = ("out.onnx", "user_nets:small", *DATA, "--layers")
    assert run_json("verify", *options, "--recipe", "accurate")["only_ties"] is True
    assert run_json("verify", *options, "--recipe", "fast", code=1)["only_ties"] is False


@pytest.mark.usefixtures("ours")
def test_another_calibration_is_another_simulation() -> None:
    command = (*OURS, "--layers", "--observer", "percentile", "--percentile", "90")
    found = run_json(*command, code=1)
    assert True in {one["diverges"] for one in found["layers"]}
    said = " ".join(run(*command, code=1).stdout.split())
    assert "are weights, data and options those that deploy wrote the file with?" in said


@pytest.mark.usefixtures("ours")
def test_a_file_knows_what_it_was_made_of_and_how() -> None:
    found = run_json("verify", "out.onnx", "--layers")  # deploy had --observer mse
    assert (found["only_ties"], found["model"], found["data"]) == (True, *OURS[2:3], "rows.npz")
    assert run_json("verify", "out.onnx")["ok"] is True
    other = ("--observer", "percentile", "--percentile", "90")
    assert run_json("verify", "out.onnx", "--layers", *other, code=1)["ok"] is False


def test_a_file_of_another_tool_is_compared_by_its_outputs(foreign: Path) -> None:
    command = ("verify", str(foreign), "user_nets:small", *DATA)
    found = run_json(*command)
    assert 10 < found["sqnr_db"] < 80
    assert found["numbers"] == ["INT8"]
    assert "give a model" in run_json("verify", str(foreign), code=1)["error"]["message"]
    error = run_json(*command, "--layers", code=1)["error"]
    assert "another tool wrote" in error["message"]
    assert "leave --layers out" in error["message"]


def test_a_file_without_pairs_is_called_by_its_type(folder: Path) -> None:
    model = load_model("user_nets:small").half()
    image = torch.zeros(1, 3, 8, 8, dtype=torch.float16)
    torch.onnx.export(model, (image,), folder / "half.onnx", dynamo=True)
    command = ("verify", "half.onnx", "user_nets:small", *DATA)
    assert run_json(*command)["numbers"] == []
    assert run(*command).stdout.startswith("float16 against float ")


@pytest.mark.usefixtures("ours")
def test_a_model_with_other_outputs_is_an_error() -> None:
    command = ("verify", "out.onnx", "user_nets:plain", *DATA)
    assert "output" in run_json(*command, code=1)["error"]["message"]


@pytest.mark.usefixtures("folder")
def test_a_file_that_is_not_there_is_an_error() -> None:
    for more in ((), ("--layers",)):
        assert "gone.onnx" in run("verify", "gone.onnx", *OURS[2:], *more, code=1).stderr
