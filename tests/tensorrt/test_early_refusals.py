"""What a file cannot hold is refused by patterns and before calibration, with a remedy."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from embedl_deploy import transform
from embedl_deploy.errors import QuantizationError
from embedl_deploy.export import export_onnx, verify_onnx
from embedl_deploy.modules import FusedModule
from embedl_deploy.quantize import insert_qdq, quantize
from tests.helpers import assert_same_eval, net, warm

IMAGE, LINE, CUBE, ROWS = (4, 8, 6, 6), (4, 8, 6), (4, 8, 4, 4, 4), (4, 8)


def norm(kind: Callable[..., nn.Module] = nn.BatchNorm2d) -> nn.Module:
    return kind(8, track_running_stats=False)


def sequence(first: nn.Module, *rest: nn.Module) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(first, *rest, nn.Flatten(), nn.LazyLinear(3))


NORMS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "conv": (sequence(nn.Conv2d(8, 8, 3), norm()), IMAGE),
    "conv, relu": (sequence(nn.Conv2d(8, 8, 3), norm(), nn.ReLU()), IMAGE),
    "one dimension": (sequence(nn.Conv1d(8, 8, 3), norm(nn.BatchNorm1d), nn.SiLU()), LINE),
    "three dimensions": (sequence(nn.Conv3d(8, 8, 3), norm(nn.BatchNorm3d)), CUBE),
    "transposed": (sequence(nn.ConvTranspose2d(8, 8, 2), norm(), nn.ReLU()), IMAGE),
    "linear": (sequence(nn.Linear(8, 8), norm(nn.BatchNorm1d), nn.ReLU()), ROWS),
    "residual": (
        lambda: net(
            lambda m, x: m.last((m.bn(m.conv(x)) + x).relu()),
            conv=nn.Conv2d(8, 8, 3, padding=1),
            bn=norm(),
            last=nn.Conv2d(8, 8, 1),
        ),
        IMAGE,
    ),
    "stem": (
        lambda: net(
            lambda m, x: m.last(m.pool(m.bn(m.conv(x)).relu())),
            conv=nn.Conv2d(3, 8, 7, 2, 3),
            bn=norm(),
            pool=nn.MaxPool2d(2),
            last=nn.Conv2d(8, 8, 1),
        ),
        (4, 3, 16, 16),
    ),
}


@pytest.mark.parametrize("name", NORMS)
def test_a_norm_without_statistics_stays_and_the_layer_before_it_is_fused(
    name: str, tmp_path: Path
) -> None:
    make, shape = NORMS[name]
    x = torch.randn(shape)
    model = make()
    model(x)
    result = transform(warm(model).eval(), (x,))
    assert_same_eval(model, result, (x,))
    assert any("track_running_stats=True" in one.reason for one in result.refusals)
    fused = [one for one in result.model.modules() if isinstance(one, FusedModule)]
    assert len(fused) == 2
    assert all(getattr(one, "batch_norm", None) is None for one in fused)

    quantized = quantize(result, [x])
    path = export_onnx(quantized, (x,), tmp_path / "file.onnx")
    assert verify_onnx(path, quantized, [x]).only_ties


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_another_type_than_float32_is_refused_before_calibration(dtype: torch.dtype) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 1)).eval().to(dtype)
    x = torch.randn(2, 3, 6, 6, dtype=dtype)
    result = transform(model, (x,))
    assert torch.equal(result.model(x), model(x))
    with pytest.raises(QuantizationError, match=r"call \.float\(\) on the model before transform"):
        insert_qdq(result)
    assert quantize(transform(model.float(), (x.float(),)), [x.float()]) is not None


@pytest.mark.parametrize("part", ["first", "last"])
def test_one_layer_of_another_type_is_refused_by_name(part: str) -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        for layer in (m.first, m.last):
            x = layer(x.to(layer.weight.dtype))
        return x

    model = net(forward, first=nn.Linear(8, 8), last=nn.Linear(8, 8)).eval()
    getattr(model, part).double()
    result = transform(model, (torch.randn(2, 8),))
    with pytest.raises(QuantizationError, match=rf"'{part}[.\w]+' is of type torch.float64"):
        insert_qdq(result)
