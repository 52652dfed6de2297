"""The zoo's own judgement: what it chooses, compares, counts and writes."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.zoo import package_models
from benchmarks.zoo.arithmetic import arithmetic
from benchmarks.zoo.entry import Built, Entry
from benchmarks.zoo.layers import calls, ledger
from benchmarks.zoo.outputs import difference, run, tensors, weakness
from benchmarks.zoo.page import page
from benchmarks.zoo.record import Record, Results
from benchmarks.zoo.runner import Limits, Server, placeless, run_all
from benchmarks.zoo.timm_models import smallest
from benchmarks.zoo.warmth import warm
from embedl_deploy import Result, transform
from embedl_deploy.patterns import Pattern
from embedl_deploy.tensorrt import TENSORRT_PATTERNS
from tests.helpers import net


def taken(model: nn.Module, *args: Tensor, patterns: Any = TENSORRT_PATTERNS) -> Result:
    return transform(model, args, patterns=patterns, copy=False)


# --- the models ----------------------------------------------------------------------------------


def test_the_smallest_model_of_each_family_is_chosen() -> None:
    sizes = [("b", "b1", 9), ("b", "b0", 3), ("b", "b2", 3), ("a", "a0", None), ("a", "a1", 5)]
    assert smallest(sizes) == [Entry("timm:a1", "a", 5), Entry("timm:b0", "b", 3)]


@pytest.mark.parametrize("source", package_models.PACKAGES)
def test_models_of_a_package_are_there_where_it_is_installed(
    source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert package_models.entries(source)(Path()) == []
    monkeypatch.setattr("importlib.util.find_spec", lambda _: object())
    found = package_models.entries(source)(Path())
    assert found
    assert {one.source for one in found} == {source}


def test_inputs_that_a_model_writes_to_stay_what_they_are() -> None:
    x = torch.ones(3)
    assert run(net(lambda _, x: x.mul_(2)), ((x,), {}))[0].sum() == 6
    assert x.sum() == 3


def test_warm_leaves_nothing_silent() -> None:
    norm, silent, weak = nn.BatchNorm2d(8), nn.Conv2d(8, 4, 1), nn.Conv2d(3, 8, 3)
    nn.init.zeros_(silent.weight)
    nn.init.normal_(weak.weight, std=1e-3)
    model = nn.Sequential(weak, norm, silent)
    warm(Built(model, lambda batch: ((torch.randn(batch, 3, 9, 9) * 5 + 2,), {})))
    assert not any(module.training for module in model.modules())
    assert norm.running_mean is not None
    assert norm.momentum == 0.1
    assert norm.running_mean.std() > 0.1
    assert all(parameter.std() > 0.05 for parameter in model.parameters())


# --- comparison ----------------------------------------------------------------------------------


def test_the_difference_is_relative_to_the_largest_value_of_each_tensor() -> None:
    one, other = [torch.tensor([2.0, -4.0]), torch.ones(1)], [torch.tensor([2.0, -3.0])]
    assert difference(one, [*other, torch.ones(1)]) == 0.25
    assert difference(one, one) == 0


@pytest.mark.parametrize(
    ("got", "words"),
    [([torch.ones(3)], "shapes"), ([torch.tensor([1.0, math.nan])], "graph is not finite")],
)
def test_what_can_not_be_compared_is_said(got: list[Tensor], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        difference([torch.ones(2)], got)


def test_an_output_that_shows_nothing_is_weak() -> None:
    good = torch.randn(4)
    assert weakness([good], [good + 1]) is None
    assert weakness([torch.ones(4)], [torch.ones(4)]) == "the output is constant"
    assert weakness([good], [good * 1.0001]) == "the output hardly depends on the input"
    assert weakness([], []) == "the model gives no tensor"


def test_outputs_in_containers_are_found_in_order() -> None:
    one, two, three = torch.zeros(1), torch.ones(1), torch.ones(2)
    assert [id(each) for each in tensors({"a": one, "b": (two, [three, None])})] == [
        id(one),
        id(two),
        id(three),
    ]


# --- the law -------------------------------------------------------------------------------------


def layered() -> nn.Module:
    def forward(self: Any, x: Tensor) -> Tensor:
        y = self.norm(self.one(x) + F.linear(x, self.functional.weight))
        return self.attention(y, y, y, need_weights=False)[0] + self.one(y)

    return net(
        forward,
        one=nn.Linear(8, 8),
        functional=nn.Linear(8, 8),
        unused=nn.Linear(8, 8),
        norm=nn.LayerNorm(8),
        attention=nn.MultiheadAttention(8, 2, batch_first=True),
    )


def test_layers_that_are_called_are_counted_an_attention_as_one() -> None:
    found = calls(layered(), ((torch.randn(2, 3, 8),), {}))
    assert found == {"one": 2, "norm": 1, "attention": 1}


def test_a_lawful_model_loses_nothing() -> None:
    model, example = layered().eval(), torch.randn(2, 3, 8)
    called = calls(model, ((example,), {}))
    found = ledger(model, called, taken(model, example).model)
    assert found.used == {"Linear": 1, "LayerNorm": 1, "MultiheadAttention": 1}
    assert (found.lost, found.twice) == ([], [])


def without(*names: str) -> list[type[Pattern]]:
    return [pattern for pattern in TENSORRT_PATTERNS if pattern.__name__ not in names]


def test_a_lost_layer_is_named() -> None:
    model, example = layered().eval(), torch.randn(2, 3, 8)
    called = calls(model, ((example,), {}))
    fusing = without("LayerNormPattern", "MHAInProjectionPattern")
    found = ledger(model, called, taken(model, example, patterns=fusing).model)
    assert found.lost == ["norm", "attention"]


def test_a_layer_in_too_many_modules_is_named() -> None:
    model, example = layered().eval(), torch.randn(2, 3, 8)
    called = calls(model, ((example,), {}))
    result = taken(model, example).model
    extra = taken(nn.Sequential(model.get_submodule("one")), example).model
    result.add_module("again", extra)
    result.add_module("and_again", taken(nn.Sequential(model.get_submodule("one")), example).model)
    assert ledger(model, called, result).twice == ["one"]


# --- arithmetic ----------------------------------------------------------------------------------


def test_arithmetic_is_counted_by_node() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        return self.line(x) @ x.transpose(1, 2)

    model = net(forward, line=nn.Linear(8, 8)).eval()
    example = torch.randn(2, 3, 8)
    result = taken(model, example)
    found = arithmetic(result, ((example,), {}))
    linear, product = 2 * 3 * 8 * 8, 2 * 3 * 3 * 8
    assert found.total == linear + product
    assert found.share == linear / (linear + product)
    assert found.attends
    (rest,) = found.rest
    assert rest.share == product / (linear + product)
    assert result.coverage is not None
    assert found.total == result.coverage.total


def test_a_network_that_multiplies_by_weights_alone_does_not_attend() -> None:
    model, example = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval(), torch.randn(1, 3, 8, 8)
    found = arithmetic(taken(model, example), ((), {"input": example}))
    assert (found.attends, found.share, found.total) == (False, 1.0, 27 * 4 * 36)


# --- records and the page ------------------------------------------------------------------------

GOOD: dict[str, Any] = {
    "nodes": 9,
    "way": "trace",
    "difference": 1e-6,
    "coverage": 0.995,
    "fused": {"FusedConvBN": 3},
    "used": {"Conv2d": 3},
}


@pytest.mark.parametrize(
    ("change", "lacks"),
    [
        ({}, ""),
        ({"difference": 2e-5}, "equivalent"),
        ({"difference": 2e-5, "difference64": 1e-14}, ""),
        ({"difference": 2e-5, "difference64": 1e-6}, "equivalent"),
        ({"difference": 2e-5, "used": {"Conv2d": 101}}, ""),
        ({"weak": "constant"}, "equivalent"),
        ({"coverage": 0.96}, "covered"),
        ({"coverage": 0.96, "attends": True}, ""),
        ({"lost": ["a"]}, "conserving"),
        ({"twice": ["a"]}, "conserving"),
    ],
)
def test_what_falls_short_of_which_bar(change: dict[str, Any], lacks: str) -> None:
    record = Record("timm:a", "a", **{**GOOD, **change})
    found = [one for one in ("equivalent", "conserving", "covered") if not getattr(record, one)]
    assert found == ([lacks] if lacks else [])
    assert record.good == (not lacks)


def test_a_failure_is_nothing_of_all() -> None:
    record = Record("timm:a", "a", error="stopped", **GOOD)
    assert not any((record.equivalent, record.conserving, record.covered, record.good))


def test_the_last_run_of_a_model_counts(tmp_path: Path) -> None:
    results = Results(tmp_path / "new" / "results.jsonl")
    assert results.read() == {}
    rest = [("a", "Linear", 0.5, "why")]
    results.add(Record("timm:a", "a", error="stopped"))
    results.add(Record("timm:a", "a", **GOOD, rest=rest))
    results.add(Record("timm:b", "b"))
    assert results.read() == {
        "timm:a": Record("timm:a", "a", **GOOD, rest=rest),
        "timm:b": Record("timm:b", "b"),
    }


def test_the_page_tells_what_was_run_and_why_what_falls_short() -> None:
    names = ("timm:good", "timm:bare", "timm:failing", "torchvision:never")
    entries = [Entry(name, "family") for name in names]
    rest = [("head.mm", "matmul", 0.3, "no `pattern` | here"), ("b.mm", "matmul", 0.1, "other")]
    bare: dict[str, Any] = {**GOOD, "coverage": 0.6, "rest": rest, "lost": ["x.y"]}
    records = [
        Record("timm:good", "family", **GOOD),
        Record("timm:bare", "family", **bare),
        Record("timm:failing", "family", error="CaptureError: no\nat graph/capturing.py:3"),
    ]
    text = page(entries, {record.name: record for record in records})
    assert "| all | 4 | 2 | 2 | 1 | 1 | 1 |" in text
    assert "| timm | 3 | 2 | 2 | 1 | 1 | 1 |" in text
    assert "| convolutional | 2 | 99% | 1 | 79.75% | 60.0% |" in text
    assert "Not run: `torchvision:never`." in text
    assert "- `timm:failing`: `CaptureError: no at graph/capturing.py:3`" in text
    assert "1 layers in no fused module, first `x.y`" in text
    assert "30.0% in `matmul` (first `head.mm`): `no 'pattern' | here`; 10.0% in" in text
    row = "| `good` | family | trace | 0.0 | 9 | ConvBN 3 | convolutional | 99.5% | 3 | 1.0e-06 |"
    assert f"{row} good |" in text


def test_errors_name_no_place_of_one_machine() -> None:
    text = placeless("at /usr/x/site-packages/timm/layers/norm.py:3 of a/b and 1/2")
    assert text == "at layers/norm.py:3 of a/b and 1/2"


# --- processes -----------------------------------------------------------------------------------


class _Process:
    """A process that is over at once, or never."""

    pid = None
    exitcode = 1

    def __init__(self, *, over: bool) -> None:
        self.over = over

    def is_alive(self) -> bool:
        return not self.over

    def kill(self) -> None:
        self.over = True

    def join(self) -> None:
        assert self.over


class _Server(Server):
    def __init__(self, work: Callable[[Entry, Path], bool]) -> None:
        self.work = work

    def start(self, target: Callable[..., None], *args: Any) -> Any:
        entry, _, file = args
        return _Process(over=self.work(entry, file))


def test_each_model_ends_with_a_record_whatever_becomes_of_its_process() -> None:
    def work(entry: Entry, file: Path) -> bool:
        if entry.model == "well":
            file.write_text(Record(entry.name, entry.group, nodes=4).line())
        return entry.model != "slow"

    entries = [Entry(f"timm:{name}", "a") for name in ("well", "slow", "dead")]
    ran = list(run_all(_Server(work), entries, "auto", 2, Limits(seconds=0.2)))
    assert [name for name, record in ran if record is None] == [one.name for one in entries]
    found = {record.name: record for _, record in ran if record is not None}
    assert found["timm:well"].nodes == 4
    assert found["timm:well"].error is None
    assert found["timm:slow"].error == "more than 0.2 s"
    assert found["timm:dead"].error == "the process ended with code 1"
