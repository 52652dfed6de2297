"""`embedl-deploy deploy` writes a checked file, or an error and nothing else."""

import json
from importlib.util import find_spec
from pathlib import Path

import onnx
import pytest
import torch
from onnx import TensorProto

from embedl_deploy.cli.commands import journey, order
from embedl_deploy.cli.values import ObserverChoice
from embedl_deploy.export import OnnxModel, Parity
from embedl_deploy.quantize import QuantConfig
from tests.cli.commands import files, run, run_json

needs_rtx = pytest.mark.skipif(
    find_spec("tensorrt_rtx_bindings") is None,
    reason="TensorRT for RTX is not installed: pip install 'embedl_deploy[rtx]'",
)
SMALL = ("deploy", "user_nets:small", "out.onnx")
SHAPE = ("--shape", "3,8,8")
PLAIN = (*SHAPE, "--no-normalization")


def test_a_file_is_written_and_the_table_says_how(folder: Path) -> None:
    result = run(*SMALL, "--data", "photos", *PLAIN, "--batch", "2", "--batch-size", "2")
    words = " ".join(result.stdout.split())
    assert "4 modules: 2 FusedConvBN, 1 FusedConvBNReLU, 1 FusedLinear" in words
    assert "4 tensors and 4 weights to INT8" in words
    assert "4 samples in 2 batches of photos, min-max" in words
    assert "Parity file against simulation: output SQNR" in words
    assert "INT8 against float" in words
    assert "4 samples that calibrated too (too few to hold some out)" in words
    assert "Weights RANDOM" in words
    assert "Checked 0 errors, " in words
    assert "multiply-accumulates: 100.0% in INT8; embedl-deploy explain shows them" in words
    assert OnnxModel(folder / "out.onnx").batch_size == 2


def test_json_has_the_figures(folder: Path) -> None:
    options = ("--observer", "percentile", "--percentile", "99", "--patterns", "mixed")
    found = run_json(*SMALL, "--data", "rows.npz", "--dynamic-batch", "--limit", "5", *options)
    expected = {
        "output": "out.onnx",
        "input_shapes": [[1, 3, 8, 8]],
        "dynamic_batch": True,
        "observer": "percentile",
        "patterns": "mixed",
        "calibration_batches": 1,
        "quantized_tensors": 3,
        "quantized_weights": 3,
        "file_bytes": (folder / "out.onnx").stat().st_size,
    }
    assert {key: found[key] for key in expected} == expected
    assert found["parity"]["only_ties"] is True
    assert (found["check"]["ok"], found["check"]["path"]) == (True, "out.onnx")
    assert [one["path"] for one in found["unfused"]] == ["slopes"]
    assert found["expected"]["counts"]["convolution"] == 3
    assert found["expected"]["shares"]["INT8"] < 1  # the depthwise one stays in floating point
    computed = OnnxModel(folder / "out.onnx")(torch.zeros(5, 3, 8, 8))
    assert computed["output"].shape == (5, 2)


@needs_rtx
def test_the_file_is_compiled_beside_that_in_float16(folder: Path) -> None:
    options = ("--data", "rows.npz", "--dynamic-batch", "--precision", "float16", "--compile")
    found = run_json(*SMALL, *options, "--gpu", "l4")["compiled"]
    quantized, half = found["quantized"], found["float16"]
    assert {one["simulated"] for one in quantized["products"]} == {"INT8"}
    assert {one["simulated"] for one in half["products"]} == {"FP16"}
    assert (quantized["gpu"], half["gpu"]) == ("l4", "l4")
    assert quantized["bytes"] > 0
    assert "INT8 does not pay on l4" in found["verdict"]  # it is so small that launches are all
    said = " ".join(run(*SMALL, *options).stdout.split())
    assert "the compiler builds it and keeps the type of every product" in said
    assert "Beside INT8: " in said
    assert {one.name for one in folder.iterdir() if one.suffix == ".onnx"} == {"out.onnx"}


@needs_rtx
@pytest.mark.usefixtures("folder")
def test_a_gpu_needs_the_compiler() -> None:
    options = (*SMALL, "--data", "rows.npz")
    run(*options, "--gpu", "l4", code=2)
    error = run_json(*options, "--compile", "--gpu", "h100", code=1)["error"]["message"]
    assert "does not build for h100, which is SM90" in error
    assert not Path("out.onnx").exists()


@pytest.mark.usefixtures("folder")
def test_the_accurate_recipe_says_what_it_kept() -> None:
    data = ("--data", "rows.npz", "--batch-size", "2")
    found = run_json(*SMALL, *data, "--recipe", "accurate")
    assert found["recipe"] == "accurate"
    known = {"smooth", "equalize", "MSE observers", "adaround", "correct_bias"}
    known |= {f"{ends} layers in floating point" for ends in ("last", "first")}
    assert known.issuperset(found["steps_kept"])
    assert found["steps_kept"]
    assert found["calibration_batches"] == 3
    assert found["parity"]["only_ties"] is True


