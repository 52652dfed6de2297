"""Results print as tables, show the same tables in a notebook, and are one line in a list."""

from html.parser import HTMLParser

import pytest
import torch
from torch import Tensor, nn

from embedl_deploy import Result, get_transformation_plan, transform
from embedl_deploy.quantize import analyze, placement, quantize
from embedl_deploy.table import Printed, Table, counted, table


class Cells(HTMLParser):
    """Cells of the tables, and other texts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, str]] = []
        self.tag = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tag = tag
        if tag in {"td", "th", "p"}:
            self.found.append((tag, ""))

    def handle_data(self, data: str) -> None:
        tag, text = self.found.pop()
        self.found.append((tag, text + data))


@pytest.fixture(scope="module")
def made() -> tuple[Result, list[Tensor]]:
    torch.manual_seed(0)
    data = [torch.randn(2, 3, 8, 8)]
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.PReLU(4), nn.Conv2d(4, 4, 1)).eval()
    return transform(net, (data[0],)), data


def results(result: Result, data: list[Tensor]) -> list[Printed]:
    model = quantize(result, data)
    plan = get_transformation_plan(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()))
    return [result, plan, analyze(model, data), placement(model)]


def test_a_table_is_text_and_html() -> None:
    made = table(("Name", "Why"), [("a", "x < y & z"), ("bcdef", "")])
    assert str(made) == "Name   Why\n─────  ─────────\na      x < y & z\nbcdef"
    assert "<td>x &lt; y &amp; z</td>" in made.html
    assert [text for _, text in Cells(made.html).found] == [
        "Name",
        "Why",
        "a",
        "x < y & z",
        "bcdef",
        "",
    ]
    assert table(("Name",), []) == ""


def test_a_notebook_shows_what_is_printed(made: tuple[Result, list[Tensor]]) -> None:
    for one in results(*made):
        shown = Cells(one._repr_html_()).found
        assert shown
        assert any(tag == "td" for tag, _ in shown)
        for _, text in shown:
            assert text in str(one)
        tables = [part for part in one._parts() if isinstance(part, Table) and part]
        cells = sum(len(row) for part in tables for row in part.rows)
        assert sum(tag == "td" for tag, _ in shown) == cells


def test_a_result_is_one_short_line_in_a_list(made: tuple[Result, list[Tensor]]) -> None:
    lines = [repr(one) for one in results(*made)]
    assert all(len(line) < 120 and "\n" not in line for line in lines)
    assert lines[0] == "<Result: 2 fused modules, 100.0% of the arithmetic>"
    assert lines[1] == "<TransformationPlan: 1 match, 0 refused>"
    assert lines[2].startswith("<Analysis: At the output with everything quantized: ")
    assert lines[3] == f"<Placement: {len(placement(quantize(*made)).rows)} rows>"


def test_things_are_counted_in_words() -> None:
    said = [counted(count, word) for count, word in ((0, "layer"), (1, "batch"), (2, "batch"))]
    assert said == ["0 layers", "1 batch", "2 batches"]
    assert counted(12345, "sample") == "12,345 samples"
