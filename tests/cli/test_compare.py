"""Two files of any tools are run on the same data, and stand side by side."""

import re
from collections.abc import Sequence
from html import unescape
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from embedl_deploy import Target, transform
from embedl_deploy.default import TARGETS
from embedl_deploy.errors import CalibrationError, VerificationError
from embedl_deploy.export import compare_files, export_onnx
from embedl_deploy.quantize import quantize
from tests.cli.commands import run, run_json
from tests.cli.test_output import fits
from tests.cli.test_report import parts

DRAW = np.random.default_rng(0)
FIRST, LAST = (DRAW.normal(size=(8, 8)).astype(np.float32) for _ in range(2))
ROWS = DRAW.normal(size=(6, 8)).astype(np.float32)


def saved(
    path: Path,
    weights: Sequence[NDArray[np.float32]] = (FIRST, LAST),
    *,
    ends: tuple[str, str] = ("x", "y"),
    batch: int | str = "batch",
    names: Sequence[str] = ("first", "relu", "last"),
) -> Path:
    """Two products with a ReLU between them."""
    x, y = ends
    nodes = [
        helper.make_node("MatMul", [x, "w0"], ["a"], name=names[0]),
        helper.make_node("Relu", ["a"], ["b"], name=names[1]),
        helper.make_node("MatMul", ["b", "w1"], [y], name=names[2]),
    ]
    given, made = (
        [helper.make_tensor_value_info(one, TensorProto.FLOAT, [batch, 8])] for one in ends
    )
    arrays = [numpy_helper.from_array(one, f"w{i}") for i, one in enumerate(weights)]
    graph = helper.make_graph(nodes, "net", given, made, arrays)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)]), path)
    return path


