"""A page holds its parts as data and as text, in one file that needs nothing else."""

import json
import math
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from embedl_deploy import Result, transform
from embedl_deploy.errors import ExportError, MissingExtraError
from embedl_deploy.export import export_onnx, verify_onnx
from embedl_deploy.onnx_model import OnnxFile
from embedl_deploy.quantize import QuantStub, analyze, quantize
from embedl_deploy.report import report
from embedl_deploy.report.page.graph import file_graph, module_path
from embedl_deploy.report.page.histogram import bars
from embedl_deploy.report.summary import summarize
from embedl_deploy.tensorrt import Compilation, Layer, LayerTensor, check_onnx, explain_onnx
from tests.cli.commands import run, run_json
from tests.tensorrt.rules.format_cases import CONV, FORMAT
from tests.tensorrt.rules.models import Text


class Reader(HTMLParser):
    """Scripts by id, addresses, and ids of a page; checks that elements close in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.scripts: dict[str, str] = {}
        self.sources: list[str] = []
        self.ids: list[str] = []
        self.open: list[str] = []
        self.current = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag not in {"meta", "link", "input", "path"}:
            self.open.append(tag)
        self.sources += [value or "" for key, value in attrs if key in {"src", "href"}]
        if given.get("id"):
            self.ids.append(given["id"] or "")
        self.current = given.get("id") or "" if tag == "script" else ""

    def handle_endtag(self, tag: str) -> None:
        if tag != "path":
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script" and self.current:
            self.scripts[self.current] = data


def read(path: Path) -> tuple[Reader, dict[str, Any]]:
    """A page, and the data in it."""
    reader = Reader(path.read_text(encoding="utf-8"))
    return reader, json.loads(reader.scripts["data"])


def graph(text: Text, folder: Path) -> dict[str, dict[str, Any]]:
    """Entries of a file's graph by name."""
    found = file_graph(OnnxFile.open(text.save(folder)).view)
    return {
        one["name"]: {**one, "reads": [found[i]["name"] for i in one["reads"]]} for one in found
    }


def test_a_page_holds_what_the_results_say_of_themselves(tmp_path: Path) -> None:
    file = OnnxFile.open(FORMAT["F04"][0].save(tmp_path))
    check, explanation = check_onnx(file), explain_onnx(file)
    page = report(tmp_path / "page.html", file=file, check=check, explanation=explanation)
    reader, data = read(page)
    assert data["check"] == json.loads(json.dumps(check.to_dict()))
    assert data["explanation"] == json.loads(json.dumps(explanation.to_dict()))
    assert len(data["graph"]) == len(file.view.graph.nodes) + 2
    assert data["verdict"][0]["level"] == "bad"
    assert data["environment"]["onnx"]
    text = page.read_text(encoding="utf-8")
    for one in check.findings:
        assert one.remedy in text.replace("&#39;", "'")
    assert len(set(reader.ids)) == len(reader.ids)


def test_a_page_needs_no_other_file_and_no_network(tmp_path: Path) -> None:
    file = Text(CONV).save(tmp_path)
    reader, _ = read(report(tmp_path / "page.html", file=file, check=check_onnx(file)))
    assert all(one.startswith(("#", "data:")) for one in reader.sources)
    inside = {one.removeprefix("#") for one in reader.sources if one.startswith("#")}
    assert inside <= set(reader.ids)
    assert "url(http" not in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_names_in_a_file_are_text_and_no_markup(tmp_path: Path) -> None:
    name = "</script><img src=x onerror=alert(1)>"
    file = OnnxFile.open(Text(CONV).save(tmp_path))
    for node in file.model.graph.node:
        node.name = f"{name}{node.name}"
    page = report(tmp_path / "page.html", file=file, explanation=explain_onnx(file), title=name)
    _, data = read(page)
    assert "<img" not in page.read_text(encoding="utf-8")
    assert data["title"] == name
    assert data["graph"][1]["name"].startswith(name)


def test_pairs_and_constants_are_shown_where_they_act(tmp_path: Path) -> None:
    found = graph(Text(CONV), tmp_path)
    names = list(found)
    host = {
        name: None if one["host"] is None else names[one["host"]] for name, one in found.items()
    }
    assert host["DequantizeLinear_a"] == "QuantizeLinear_a_q"
    assert host["DequantizeLinear_w"] == "Conv_c"
    assert host["Conv_c"] is host["QuantizeLinear_a_q"] is None
    assert found["Conv_c"]["computes"] == "INT8"
    assert found["Conv_c"]["reads"] == ["DequantizeLinear_a", "DequantizeLinear_w"]
    assert found["QuantizeLinear_a_q"]["note"] == "scale 0.05"
    assert re.fullmatch(r"16 scales, [\d.]+ to [\d.]+", found["DequantizeLinear_w"]["note"])
    assert (found["x"]["op"], found["x"]["shape"]) == ("Input", "1×16×8×8")
    assert found["y"]["reads"] == ["Relu_y"]


class Net(nn.Module):
    """Two convolutions and a residual, and a layer that nothing fuses."""

    def __init__(self) -> None:
        super().__init__()
        self.slopes = nn.PReLU(3)
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 3, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.slopes(x)
        return self.body(x) + x


@pytest.fixture(scope="module")
def made() -> tuple[Result, fx.GraphModule, list[Tensor]]:
    torch.manual_seed(0)
    data = [torch.randn(2, 3, 8, 8)]
    result = transform(Net().eval(), (data[0],))
    return result, quantize(result, data), data


