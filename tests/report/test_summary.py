"""A summary says of every operation of the model where it went, and the tables say the same."""

import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

from embedl_deploy import Result, transform
from embedl_deploy.quantize import insert_qdq
from embedl_deploy.report.blocks import figures_table, grouped
from embedl_deploy.report.summary import Summary, quantizers, summarize
from embedl_deploy.report.tables import summary_tables
from embedl_deploy.rewrite import without_names
from embedl_deploy.tensorrt import TENSORRT_MIXED_PRECISION_PATTERNS


class Net(nn.Module):
    """One of everything: fused, declined, with weights and not fused, and other operations."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.shared = nn.Conv2d(4, 4, 1)
        self.depthwise = nn.Conv2d(4, 4, 3, groups=4)
        self.slopes = nn.PReLU(3)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.head = nn.Linear(4, 2)
        self.gain = nn.Parameter(torch.ones(4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(self.slopes(x)).relu() * self.gain
        x = self.shared(self.shared(x) + 1)
        x = self.depthwise(x)
        return self.head(self.flatten(self.pool(x)))


@pytest.fixture
def result() -> Result:
    example = (torch.zeros(1, 3, 9, 9),)
    return transform(Net().eval(), example, patterns=TENSORRT_MIXED_PRECISION_PATTERNS)


def printed(summary: Summary, width: int = 100, **options: Any) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    for table in summary_tables(summary, **options):
        console.print(table)
    return console.export_text()


def test_every_fused_module_is_counted_once(result: Result) -> None:
    summary = summarize(result)
    assert summary.fused == dict(result.fused)
    assert len(summary.fusions) + len(summary.conversions) == len(result.matches)


def test_a_fusion_has_its_pattern_place_and_points(result: Result) -> None:
    first = summarize(result).fusions[0]
    assert (first.pattern, first.kind) == ("ConvBNReLUPattern", "FusedConvBNReLU")
    assert first.operations[0] == first.path == "conv"
    assert first.qdq_points == ("INPUT",)


def test_of_a_module_that_is_called_twice_both_calls_have_their_kind(result: Result) -> None:
    calls = [one.kind for one in summarize(result).fusions if one.path == "shared"]
    assert calls == ["FusedConvBN", "FusedConvBN"]


def test_a_refusal_says_which_pattern_took_the_place_instead(result: Result) -> None:
    declined = {one.pattern: one for one in summarize(result).declined}
    pooling = declined["RemoveIdentityAdaptiveAvgPoolPattern"]
    assert (pooling.path, pooling.instead) == ("pool", "FloatAdaptiveAvgPoolPattern")
    assert pooling.reason


def test_what_is_left_is_told_with_and_without_weights(result: Result) -> None:
    summary = summarize(result)
    assert [one.path for one in summary.unfused] == ["slopes"]
    others = {one.kind: (one.count, one.weighted) for one in summary.others}
    assert others == {"mul": (1, True), "add": (1, False), "flatten": (1, False)}
    assert summary.weighted == 2


def test_quantizers_are_counted(result: Result) -> None:
    assert quantizers(result.model) == (0, 0)
    tensors, weights = quantizers(insert_qdq(result))
    assert (tensors, weights) == (4, 4)


def test_the_tables_name_every_place_if_asked(result: Result) -> None:
    text = printed(summarize(result), every=True)
    for match in result.matches:
        assert match.path in text
    assert text.count("shared") == 2


def test_the_tables_group_what_is_alike(result: Result) -> None:
    text = printed(summarize(result))
    assert text.count("shared") == 1
    assert "by FloatDepthwiseConvBNPattern" in text
    assert "taken by FloatAdaptiveAvgPoolPattern" in text
    assert "1×mul*" in text


@pytest.mark.parametrize("width", [40, 80, 100])
def test_the_tables_keep_to_the_width(result: Result, width: int) -> None:
    assert max(map(len, printed(summarize(result), width).splitlines())) <= width


def test_brackets_are_text_and_no_markup() -> None:
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(figures_table([("Model", "nets[red]:make")]))
    assert "nets[red]:make" in console.export_text()


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("it pools 1×3×7×7", "it pools 1×16×14×14", True),
        ("used by 'a.b'", "used by 'c'", True),
        ("used by 'a'", "used twice", False),
    ],
)
def test_reasons_are_alike_but_for_numbers_and_places(one: str, other: str, *, same: bool) -> None:
    assert (without_names(one) == without_names(other)) is same


def test_groups_are_in_order_of_size() -> None:
    key: Callable[[int], bool] = lambda number: number > 1  # noqa: E731
    assert grouped([1, 2, 3], key) == [[2, 3], [1]]
