"""`docs/json.md` has every key that `--json` prints, with its type and whether it may be null."""

import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from embedl_deploy.cli.commands import tune as command
from embedl_deploy.export import OrderParity, Parity
from embedl_deploy.report.parity import parity_dict
from embedl_deploy.tensorrt import compile_onnx, explain_onnx
from embedl_deploy.tensorrt.engine import compilers, process
from embedl_deploy.tuning import Cost, Tuning, run, tune
from tests.cli.commands import run_json
from tests.tensorrt.engine import stand_in
from tests.tensorrt.rules.format_cases import CONV, FORMAT
from tests.tensorrt.rules.models import Text

PAGE = Path(__file__).parents[2] / "docs" / "json.md"
ROW = re.compile(r"^\| `(\w+)`( \(optional\))? \| (.*?) \| .+? \| (.*?) ?\|$", re.MULTILINE)
ALSO = re.compile(r"^Has the keys of \[(\w+)\]\(#\1\) too\.$", re.MULTILINE)
LINK = re.compile(r"\[[\w ]+\]\(#([\w-]+)\)")
KINDS: Mapping[str, type | tuple[type, ...]] = {
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "object": dict,
    "list": list,
    "map": dict,
}
NETS = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.slopes, self.head = nn.PReLU(3), nn.Linear(3, 6)
    def forward(self, x):
        return self.head(self.slopes(x.sin()).mean((2, 3)))

def net(): return Net()
def judge(predict): return {"sum": float("nan"), "rows": len(predict(torch.ones(4, 3, 2, 2)))}
def rows():
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(9, 2, 3, 2, 2, generator=generator)
    return [(one, torch.tensor([index % 6, 0])) for index, one in enumerate(rows)]
"""
ATTENTION = """v = Reshape(x, I_1_32_32)
q = QDQ(v, s)
t = Transpose<perm=[0,2,1]>(q)
k = QDQ(t, s)
a = MatMul(q, k)
p = Softmax(a)
y = MatMul(p, q)"""
Printed = list[tuple[str, dict[str, Any]]]


@dataclass(frozen=True)
class Key:
    """A row of a table."""

    kind: str
    optional: bool
    null: bool


@dataclass
class Held:
    """What the page says, and which of its tables and optional keys were seen."""

    tables: Mapping[str, Mapping[str, Key]]
    seen: set[str]

    def object(self, name: str, value: Mapping[str, Any]) -> None:
        table = self.tables[name]
        needed = {key for key, one in table.items() if not one.optional}
        assert needed <= value.keys() <= table.keys(), name
        self.seen |= {name, *(f"{name}.{key}" for key in value if table[key].optional)}
        for key, one in value.items():
            self.value(table[key].kind, one, f"{name}.{key}", null=table[key].null)

    def value(self, kind: str, value: Any, where: str, *, null: bool = False) -> None:
        if value is None:
            assert null, f"{where} is null"
            return
        outer, _, inner = kind.partition(" of ")
        if inner:
            each = value.values() if isinstance(value, dict) else value
            assert isinstance(value, KINDS[outer]), where
            for one in each:
                self.value(inner.removesuffix(" or null"), one, where, null="null" in inner)
        elif link := LINK.fullmatch(kind):
            self.object(link[1].replace("-", " "), value)
        else:
            assert isinstance(value, KINDS[kind]), where
            assert isinstance(value, bool) == (kind == "boolean"), where


def tables() -> dict[str, dict[str, Key]]:
    """The tables of the page by heading."""
    _, *parts = re.split(r"^## ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    texts = {title: text for title, _, text in (part.partition("\n") for part in parts)}
    found = {
        title: {name: Key(kind, bool(left), bool(null)) for name, left, kind, null in rows}
        for title, rows in ((title, ROW.findall(text)) for title, text in texts.items())
    }
    own = {title: dict(rows) for title, rows in found.items()}
    for title, text in texts.items():
        for base in ALSO.findall(text):
            assert not own[title].keys() & own[base].keys(), title
            found[title] |= own[base]
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The current folder, with a network of a user and a stand-in for TensorRT."""
    path = tmp_path_factory.mktemp("page")
    (path / "page_nets.py").write_text(NETS)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        patch.setattr(sys, "path", [*sys.path])
        stand_in.reset()
        patch.setitem(sys.modules, "tensorrt", stand_in)
        patch.setattr(process, "run", stand_in.run)
        patch.setattr(compilers, "_has_driver", lambda: True)
        patch.setattr(run, "cost_of", cost)
        patch.setattr(command, "tune", searched())
        yield path
    sys.modules.pop("page_nets", None)