@pytest.mark.usefixtures("folder")
def test_every_input_and_the_types_of_a_file_are_said() -> None:
    found = run(
        *("deploy", "user_nets:twice", "out.onnx", "--data", "user_nets:pairs"),
        *("--precision", "float16", "--float32-io"),
    )
    words = " ".join(found.stdout.split())
    assert "Takes 1×4, 1×6 " in words
    assert "float16 and INT8, inputs and outputs float32" in words


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("source", ["user_nets:labelled", "user_nets:named"])
def test_data_from_code_gives_the_shape_and_may_have_labels(source: str) -> None:
    found = run_json(*SMALL, "--data", source, "--no-verify")
    assert found["input_shapes"] == [[1, 3, 8, 8]]
    assert found["calibration_batches"] == 3
    assert found["parity"] is None


@pytest.mark.usefixtures("folder")
def test_the_observer_is_the_one_that_was_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[object] = []

    def config(job: order.Order) -> QuantConfig:
        chosen.append(job.observer)
        return QuantConfig()

    monkeypatch.setattr(order.Order, "config", property(config))
    result = run(*SMALL, "--data", "rows.npz", "--no-verify", "--observer", "mse")
    assert chosen == [ObserverChoice.MSE]
    assert "of rows.npz, mse" in " ".join(result.stdout.split())


def test_every_choice_is_an_observer() -> None:
    made = {choice: order._OBSERVERS.get(choice) for choice in ObserverChoice}
    assert made.pop(ObserverChoice.PERCENTILE) is None
    names = {choice.value: kind.__name__ for choice, kind in made.items() if kind is not None}
    assert names == {
        "minmax": "MinMaxObserver",
        "average": "MovingAverageObserver",
        "entropy": "EntropyObserver",
        "mse": "MSEObserver",
    }


def test_nothing_but_the_file_is_left(folder: Path) -> None:
    before = files(folder)
    run(*SMALL, "--data", "rows.npz")
    assert set(files(folder)) - set(before) == {folder / "out.onnx"}


# --- bad input ---------------------------------------------------------------------------------

BAD = {
    "no such model": (("deploy", "torchvision:resnet19", "out.onnx", "--data", "photos"), "resnet"),
    "no such data": ((*SMALL, "--data", "nowhere"), "'nowhere' does not exist"),
    "unknown normalization": ((*SMALL, "--data", "photos", *SHAPE), "--mean and --std"),
    "normalized arrays": ((*SMALL, "--data", "rows.npz", "--mean", "0.5"), "are for images"),
    "labels of code": (
        (*SMALL, "--data", "user_nets:labelled", "--labels", "y.npy"),
        "bring their own",
    ),
    "no labels": ((*SMALL, "--data", "rows.npz", "--labels", "gone.npy"), "no file of labels"),
    "no classes": ((*SMALL, "--data", "photos", *PLAIN, "--labels", "folders"), "each class"),
    "no judge": ((*SMALL, "--data", "rows.npz", "--evaluate", "user_nets:judge"), "no 'judge'"),
    "unknown shape": ((*SMALL, "--data", "photos"), "--shape 3,224,224"),
    "not an image": ((*SMALL, "--data", "broken", *PLAIN), "text.png' is not an image"),
    "misfit weights": ((*SMALL, "--data", "rows.npz", "--weights", "misfit.pt"), "do not fit"),
    "misfit shape": (
        (*SMALL, "--data", "photos", "--shape", "1,8,8", "--no-normalization"),
        "'slopes'",
    ),
    "misfit rows": ((*SMALL, "--data", "rows.npz", "--shape", "3,9,9"), "rows.npz"),
    "misfit batch": ((*SMALL, "--data", "user_nets:misfits"), "batch 1"),
    "no samples": ((*SMALL, "--data", "user_nets:nothing"), "no samples"),
    "not finite": ((*SMALL, "--data", "user_nets:not_finite"), "not finite"),
    "nothing fuses": (
        ("deploy", "user_nets:plain", "out.onnx", "--data", "rows.npz"),
        "Q/DQ point",
    ),
    "no such folder": (("deploy", *SMALL[1:2], "no/out.onnx", "--data", "rows.npz"), "'no'"),
    "a folder": (("deploy", *SMALL[1:2], "folder.onnx", "--data", "rows.npz"), "is a folder"),
}


@pytest.mark.parametrize(("arguments", "words"), BAD.values(), ids=BAD)
def test_bad_input_is_one_clear_error_and_leaves_nothing(
    folder: Path, arguments: tuple[str, ...], words: str
) -> None:
    (folder / "out.onnx").write_text("an older file")
    (folder / "folder.onnx").mkdir()
    before = files(folder)
    result = run(*arguments, "--json", code=1)
    message = json.loads(result.stdout)["error"]["message"]
    assert words in message
    assert f"\n{result.stderr}".count(f"\nerror: {message}\n") == 1
    assert files(folder) == before


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    "arguments",
    [
        ("--data", "rows.npz", "--percentile", "99"),
        ("--data", "rows.npz", "--observer", "percentile", "--percentile", "101"),
        ("--data", "photos", "--mean", "half"),
        ("--data", "photos", "--mean", "0.5", "--no-normalization"),
        ("--data", "photos", "--limit", "0"),
        (),
    ],
)
def test_a_wrong_command_line_ends_with_two(arguments: tuple[str, ...]) -> None:
    run(*SMALL, *arguments, code=2)


