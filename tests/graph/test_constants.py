"""Weights that a model computes from its parameters."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from embedl_deploy import capture, transform
from tests.helpers import assert_close, assert_same_eval, kinds, net, run

METHODS = ("trace", "export")


class Standardized(nn.Conv2d):
    """As timm's and torchvision's: each filter has mean zero and variance one."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name for it
        flat = self.weight.reshape(1, self.out_channels, -1)
        weight = F.batch_norm(flat, None, None, training=True, momentum=0.0, eps=1e-6)
        weight = weight.reshape_as(self.weight)
        return F.conv2d(input, weight, self.bias, self.stride, self.padding)


def standardized() -> nn.Module:
    return nn.Sequential(Standardized(3, 4, 3), nn.ReLU(), Standardized(4, 2, 1)).eval()


@pytest.mark.parametrize("method", METHODS)
def test_a_standardized_convolution_is_a_convolution(method: Any) -> None:
    model, example = standardized(), torch.randn(2, 3, 6, 6)
    result = transform(model, (example,), method=method)
    assert result.fused == {"FusedConvBNReLU": 1, "FusedConvBN": 1}
    assert [match.path for match in result.matches] == ["0", "2"]
    assert kinds(result.model) == {"FusedConvBNReLU": 1, "FusedConvBN": 1}
    assert_same_eval(model, result, (example,), 1e-6)


def test_a_model_in_training_keeps_the_computation() -> None:
    graph = capture(standardized().train())
    assert kinds(graph)["conv2d"] == 2
    assert "Conv2d" not in kinds(graph)


def joined(self: Any, x: Tensor) -> Tensor:
    bias = torch.cat((self.one, torch.zeros_like(self.one), self.one.sigmoid()))
    return F.linear(x, self.line.weight, bias)


@pytest.mark.parametrize("method", METHODS)
def test_a_joined_bias_is_a_bias_and_the_weight_stays_the_same(method: Any) -> None:
    line = nn.Linear(4, 6, bias=False)
    model = net(joined, line=line, one=nn.Parameter(torch.randn(2))).eval()
    graph: Any = capture(model, (torch.randn(3, 4),), method=method, copy=False)
    assert kinds(graph) == {"Linear": 1}
    assert graph.line.weight is line.weight
    assert graph.line.bias.requires_grad
    example = torch.randn(5, 4)
    assert_close(run(graph, (example,)), run(model, (example,)))


def test_what_depends_on_an_input_or_on_chance_is_not_computed() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        by_input = self.weight * x.mean()
        by_chance = self.weight + torch.rand_like(self.weight)
        return F.linear(F.linear(x, by_input), by_chance)

    model = net(forward, weight=nn.Parameter(torch.randn(4, 4))).eval()
    state = torch.get_rng_state()
    graph = capture(model)
    assert kinds(graph)["linear"] == 2
    assert torch.equal(torch.get_rng_state(), state)


def test_a_frozen_weight_stays_frozen() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * 2)

    weight = nn.Parameter(torch.randn(3, 4), requires_grad=False)
    graph = capture(net(forward, weight=weight).eval())
    (found,) = graph.parameters()
    assert not found.requires_grad
    assert torch.equal(found, weight * 2)


class Flipped(nn.LayerNorm):
    """A subclass that calls the function, as many in timm do; it has no weight to be named by."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name for it
        return F.layer_norm(-input, self.normalized_shape, self.weight, self.bias, self.eps)


@pytest.mark.parametrize("method", METHODS)
def test_a_layer_without_a_weight_is_at_the_path_of_its_own_class(method: Any) -> None:
    model = nn.Sequential(nn.Linear(4, 4), Flipped(4, elementwise_affine=False)).eval()
    result = transform(model, (torch.randn(3, 4),), method=method)
    assert result.fused == {"FusedLinear": 1, "FusedLayerNorm": 1}
    assert [match.path for match in result.matches] == ["0", "1"]