@pytest.fixture
def pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """The second file has other weights in its last layer, and other names of input and output."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    np.savez(tmp_path / "rows.npz", x=ROWS)
    other = (FIRST, (LAST * 1.01).astype(np.float32))
    return saved(tmp_path / "a.onnx"), saved(tmp_path / "b.onnx", other, ends=("input", "output"))


def sqnr(wanted: NDArray[Any], found: NDArray[Any]) -> float:
    noise = ((wanted - found) ** 2).sum()
    return float(10 * np.log10((wanted**2).sum() / noise))


@pytest.mark.usefixtures("pair")
def test_outputs_and_layers_are_as_numpy_computes_them() -> None:
    found = run_json("compare", "a.onnx", "b.onnx", "--data", "rows.npz")
    hidden = np.maximum(ROWS.astype(np.float64) @ FIRST, 0)
    wanted, other = hidden @ LAST, hidden @ (LAST * 1.01).astype(np.float32)
    (output,) = found["outputs"]
    assert found["samples"] == len(ROWS)
    assert output["name"] == "y"
    assert output["sqnr_db"] == pytest.approx(sqnr(wanted, other), abs=0.05)
    assert output["same_top1"] == (wanted.argmax(1) == other.argmax(1)).sum()
    layers = {one["name"]: one["sqnr_db"] for one in found["layers"]}
    assert layers.keys() == {"first", "relu", "last"}
    assert layers["first"] is layers["relu"] is None  # no difference at all
    assert layers["last"] == pytest.approx(output["sqnr_db"], abs=1e-3)


def test_both_files_are_said_side_by_side(pair: tuple[Path, Path]) -> None:
    found = run_json("compare", "a.onnx", "b.onnx")
    assert [one["bytes"] for one in found["files"]] == [one.stat().st_size for one in pair]
    assert all(one["operators"] == 3 and one["opset"] == 21 for one in found["files"])
    assert all(one["shares"] == {"FP32": 1.0} for one in found["files"])
    shown = run("compare", "a.onnx", "b.onnx").stdout
    fits(shown)
    words = " ".join(shown.split())
    assert "on 1 sample of random numbers" in words
    assert "File a.onnx b.onnx" in words
    fits(run("compare", "a.onnx", "b.onnx", "--data", "rows.npz", "--all").stdout)


def test_a_page_has_both_files(pair: tuple[Path, Path], tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    options = ("a.onnx", "b.onnx", "--data", "rows.npz", "--report", str(page))
    said = run_json("compare", *options)
    data = parts(page)
    assert said["report"] == str(page)
    assert data["title"] == "a.onnx and b.onnx"
    assert data["beside"] == {key: said[key] for key in data["beside"]}
    assert [one["name"] for one in data["graph"]] == ["x", "first", "relu", "last", "y"]
    figure = f"{said['outputs'][0]['sqnr_db']:.1f} dB"
    lines = [(one["level"], one["text"]) for one in data["verdict"]]
    told = f"b.onnx against a.onnx: {figure} at y, on 6 samples of rows.npz; the same class for"
    assert lines[0][1].startswith(told)
    words = " ".join(unescape(re.sub(r"<[^>]+>", " ", page.read_text(encoding="utf-8"))).split())
    for one in pair:
        assert f"{one.stat().st_size / 1000:.1f} kB" in words
    assert f"last {figure.removesuffix(' dB')}" in words
    assert words.count("the same") >= 2  # of the layers before the one that differs
    (rule,) = {name for one in said["files"] for name in one["findings"]}
    assert f"{rule} asks that" in words
    assert not page.with_name("a.html").exists()
    run("compare", "a.onnx", "gone.onnx", "--report", "a.html", code=1)
    assert not page.with_name("a.html").exists()


@pytest.mark.usefixtures("pair")
def test_what_is_the_same_is_called_so() -> None:
    shown = " ".join(run("compare", "a.onnx", "b.onnx", "--data", "rows.npz").stdout.split())
    assert "The same 2 layers of 3" in shown
    assert "first" not in shown.partition("SQNR")[2]
    shown = " ".join(run("compare", "a.onnx", "a.onnx", "--data", "rows.npz").stdout.split())
    assert "y the same numbers; top-1 agrees in 100.0% (6 of 6) The same 3 layers of 3" in shown
    assert "inf dB" not in shown
    assert "SQNR" not in shown
    every = run("compare", "a.onnx", "a.onnx", "--data", "rows.npz", "--all").stdout
    assert " ".join(every.split()).count("the same ") == 4


def test_layers_of_other_names_are_left_out(pair: tuple[Path, Path], tmp_path: Path) -> None:
    other = saved(tmp_path / "c.onnx", names=("n0", "relu", "n2"))
    found = compare_files(pair[0], other)
    assert list(found.layers) == ["relu"]
    assert found.drawn
    assert found.sqnr_db == float("inf")
    assert (
        "none has the same name"
        in run("compare", "a.onnx", str(saved(tmp_path / "d.onnx", names=("p", "q", "r")))).stdout
    )


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_layers_of_a_quantized_file_stand_beside_those_of_the_float_one(
    target: Target, tmp_path: Path
) -> None:
    """Whether a bias is inside the product or after it: what is compared has it."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.up = nn.Conv2d(3, 8, 3), nn.ConvTranspose2d(8, 4, 2)
            self.head = nn.Linear(4, 5)

        def forward(self, x: Tensor) -> Tensor:
            y = self.up(self.conv(x))
            return self.head(y.flatten(2).transpose(1, 2))

    with torch.random.fork_rng():
        torch.manual_seed(0)
        net, rows = Net().eval(), torch.randn(2, 3, 6, 6)
    for layer in (net.conv, net.up, net.head):
        nn.init.constant_(layer.get_parameter("bias"), 10.0)
    result = transform(net, (rows,), target=target)
    first, second = tmp_path / "float.onnx", tmp_path / "int8.onnx"
    for path, model in ((first, result.model), (second, quantize(result, [rows]))):
        export_onnx(model, (rows,), path, precision="float16")
    found = compare_files(first, second, [rows.half()]).layers
    products = {name: one.sqnr_db for name, one in found.items() if name[:2] in {"co", "up", "he"}}
    assert products.keys() == {"conv.conv/Conv", "up.conv/ConvTranspose", "head.linear/MatMul"}
    assert all(35 < one < 80 for one in products.values()), products