def test_a_file_that_does_not_compute_what_was_simulated_is_not_written(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = Parity()
    wrong.add(torch.ones(3), torch.zeros(3))
    monkeypatch.setattr(journey, "verify_onnx", lambda *_, **__: wrong)
    before = files(folder)
    error = run_json(*SMALL, "--data", "rows.npz", code=1)["error"]
    assert error["type"] == "VerificationError"
    assert "was not written" in error["message"]
    assert files(folder) == before


# --- normalization -----------------------------------------------------------------------------


def scales(*options: str) -> float:
    """Something that depends on how images are normalized: the first scale in the file."""
    import onnx_ir

    run(*SMALL, "--data", "photos", *SHAPE, "--no-verify", *options)
    model = onnx_ir.load("out.onnx")
    first = next(node for node in model.graph if node.op_type == "QuantizeLinear")
    scale = first.inputs[1]
    assert scale is not None
    assert scale.const_value is not None
    return float(scale.const_value.numpy())


@pytest.mark.usefixtures("folder")
def test_images_are_normalized_as_asked() -> None:
    raw = scales("--no-normalization")
    assert raw == pytest.approx(1 / 127)  # one photo is white
    assert scales("--mean", "0", "--std", "0.5") == pytest.approx(2 * raw)
    usual = ("--mean", "0.485,0.456,0.406", "--std", "0.229,0.224,0.225")
    assert scales(*usual) == pytest.approx((1 - 0.406) / 0.225 / 127)


def test_the_file_may_be_in_half_precision(folder: Path) -> None:
    found = run_json(*SMALL, "--data", "rows.npz", "--precision", "float16")
    assert found["precision"] == "float16"
    assert found["parity"]["only_ties"] is True
    file = onnx.load(folder / "out.onnx")
    assert {one.data_type for one in file.graph.initializer} <= {
        TensorProto.FLOAT16,
        TensorProto.INT8,
        TensorProto.INT64,
    }


def test_parts_may_stay_in_float32(folder: Path) -> None:
    options = ("--precision", "float16", "--float32-io", "--keep-float32", "last")
    found = run_json(*SMALL, "--data", "rows.npz", *options)
    assert not [one for one in found["check"]["findings"] if one["rule"] == "T04"]
    file = onnx.load(folder / "out.onnx")
    ends = (*file.graph.input, *file.graph.output)
    assert {one.type.tensor_type.elem_type for one in ends} == {TensorProto.FLOAT}
    types = {one.name: one.data_type for one in file.graph.initializer}
    added = [node for node in file.graph.node if node.op_type == "Add" and node.input[1] in types]
    biases = {node.name: types[node.input[1]] for node in added}
    assert biases.pop("last.affine/Add") == TensorProto.FLOAT
    assert set(biases.values()) == {TensorProto.FLOAT16}


def test_modules_are_left_in_floating_point_as_asked(folder: Path) -> None:
    everything = run_json(*SMALL, "--data", "rows.npz")
    skipped = ("--skip", "stem.*", "--skip", "head")
    found = run_json(*SMALL, "--data", "rows.npz", *skipped)
    assert everything["quantized_weights"] - found["quantized_weights"] == 2
    file = onnx.load(folder / "out.onnx")
    stored = [one for one in file.graph.initializer if one.data_type == TensorProto.INT8]
    assert {one.name.split(".")[0] for one in stored if len(one.dims) > 1} == {"depthwise", "last"}
    again = run_json("verify", "out.onnx", "--layers")
    assert again["ok"]
    error = run_json(*SMALL, "--data", "rows.npz", "--skip", "tail", code=1)["error"]
    assert (
        "selects no fused module with 'tail'; print(result), or inspect --all" in error["message"]
    )


@pytest.mark.parametrize(("choice", "pairs"), [("inputs", 5), ("full", 7), ("none", 2)])
def test_attention_is_quantized_as_asked(choice: str, pairs: int, folder: Path) -> None:
    options = ("--data", "user_nets:tokens", "--attention", choice, "--no-verify")
    found = run_json("deploy", "user_nets:attends", "out.onnx", *options)
    assert found["attention"] == choice
    nodes = onnx.load(folder / "out.onnx").graph.node
    assert sum(node.op_type == "QuantizeLinear" for node in nodes) == pairs


def test_attention_may_be_one_operator(folder: Path) -> None:
    options = ("--data", "user_nets:tokens", "--attention", "none", "--attention-op")
    run("deploy", "user_nets:attends", "out.onnx", *options)
    file = onnx.load(folder / "out.onnx")
    assert "Attention" in {node.op_type for node in file.graph.node}
    assert file.opset_import[0].version == 23
