"""What is added to a convolution, from the model to the file and what is said of it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from embedl_deploy import transform
from embedl_deploy.export import export_onnx, verify_onnx
from embedl_deploy.patterns import QDQPoint
from embedl_deploy.quantize import quantize
from embedl_deploy.tensorrt import Severity, check_onnx, explain_onnx
from tests.helpers import assert_same_eval, net, warm

Add = Callable[[Any, torch.Tensor], Any]

NO_RESIDUAL: dict[str, Add] = {
    "parameter": lambda m, _: m.place,
    "parameter for all": lambda m, _: m.one,
    "parameter for each channel": lambda m, _: m.channel.view(1, -1, 1, 1),
    "buffer": lambda m, _: m.grid,
    "computed of a parameter": lambda m, _: m.act(m.place) * 2,
    "computed of sizes": lambda _, x: torch.linspace(0, 1, x.shape[-1]).expand(16, 8, 8),
    "number for each channel": lambda _, x: x.mean((2, 3), keepdim=True),
    "without batch": lambda _, x: x[0].mean((1, 2), keepdim=True),
    "map of one channel": lambda _, x: x.amax(1, keepdim=True),
}
RESIDUAL: dict[str, Add] = {
    "input": lambda _, x: x,
    "computed": lambda m, x: m.act(x * m.place),
    "batch of one": lambda _, x: x[:1],
}


def block(add: Add) -> nn.Module:
    """Convolutions before and after what is added, all quantized."""

    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        x = m.act(m.first(x))
        out: torch.Tensor = m.last(m.act(m.bn(m.conv(x)) + add(m, x)))
        return out

    model = net(
        forward,
        first=nn.Conv2d(16, 16, 3, padding=1),
        conv=nn.Conv2d(16, 16, 3, padding=1),
        bn=nn.BatchNorm2d(16),
        last=nn.Conv2d(16, 16, 1),
        act=nn.ReLU(),
        place=nn.Parameter(torch.randn(1, 16, 8, 8)),
        one=nn.Parameter(torch.randn(())),
        channel=nn.Parameter(torch.randn(16)),
        grid=torch.randn(16, 8, 8),
    )
    return warm(model).eval()


@pytest.mark.parametrize(
    ("add", "fused"),
    [
        *(pytest.param(add, False, id=name) for name, add in NO_RESIDUAL.items()),
        *(pytest.param(add, True, id=name) for name, add in RESIDUAL.items()),
    ],
)
def test_the_file_is_without_a_finding(
    add: Add,
    fused: bool,  # noqa: FBT001 - a parameter of the test
    tmp_path: Path,
) -> None:
    model, x = block(add), torch.randn(2, 16, 8, 8)
    result = transform(model, (x,))
    assert_same_eval(model, result, (x,))
    kernels = [one for one in result.matches if QDQPoint.RESIDUAL_INPUT in one.qdq_points]
    assert len(kernels) == fused
    fused_convs = sum(count for name, count in result.fused.items() if "Conv" in name)
    assert fused_convs == 3, "the convolution is fused, whatever is added to it"

    quantized = quantize(result, [x])
    path = export_onnx(quantized, (x,), tmp_path / "file.onnx")
    found = check_onnx(path).findings
    assert [one for one in found if one.severity is not Severity.INFO] == []
    assert verify_onnx(path, quantized, [x]).only_ties
    joined = [kernel for kernel in explain_onnx(path).kernels if "K04" in kernel.rules]
    assert len(joined) == fused
