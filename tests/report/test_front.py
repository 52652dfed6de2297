"""The chart of placements shows what was measured, where it belongs."""

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from embedl_deploy.quantize import QuantConfig
from embedl_deploy.report import report
from embedl_deploy.report.page.front import front_chart
from embedl_deploy.tuning import Accuracy, Bound, Candidate, Choice, Cost, Evidence, Group, Tuning


def candidate(cost: float, sqnr: float, *left: str) -> Candidate:
    return Candidate(Choice(left=left), Cost(cost, 9, 0, str(cost), "RTX 1"), Accuracy(sqnr))


def tuning(*candidates: Candidate, half: float = 100.0) -> Tuning:
    return Tuning(
        groups=(
            Group("a", "FusedConvBN", ("a",), "a"),
            Group("b<i>", "FusedConvBN", ("b",), "b<i>"),
        ),
        evidence={
            "INT8": Evidence(
                candidates[0], Cost(half), {"a": 20.0, "b<i>": 10.0}, {"a": 0.1, "b<i>": 0.3}
            )
        },
        candidates=candidates,
        half=Cost(half, 8, 0, "half", "RTX 1"),
        score=None,
        bound=Bound(min_sqnr=25),
        base=QuantConfig(),
        unit="time",
        gpu="l4",
        batch=1,
        precision="float16",
        target="RTX",
        refused={},
        complete=True,
    )


FOUND = tuning(candidate(70, 20), candidate(80, 30, "b<i>"), candidate(95, 25, "a"))


def test_points_are_the_front_in_order_and_float16_is_a_line() -> None:
    chart = front_chart(FOUND.to_dict())
    left, right = chart["points"]
    assert [one["text"] for one in chart["points"]] == ["70.0 µs at 20.0 dB", "80.0 µs at 30.0 dB"]
    assert [one["best"] for one in chart["points"]] == [False, True]
    assert left["x"] < right["x"] < chart["half"]["x"] < chart["width"]
    assert right["y"] < left["y"]
    steps = (right["x"] - left["x"], chart["half"]["x"] - left["x"])
    assert steps[0] / steps[1] == pytest.approx(1 / 3, abs=0.01)


def test_noise_without_bound_is_no_number_of_json() -> None:
    found = replace(FOUND.evidence["INT8"], alone={"a": math.inf, "b<i>": 0.1})
    groups = replace(FOUND, evidence={"INT8": found}).to_dict()["groups"]
    assert [one["noise_over_signal"] for one in groups] == [None, 0.1]
    assert [found.share(one["name"]) for one in groups] == [1, 0]


@pytest.mark.parametrize(
    "one", [candidate(90, 20), candidate(90, float("inf")), candidate(130, 20)]
)
def test_a_single_point_or_none_is_drawn(one: Candidate) -> None:
    chart = front_chart(tuning(one).to_dict())
    places: list[Any] = [*chart["points"], *chart["up"]]
    assert all(0 <= place["y"] <= chart["height"] for place in places)
    assert 0 <= chart["half"]["x"] <= chart["width"]


def test_the_page_has_the_chart_its_table_and_the_reasons(tmp_path: Path) -> None:
    page = report(tmp_path / "p.html", title="plan", tuning=FOUND).read_text(encoding="utf-8")
    assert "Placement: 80.0 µs, 80% of float16&#39;s, at 30.0 dB" in page
    chart = re.search(r'<svg class="chart front".*?</svg>', page, re.DOTALL)
    assert chart is not None
    assert 'role="img"' in chart[0]
    assert "70.0 µs at 20.0 dB, 80.0 µs at 30.0 dB; float16, 100.0 µs</title>" in chart[0]
    assert chart[0].count("<circle") == 2
    assert chart[0].count('class="half"') == 1
    assert "b&lt;i&gt; (best)" in page
    assert "b<i>" not in page
    assert FOUND.reason(FOUND.groups[0]) in page
