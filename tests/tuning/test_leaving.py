"""A file that is edited is the file that an export without these layers gives."""

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import fx, nn

from embedl_deploy import Result, transform
from embedl_deploy.export import export_onnx
from embedl_deploy.modules import FusedModule
from embedl_deploy.quantize import QuantConfig, calibrate, insert_qdq
from embedl_deploy.target import Target
from embedl_deploy.tensorrt import TENSORRT, TENSORRT_RTX
from embedl_deploy.tuning.leaving import leave


class Net(nn.Module):
    """Batch norms, a residual, a depthwise convolution, pooling, and linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.deep, self.wide = nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 8, 1)
        self.hidden, self.head = nn.Linear(8, 16), nn.Linear(16, 5)
        for one in self.parameters():
            nn.init.normal_(one, std=0.7)
        assert self.norm.running_mean is not None
        assert self.norm.running_var is not None
        self.norm.running_mean.normal_()
        self.norm.running_var.uniform_(0.5, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.deep(self.norm(self.stem(x)).relu()).relu()
        x = (self.wide(x) + x).relu().mean((2, 3))
        wanted: torch.Tensor = self.head(nn.functional.gelu(self.hidden(x)))
        return wanted


def images() -> torch.Tensor:
    return torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def quantized(result: Result, *left: str) -> fx.GraphModule:
    return calibrate(insert_qdq(result, QuantConfig(skip=left)), [images()])


@pytest.fixture(scope="module", params=[TENSORRT, TENSORRT_RTX], ids=["tensorrt", "rtx"])
def result(request: pytest.FixtureRequest) -> Result:
    """With weights that are on their grid, so that a file without pairs has them too."""
    torch.manual_seed(0)
    target: Target = request.param
    made = transform(Net().eval(), (images(),), target=target)
    for path, one in insert_qdq(made).named_modules():
        if isinstance(one, FusedModule):
            for weight in one.weights():
                if (quantizer := one.quantizer(weight)) is not None:
                    rounded = quantizer(one.unrounded(weight))
                    made.model.get_parameter(f"{path}.{weight}").data.copy_(rounded)
    return made


def computed(path: Path) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {"x": images()[:1].numpy()})
    return np.asarray(output, np.float32)


def operators(path: Path) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load(path).graph.node)


@pytest.mark.slow
def test_an_edited_file_is_the_exported_one(result: Result, tmp_path: Path) -> None:
    base, whole, edited = (tmp_path / f"{name}.onnx" for name in ("base", "whole", "edited"))
    left, example = ("stem", "wide", "hidden"), (images()[:1],)
    everything = quantized(result)
    export_onnx(everything, example, base)
    export_onnx(quantized(result, *left), example, whole)
    leave(everything, base, edited, left)
    onnx.checker.check_model(str(edited), full_check=True)
    assert operators(edited) == operators(whole) != operators(base)
    wanted = computed(whole)
    assert np.abs(computed(base) - wanted).max() > 0.04
    np.testing.assert_allclose(computed(edited), wanted, atol=1e-3)


class Tokens(nn.Module):
    """Packed attention and linear layers on tokens, whose weights a file turns before a product."""

    def __init__(self) -> None:
        super().__init__()
        self.attends = nn.MultiheadAttention(16, 2, batch_first=True)
        self.norm, self.up, self.down = nn.LayerNorm(16), nn.Linear(16, 32), nn.Linear(32, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attends(x, x, x, need_weights=False)[0]
        mixed: torch.Tensor = x + self.down(nn.functional.gelu(self.up(self.norm(x))))
        return mixed


@pytest.mark.slow
def test_without_all_its_pairs_a_file_is_that_in_half_precision(tmp_path: Path) -> None:
    """Of the target rtx; the other one writes a quantized projection as three products."""
    x = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(0))
    made = transform(Tokens().eval(), (x,), target=TENSORRT_RTX)
    whole = calibrate(insert_qdq(made), [x])
    half, base, edited = (tmp_path / f"{name}.onnx" for name in ("half", "base", "edited"))
    export_onnx(made, (x,), half, precision="float16")
    export_onnx(whole, (x,), base, precision="float16")
    fused = [path for path, one in whole.named_modules() if isinstance(one, FusedModule)]
    leave(whole, base, edited, fused)
    onnx.checker.check_model(str(edited), full_check=True)
    assert operators(edited) == operators(half) != operators(base)
