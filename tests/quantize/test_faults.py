"""Values that are not finite are traced to where they come from."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from embedl_deploy import transform
from embedl_deploy.errors import CalibrationError
from embedl_deploy.quantize import (
    EntropyObserver,
    MinMaxObserver,
    MovingAverageObserver,
    MSEObserver,
    Observer,
    PercentileObserver,
    QuantConfig,
    TensorQuantConfig,
    calibrate,
    insert_qdq,
)
from embedl_deploy.quantize.config import Attention

SHAPE = (2, 3, 6, 6)


class Net(nn.Module):
    """Two convolutions with a function in between, and a scale that may be zero."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU())
        self.gain = nn.Parameter(torch.ones(4, 1, 1))
        self.second = nn.Conv2d(4, 4, 1)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(self.first(x) / self.gain)
        return self.head(y.mean((2, 3)).log())


def bias(net: Net) -> None:
    net.get_parameter("first.0.bias")[0] = torch.nan


def variance(net: Net) -> None:
    net.get_buffer("first.1.running_var")[1] = torch.nan


def division(net: Net) -> None:
    net.gain[2] = 0
    net.get_parameter("first.0.bias").fill_(1.0)


def parameter(net: Net) -> None:
    net.gain[2] = torch.inf
    net.get_parameter("first.0.bias")[2] = torch.inf


def nothing(net: Net) -> None:
    net.second.weight.zero_()
    assert net.second.bias is not None
    net.second.bias.fill_(-1.0)


FAULTS: dict[str, tuple[Callable[[Net], None], str]] = {
    "a bias": (bias, r"'first\.0' \(FusedConvBNReLU, whose 'conv\.bias' is not finite\)"),
    "a variance": (variance, r"'first\.0' \(.*, whose 'batch_norm\.running_var' is not finite\)"),
    "a division": (division, "the operation 'truediv'"),
    "a logarithm": (nothing, "the operation 'log'"),
}
OBSERVERS: dict[str, Callable[[], Observer]] = {
    "min-max": MinMaxObserver,
    "average": MovingAverageObserver,
    "percentile": PercentileObserver,
    "entropy": EntropyObserver,
    "mse": MSEObserver,
}


def broken(fault: Callable[[Net], None]) -> Net:
    net = Net().eval()
    with torch.no_grad():
        fault(net)
    return net


@pytest.mark.parametrize("observer", OBSERVERS)
@pytest.mark.parametrize("name", FAULTS)
def test_the_module_is_named_and_not_the_stub_behind_it(name: str, observer: str) -> None:
    fault, said = FAULTS[name]
    config = QuantConfig(TensorQuantConfig(observer=OBSERVERS[observer]))
    model = insert_qdq(transform(broken(fault)), config)
    with pytest.raises(CalibrationError, match=f"come from {said} in calibration batch 0"):
        calibrate(model, [torch.randn(*SHAPE)])


class Masked(nn.Module):
    """Attention with a mask of minus infinity, which is as it should be."""

    def __init__(self) -> None:
        super().__init__()
        self.value, self.out = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.out(F.scaled_dot_product_attention(x, x, self.value(x), mask))


@pytest.mark.parametrize("attention", ["inputs", "full"])
def test_an_infinite_mask_is_not_to_blame(attention: Attention) -> None:
    mask = torch.tensor([[0.0, -torch.inf], [0.0, 0.0]])
    x = torch.randn(3, 2, 4)
    net = Masked().eval()
    calibrate(insert_qdq(transform(net), QuantConfig(attention=attention)), [(x, mask)])
    with torch.no_grad():
        net.value.weight[0, 0] = torch.nan
    model = insert_qdq(transform(net), QuantConfig(attention=attention, skip=["value"]))
    said = r"come from 'value' \(FusedLinear, whose 'linear\.weight' is not finite"
    with pytest.raises(CalibrationError, match=said):
        calibrate(model, [{"mask": mask, "x": x}])


class Own(MinMaxObserver):
    """An observer that says nothing of what it has seen, and gives a range that is none."""

    def collect(self, tensor: Tensor) -> None:
        assert tensor.numel()

    def compute(self, grid: object = None) -> Tensor:
        return torch.tensor(torch.nan)


def test_a_range_that_is_not_finite_is_refused() -> None:
    config = QuantConfig(TensorQuantConfig(observer=Own))
    model = insert_qdq(transform(Net().eval()), config)
    said = r"'x_stub' \(first\.0 INPUT\) gives a range that is not finite"
    with pytest.raises(CalibrationError, match=said):
        calibrate(model, [torch.rand(*SHAPE)])
