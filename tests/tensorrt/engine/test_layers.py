"""What TensorRT says of an engine is read, and held against the prediction."""

import json
from pathlib import Path
from typing import Any

import onnx
import pytest

from embedl_deploy.errors import BuildError
from embedl_deploy.tensorrt import (
    Comparison,
    Explanation,
    Outcome,
    compare_layers,
    explain_onnx,
    read_layers,
)
from tests.tensorrt.engine.stand_in import as_predicted, layer
from tests.tensorrt.rules.models import Text
from tests.tensorrt.rules.placement_cases import CONV, LAST

COPY = "Reformatting CopyNode for Input Tensor 0 to Conv_c"
MODEL = Text(CONV + "n = Relu(c)" + LAST.format("n"))


@pytest.fixture
def explanation(tmp_path: Path) -> Explanation:
    return explain_onnx(MODEL.save(tmp_path))


def written(layers: Any, folder: Path) -> Path:
    path = folder / "layers.json"
    path.write_text(json.dumps(layers))
    return path


def held(explanation: Explanation, layers: list[Any], folder: Path) -> Comparison:
    found = read_layers(written({"Layers": layers, "Bindings": ["x", "y"]}, folder))
    return compare_layers(explanation, found)


# --- reading ------------------------------------------------------------------------------------


def test_a_detailed_layer_has_its_operators_and_types(tmp_path: Path) -> None:
    entry = layer(["a/b[0]/Conv", "relu"], "INT8") | {"Name": "{ForeignNode[a...b]}"}
    (found,) = read_layers(written({"Layers": [entry]}, tmp_path))
    assert found.nodes == ("a/b[0]/Conv", "relu")
    assert (found.kind, found.reads, found.gives) == ("CaskConvolution", ("INT8",), ("INT8",))
    assert not found.is_reformat


def test_a_report_of_names_alone_has_the_operators_in_the_name(tmp_path: Path) -> None:
    names = ["conv + relu", "Reformatting CopyNode for Input Tensor 0 to conv + relu"]
    one, other = read_layers(written({"Layers": names}, tmp_path))
    assert (one.nodes, one.reads) == (("conv", "relu"), ())
    assert other.is_reformat


@pytest.mark.parametrize(
    ("said", "dtype"),
    [
        ("Thirty-two wide channel vectorized row major Int8 format", ("INT8",)),
        ("Row major linear FP32", ("FP32",)),
        ("Channel major FP16 format where channel % 8 == 0", ("FP16",)),
        ("Half", ("FP16",)),
        ("Row major linear BFloat16 format", ("BF16",)),
        ("Row major linear FP8E4M3", ("FP8",)),
        ("Float8E4M3", ("FP8",)),
        ("N/A due to dynamic shapes", ()),
    ],
)
def test_types_are_told_by_the_words_for_a_format(
    said: str, dtype: tuple[str, ...], tmp_path: Path
) -> None:
    entry = {"Name": "a", "LayerType": "gemm", "Inputs": [{"Format/Datatype": said}]}
    (found,) = read_layers(written({"Layers": [entry]}, tmp_path))
    assert found.reads == dtype


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("no JSON", 'has no "Layers"; write it with --exportLayerInfo='),
        ("[]", 'has no "Layers"'),
        ('{"Layers": 3}', "is no list"),
        ('{"Layers": [{"LayerType": "x"}]}', "a layer has no name"),
    ],
)
def test_what_is_no_report_is_refused(content: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "layers.json"
    path.write_text(content)
    with pytest.raises(BuildError, match=words) as caught:
        read_layers(path)
    assert str(path) in str(caught.value)
    with pytest.raises(BuildError, match="be read"):
        read_layers(tmp_path / "gone.json")


# --- comparing ----------------------------------------------------------------------------------


def test_an_engine_as_predicted_holds(explanation: Explanation, tmp_path: Path) -> None:
    found = held(explanation, as_predicted(explanation), tmp_path)
    assert found.counts == {"as predicted": len(explanation.kernels)} == {"as predicted": 3}
    assert (found.reformats, found.others, found.broken) == ((), (), ())
    assert found.summary == "of 3 predicted kernels: 3 as predicted; 0 reformats, 0 other layers"


def test_each_departure_has_its_name(explanation: Explanation, tmp_path: Path) -> None:
    copy = layer(["Conv_c"], "INT8", "Reformat") | {"Name": COPY}
    layers = [
        layer(["Conv_c"], "INT8"),
        layer(["Relu_n"], "INT8"),
        layer(["QuantizeLinear_a_q", "Conv_y"], "FP16"),
        layer(["something"], "FP32"),
        copy,
    ]
    found = held(explanation, layers, tmp_path)
    outcomes = {one.kernel.head: one.outcome for one in found.held}
    assert outcomes == {
        "QuantizeLinear_a_q": Outcome.MERGED,
        "Conv_c": Outcome.SPLIT,
        "Conv_y": Outcome.RETYPED,
    }
    assert [one.kernel.head for one in found.broken] == ["Conv_c", "Conv_y"]
    assert found.reformats == (COPY,)
    assert found.others == ("something",)
    values = json.loads(json.dumps(found.to_dict()))
    assert values["broken"] == ["Conv_c", "Conv_y"]
    assert values["held"][1]["outcome"] == "split"
    lines = str(found).splitlines()
    assert lines[3].split()[:5] == ["split", "K05", "convolution", "Conv_c", "2"]
    assert lines[-1].endswith("1 merged, 1 split, 1 other type; 1 reformat, 1 other layer")


def test_kernels_that_no_layer_names_are_said(explanation: Explanation, tmp_path: Path) -> None:
    found = held(explanation, [], tmp_path)
    assert found.counts == {"not named": 3}
    assert found.broken == ()


def test_a_quantizer_may_be_a_reformat(explanation: Explanation, tmp_path: Path) -> None:
    layers = as_predicted(explanation)
    layers[0]["LayerType"] = "Reformat"
    found = held(explanation, layers, tmp_path)
    assert found.counts == {"as predicted": 3}
    assert found.reformats == ()
    layers[1]["LayerType"] = "Reformat"
    assert held(explanation, layers, tmp_path).counts == {"as predicted": 2, "not named": 1}


def test_operators_without_a_name_are_called_after_what_they_make(tmp_path: Path) -> None:
    proto = MODEL.proto()
    for node in proto.graph.node:
        node.name = ""
    onnx.save(proto, tmp_path / "model.onnx")
    unnamed = explain_onnx(tmp_path / "model.onnx")
    layers = as_predicted(unnamed)
    for one in layers:
        one["Metadata"] = one["Metadata"].replace("Layer: ", "Layer: node_of_")
    assert held(unnamed, layers, tmp_path).counts == {"as predicted": 3}