def cost(path: Path, **_: object) -> Cost:
    """Each pair in the file makes it cheaper."""
    return Cost(100.0 - path.read_bytes().count(b"DequantizeLinear"), 1, 0)


def searched() -> Callable[..., Tuning]:
    """A short search, done once."""
    found: list[Tuning] = []

    def search(*arguments: Any, **options: Any) -> Tuning:
        found[:] = found or [tune(*arguments, **{**options, "trials": 0})]
        return found[0]

    return search


def models() -> Iterator[tuple[str, dict[str, Any]]]:
    """What commands print of a model and its file, by the heading of the table."""
    net, data = "page_nets:net", ("--data", "page_nets:rows")
    page = ("--report", "page.html")
    yield "inspect", run_json("inspect", net, "--shape", "3,2,2", *page)
    yield "tune", run_json("tune", net, "plan.json", *data, "--target", "tensorrt")
    made = ("--precision", "float16", "--compile", "--evaluate", "page_nets:judge")
    files = ("--tune", "--save-run", "net.yaml")
    yield "deploy", run_json("deploy", net, "net.onnx", *data, *made, *files, *page)
    yield "analyze", run_json("analyze", net, *data, "--sensitivity")
    yield "verify", run_json("verify", "net.onnx")
    yield "verify --layers", run_json("verify", "net.onnx", "--layers")
    yield "compare", run_json("compare", "net.onnx", "net.onnx")


def files(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """What commands print of a file."""
    yield "error", run_json("check", "gone.onnx", code=1)
    yield "error", run_json("check", code=2)
    opened = Text("a = QDQ(x, s)\nw = DQ(W_32x32)\ny = MatMul(a, w)", (("x", (None, 32)),))
    yield "check", run_json("check", str(opened.save(folder)))
    broken = str(FORMAT["F04"][0].save(folder))
    yield "check", run_json("check", broken, code=1)
    yield "explain", run_json("explain", broken)
    path = str(Text(CONV).save(folder))
    yield "explain", run_json("explain", path)
    yield "build", run_json("build", path, "net.plan")
    layers = ("--layers-from", "net.plan.layers.json")
    yield "build --layers-from", run_json("build", path, *layers)
    yield "build --trtexec", run_json("build", path, "--trtexec")
    stand_in.errors.append("nothing good")
    yield "build", run_json("build", path, code=1)
    stand_in.errors.clear()


def parts(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """What none of these commands print, and others do."""
    yield "compilation", replace(compile_onnx(Text(CONV).save(folder)), gpu="l4").to_dict()
    attention = Text(ATTENTION, (("x", (1, 1024)),)).save(folder)
    yield "compilation", compile_onnx(attention).to_dict()
    yield "explain", explain_onnx(attention).to_dict()
    yield "parity", parity_dict(Parity(orders={"top": OrderParity()}))


@pytest.fixture(scope="module")
def printed(folder: Path) -> Printed:
    """What commands print, by the heading of the table."""
    return [*models(), *files(folder)]


def test_the_page_has_every_key_and_no_other(printed: Printed, folder: Path) -> None:
    held = Held(tables(), set())
    whole = held.tables["every command"]
    for name, said in printed:
        assert said["schema_version"] == 1
        held.object("every command", {key: said[key] for key in whole if key in said})
        held.object(name, {key: one for key, one in said.items() if key not in whole})
    for name, said in parts(folder):
        held.object(name, json.loads(json.dumps(said)))
    optional = {
        f"{name}.{key}"
        for name, table in held.tables.items()
        for key, one in table.items()
        if one.optional
    }
    assert {*held.tables, *optional} - held.seen == {"transformed"}


def test_what_is_no_number_is_null(printed: Printed) -> None:
    found = dict(printed)["deploy"]["quantized_against_float"]["evaluation"]
    assert found == {"model": {"sum": None, "rows": 4}, "file": {"sum": None, "rows": 4}}


def test_files_that_are_not_kept_have_no_path(printed: Printed) -> None:
    found = dict(printed)["deploy"]["compiled"]
    assert (found["quantized"]["path"], found["float16"]["path"]) == ("net.onnx", None)
