"""Grouped convolutions that INT8 kernels do not take stay in floating point, and say so."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from embedl_deploy import Result, transform
from embedl_deploy.export import export_onnx
from embedl_deploy.modules import FusedConvBN
from embedl_deploy.patterns import CONV2D, Pattern, QDQPoint
from embedl_deploy.quantize import insert_qdq, placement, quantize
from embedl_deploy.report.summary import summarize
from embedl_deploy.tensorrt import check_onnx
from tests.helpers import net

REASON = "its groups have {} input and {} output channels; INT8 kernels take multiples of 4"


def forward(m: Any, x: Tensor) -> Tensor:
    """A grouped convolution in every fused form, between two that are not."""
    y = m.act(m.relu(m.first(x)))
    y = m.act(m.norm(m.end(y)) + y)
    y = m.add(y) + y
    y = m.alone(y)
    return m.last(m.line(y.flatten(2)).unflatten(2, (8, 8)))


def grouped(groups: int, channels: int = 8) -> nn.Module:
    def conv() -> nn.Conv2d:
        return nn.Conv2d(channels, channels, 3, padding=1, groups=groups)

    names = ("relu", "end", "add", "alone")
    return net(
        forward,
        first=nn.Conv2d(3, channels, 1),
        last=nn.Conv2d(channels, channels, 1),
        line=nn.Conv1d(channels, channels, 3, padding=1, groups=groups),
        norm=nn.BatchNorm2d(channels),
        act=nn.ReLU(),
        **{name: conv() for name in names},
    ).eval()


def transformed(groups: int) -> tuple[Result, Tensor]:
    example = torch.randn(1, 3, 8, 8)
    return transform(grouped(groups), (example,)), example


@pytest.mark.parametrize(("groups", "inside"), [(4, (2, 2)), (2, None), (8, None), (1, None)])
def test_every_form_is_fused_and_keeps_what_has_no_kernel_in_floating_point(
    groups: int, inside: tuple[int, int] | None
) -> None:
    result, _ = transformed(groups)
    reasons = {match.path: match.kept_float for match in result.matches}
    expected = REASON.format(*inside) if inside else ""
    assert len(result.matches) == 7
    assert reasons.pop("first") == reasons.pop("last") == ""
    assert set(reasons.values()) == {expected}
    points = [match.qdq_points for match in result.matches if match.path not in {"first", "last"}]
    assert all(points) != bool(inside)


def test_reasons_stand_in_plan_report_and_placement() -> None:
    result, _ = transformed(4)
    reason = REASON.format(2, 2)
    assert reason in str(result)
    assert {one.kept_float for one in summarize(result).fusions} == {"", reason}
    rows = placement(insert_qdq(result)).rows
    assert [row.path for row in rows if row.what == "none" and row.reason == reason] == [
        "relu",
        "end",
        "add",
        "alone",
        "line",
    ]
    assert {row.path for row in rows if row.what == "weight"} == {
        "first.conv.weight",
        "last.conv.weight",
    }


@pytest.mark.slow
@pytest.mark.parametrize("groups", [2, 4])
def test_the_file_has_no_convolution_that_tensorrt_refuses(groups: int, tmp_path: Path) -> None:
    result, example = transformed(groups)
    model = quantize(result, [(example,)])
    assert not check_onnx(export_onnx(model, (example,), tmp_path / "grouped.onnx")).errors


def test_unequal_groups() -> None:
    conv = nn.Conv2d(8, 12, 1, groups=2)
    (match,) = transform(nn.Sequential(conv)).matches
    assert match.kept_float == REASON.format(4, 6)


def test_a_pattern_of_ones_own_keeps_layers_in_floating_point_for_a_reason() -> None:
    class SmallPattern(Pattern):
        tree = CONV2D
        qdq_points = (QDQPoint.INPUT,)

        def keep_float(self, conv: nn.Conv2d) -> str | None:
            return "few channels" if conv.in_channels < 16 else None

        def build(self, conv: nn.Conv2d) -> FusedConvBN:
            return FusedConvBN(conv)

    model = nn.Sequential(nn.Conv2d(3, 16, 1), nn.Conv2d(16, 16, 1))
    small, large = transform(model, patterns=(SmallPattern,)).matches
    assert (small.kept_float, small.qdq_points) == ("few channels", ())
    assert (large.kept_float, large.qdq_points) == ("", (QDQPoint.INPUT,))


def test_keep_float_takes_what_the_tree_binds() -> None:
    with pytest.raises(Exception, match=r"keep_float\(\) takes 'norm'"):

        class WrongPattern(Pattern):
            tree = CONV2D

            def build(self, conv: nn.Conv2d) -> nn.Module:
                return conv

            def keep_float(self, norm: nn.Module) -> str | None:
                return str(norm)
