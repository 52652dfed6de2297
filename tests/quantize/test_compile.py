"""`torch.compile` takes a quantized model as one graph, in training and in eval mode.

Needs torch and pytest alone: `make compat` runs it on other versions of torch.
"""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from embedl_deploy import transform
from embedl_deploy.quantize import (
    MSEObserver,
    PercentileObserver,
    QuantConfig,
    QuantStub,
    TensorQuantConfig,
    quantize,
)


class Residual(nn.Module):
    """Convolutions and a residual."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, groups=2), nn.BatchNorm2d(8))
        self.up = nn.ConvTranspose2d(8, 4, 2, stride=2)
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        y = F.relu(self.body(y) + y)
        return self.head(self.up(y).mean((2, 3)))


class Encoder(nn.Module):
    """A block of a vision transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.again = nn.LayerNorm(8), nn.LayerNorm(8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return x + self.mlp(self.again(x))


class Scaled(nn.Module):
    """A block with a factor for each channel, in two layouts."""

    def __init__(self) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.norm = nn.LayerNorm(8)
        self.mlp = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))
        self.factors = nn.Parameter(torch.full((8, 1, 1), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        y = self.mlp(self.norm(self.depthwise(x).permute(0, 2, 3, 1)))
        return x + self.factors * y.permute(0, 3, 1, 2)


NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "residual": (Residual, (4, 3, 8, 8)),
    "encoder": (Encoder, (4, 5, 8)),
    "scaled": (Scaled, (4, 8, 6, 6)),
}
SCALES = {
    "observed": TensorQuantConfig(),
    "learned": TensorQuantConfig(scale="learned"),
    "fixed": TensorQuantConfig(scale="fixed", observer=partial(PercentileObserver, 99.9)),
    "fp8": TensorQuantConfig(format="float8_e4m3", observer=MSEObserver, scale="fixed"),
}


class Graphs:
    """A backend that runs a graph as it is, and counts them."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, graph: Any, example_inputs: Any) -> Any:
        self.count += 1
        return graph.forward


@pytest.fixture(autouse=True)
def fresh() -> None:
    torch.manual_seed(0)
    torch._dynamo.reset()


@pytest.mark.parametrize(
    ("name", "scale"),
    [
        ("residual", "observed"),
        ("encoder", "observed"),
        ("scaled", "fixed"),
        ("scaled", "learned"),
        ("scaled", "fp8"),
    ],
)
def test_it_is_one_graph_in_training_and_one_in_eval(name: str, scale: str) -> None:
    make, shape = NETS[name]
    images = [torch.randn(shape) for _ in range(3)]
    one = SCALES[scale]
    config = QuantConfig(one, one, attention="full")
    model = quantize(transform(make().eval(), (images[0],)), images, config)
    twin, graphs = copy.deepcopy(model), Graphs()
    compiled = torch.compile(twin, backend=graphs, fullgraph=True)
    for training in (True, False):
        model.train(training)
        twin.train(training)
        for batch in images:
            losses = [called(batch).square().mean() for called in (model, compiled)]
            for loss in losses:
                loss.backward()
            torch.testing.assert_close(losses[1], losses[0])
        assert graphs.count == (1 if training else 2)
    for want, got in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(got.grad, want.grad)


def test_another_batch_size_makes_one_more_graph() -> None:
    images = torch.randn(4, 3, 8, 8)
    model = quantize(transform(Residual().eval(), (images,)), [images]).train()
    graphs = Graphs()
    compiled = torch.compile(model, backend=graphs, fullgraph=True)
    for rows in (4, 3, 2, 5):
        compiled(torch.randn(rows, 3, 8, 8)).square().mean().backward()
    assert graphs.count == 2


def test_a_compiled_model_is_calibrated_and_trained_again() -> None:
    """Scales that calibration changes are those that the compiled model then has."""
    images = torch.randn(4, 3, 8, 8)
    model = quantize(transform(Residual().eval(), (images,)), [images])
    compiled = torch.compile(model, backend=Graphs(), fullgraph=True)
    before = compiled(images)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, QuantStub):
                module.scale.mul_(2)
    assert not torch.equal(compiled(images), before)
    assert torch.equal(compiled(images), model(images))