def test_a_model_is_drawn_with_its_stubs_and_errors(
    made: tuple[Result, fx.GraphModule, list[Tensor]], tmp_path: Path
) -> None:
    result, model, data = made
    analysis, summary = analyze(model, data), summarize(result)
    page = report(tmp_path / "page.html", model=model, analysis=analysis, summary=summary)
    _, found = read(page)
    assert found["analysis"] == json.loads(json.dumps(analysis.to_dict()))
    by_name = {one["name"]: one for one in found["graph"]}
    assert {row.path for row in analysis.rows} <= set(by_name)
    stub = next(one for one in found["graph"] if one["op"] == "stub")
    assert (stub["computes"], stub["shape"], stub["dtype"]) == ("INT8", "2×3×8×8", "FLOAT32")
    module = model.get_submodule(stub["name"])
    assert isinstance(module, QuantStub)
    assert stub["note"] == f"scale {module.scale.item():.4g}"
    assert by_name["slopes"]["computes"] == ""
    assert by_name["body.0"]["computes"] == "INT8"
    for node, one in zip(model.graph.nodes, found["graph"], strict=True):
        assert len(one["reads"]) == len(node.all_input_nodes)
    texts = [one["text"] for one in found["verdict"]]
    assert f"{analysis.output_sqnr_db:.1f} dB at the outputs" in texts[0]
    assert min(analysis.rows, key=lambda row: row.sqnr_db).path in texts[0]
    assert "1 layer with weights in none" in texts[1]
    said = page.read_text(encoding="utf-8")
    assert said.count('class="spark"') == sum(bool(row.histogram) for row in analysis.rows) > 0


def test_a_file_is_shown_against_the_simulation(
    made: tuple[Result, fx.GraphModule, list[Tensor]], tmp_path: Path
) -> None:
    _, model, data = made
    export_onnx(model, (data[0],), tmp_path / "net.onnx")
    parity = verify_onnx(tmp_path / "net.onnx", model, data)
    page = report(tmp_path / "page.html", file=tmp_path / "net.onnx", parity=parity)
    _, found = read(page)
    assert found["verdict"][0]["level"] == "good"
    assert [one["path"] for one in found["parity"]["layers"]] == list(parity.stubs)
    next(iter(parity.stubs.values())).distance = 1.0
    _, found = read(report(page, parity=parity))
    assert found["verdict"][0]["level"] == "bad"
    assert next(iter(parity.stubs)) in found["verdict"][0]["text"]


def test_a_compilation_is_shown_with_its_estimate(tmp_path: Path) -> None:
    tensor = LayerTensor("x", (1, 64, 8, 8), "INT8")
    layer = Layer("conv", "CaskConvolution", ("conv",), (tensor,), (tensor,), (), 1000, "INT8")
    left = Layer("einsum", "gemm", ("einsum",), (tensor,), (tensor,), (), None)
    compilation = Compilation(
        *(Path("m.onnx"), "RTX 1.7", "rtx4090", None, 10, 1.25),
        *((), (layer, left), (), (), ("einsum", "lstm")),
    )
    time = compilation.estimate()
    assert time is not None
    page = report(tmp_path / "p.html", compilations=[compilation]).read_text(encoding="utf-8")
    assert f"<dd>{round(time.microseconds)} µs; {time.gpu.name} at its published peaks" in page
    assert "without the arithmetic of 1 kernel, not known" in page
    assert re.search(r"Not counted, though it multiplies: .*einsum.* and 1 more", page)
    assert '<td class="number" data-v="">not known</td>' in page


def test_bars_are_inside_the_range_or_outside() -> None:
    counts = [1, *[0] * 7, 5, *[0] * 30, 2, *[0] * 6, 9, 0]
    inside, outside = bars(counts, outside=False), bars(counts, outside=True)
    assert re.findall(r"M(\d+) ", inside) == ["24", "117"]
    assert re.findall(r"M(\d+) ", outside) == ["0", "138"]
    assert f"v-{30 * math.log1p(5) / math.log1p(9):.1f}h" in inside
    assert bars([0] * 48, outside=False) == ""


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("layer1.0.conv1/Conv", ["layer1", "0", "conv1"]),
        ("/layer1/layer1.0/conv1/Conv", ["layer1", "layer1.0", "conv1"]),
        ("/Add", []),
        ("node_conv2d_3", []),
    ],
)
def test_modules_are_read_from_names(name: str, path: list[str]) -> None:
    assert module_path(name) == path


def test_commands_write_pages(tmp_path: Path) -> None:
    file, page = str(Text(CONV).save(tmp_path)), tmp_path / f"{'long' * 20}.html"
    assert f"wrote {page}\n" in run("check", file, "--report", str(page)).stdout
    assert read(page)[1]["check"]["path"] == file
    assert run_json("explain", file, "--report", str(page))["report"] == str(page)
    assert read(page)[1]["explanation"]["path"] == file


def test_a_page_is_refused_before_any_work(tmp_path: Path) -> None:
    file = Text(CONV).save(tmp_path)
    said = run("check", str(file), "--report", str(file), code=2).stderr
    assert "ends in .html" in " ".join(said.split())
    run("check", str(file), "--report", str(tmp_path / "no" / "page.html"), code=2)
    with pytest.raises(ExportError, match=r"ends in \.html"):
        report(file, file=file)


def test_jinja2_is_named_where_it_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(MissingExtraError, match=r"embedl_deploy\[report\]"):
        report(tmp_path / "page.html")
    assert list(tmp_path.iterdir()) == []