def test_a_deep_file_needs_no_deep_stack(tmp_path: Path) -> None:
    """A product of what 1,500 operators make is none of a weight."""
    names = ["x", *(f"r{i}" for i in range(1500))]
    nodes = [helper.make_node("Relu", [a], [b], name=b) for a, b in pairwise(names)]
    nodes.append(helper.make_node("MatMul", ["x", names[-1]], ["y"], name="last"))
    ends = [helper.make_tensor_value_info(one, TensorProto.FLOAT, [4, 4]) for one in "xy"]
    graph = helper.make_graph(nodes, "deep", ends[:1], ends[1:])
    path = tmp_path / "deep.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)]), path)
    assert len(compare_files(path, path).layers) == len(nodes)


def test_external_weights_count(pair: tuple[Path, Path], tmp_path: Path) -> None:
    file = onnx.load(pair[0])
    place = tmp_path / "c.onnx"
    onnx.save(file, place, save_as_external_data=True, location="c.weights", size_threshold=0)
    _, found = run_json("compare", "a.onnx", "c.onnx")["files"]
    assert found["bytes"] == place.stat().st_size + (tmp_path / "c.weights").stat().st_size


@pytest.mark.usefixtures("pair")
def test_the_exit_status_is_by_the_bound() -> None:
    run("compare", "a.onnx", "b.onnx", "--min-sqnr", "39")
    run("compare", "a.onnx", "b.onnx", "--min-sqnr", "41", code=1)


def test_batches_are_cut_to_what_a_file_takes(pair: tuple[Path, Path], tmp_path: Path) -> None:
    fixed = saved(tmp_path / "c.onnx", batch=4)
    assert compare_files(pair[0], fixed, [{"x": tensor(ROWS)}]).samples == 4
    with pytest.raises(VerificationError, match="take batches of 2 and of 4"):
        compare_files(fixed, saved(tmp_path / "d.onnx", batch=2))


def tensor(array: NDArray[np.float32]) -> Any:
    import torch

    return torch.from_numpy(array)


def test_files_that_do_not_go_together_are_refused(pair: tuple[Path, Path], tmp_path: Path) -> None:
    narrow = (FIRST, LAST[:, :4].copy())
    graph = onnx.load(saved(tmp_path / "c.onnx", narrow))
    del graph.graph.output[0].type.tensor_type.shape.dim[1:]
    graph.graph.output[0].type.tensor_type.shape.dim.add().dim_value = 4
    onnx.save(graph, tmp_path / "c.onnx")
    with pytest.raises(VerificationError, match=r"has shape \(1, 8\) in the first file and"):
        compare_files(pair[0], tmp_path / "c.onnx")
    with pytest.raises(VerificationError, match="take the inputs x, and a batch has z"):
        compare_files(*pair, [{"z": tensor(ROWS)}])
    with pytest.raises(VerificationError, match="there is no data to compare with"):
        compare_files(*pair, [])
    with pytest.raises(CalibrationError, match="the data is a Tensor"):
        compare_files(*pair, tensor(ROWS))
    with pytest.raises(VerificationError, match="a NoneType names no file"):
        compare_files(pair[0], None)  # type: ignore[arg-type]
    graph.graph.output.append(helper.make_tensor_value_info("b", TensorProto.FLOAT, [None, 8]))
    onnx.save(graph, tmp_path / "c.onnx")
    with pytest.raises(VerificationError, match="the files have other outputs: y in the first"):
        compare_files(pair[0], tmp_path / "c.onnx")


def test_what_is_open_can_not_be_drawn(pair: tuple[Path, Path]) -> None:
    graph = onnx.load(pair[0])
    graph.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "width"
    onnx.save(graph, pair[0])
    with pytest.raises(VerificationError, match="the input 'x' has open sizes: give data"):
        compare_files(*pair)


@pytest.mark.parametrize(
    "options", [("--mean", "0.5"), ("--shape", "3,8,8"), ("--data", ".", "--mean", "0.5")]
)
def test_options_that_do_not_go_are_misuse(
    pair: tuple[Path, Path], options: tuple[str, ...]
) -> None:
    run("compare", *map(str, pair), *options, code=2)
