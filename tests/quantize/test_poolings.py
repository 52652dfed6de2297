"""What joins a tensor with its max poolings is rounded before them, with the same values."""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch._decomp import decompositions

from embedl_deploy import transform
from embedl_deploy.export import export_onnx, verify_onnx
from embedl_deploy.quantize import (
    MovingAverageObserver,
    MSEObserver,
    QuantConfig,
    TensorQuantConfig,
    analyze,
    insert_qdq,
    quantize,
)
from embedl_deploy.quantize.rounding import INT8, fake_quantize
from embedl_deploy.tensorrt import compile_onnx
from tests.export.files import File
from tests.quantize.nets import batches
from tests.quantize.test_placement import stubs

DATA = batches(2, 2, (3, 6, 6))
Join = Callable[["Net", Tensor, Tensor], Any]


class Net(nn.Module):
    """A convolution, what is made of its result, and a convolution of the first of that."""

    def __init__(self, join: Join, channels: int) -> None:
        super().__init__()
        self.first, self.side = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1)
        self.pool, self.mean = nn.MaxPool2d(3, 1, 1), nn.AvgPool2d(3, 1, 1)
        self.last, self.beside = nn.Conv2d(channels, 4, 1), nn.Conv2d(4, 4, 1)
        self.join = join

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        made = self.join(self, x, torch.tanh(self.first(x)))
        joined, *more = made if isinstance(made, tuple) else (made,)
        return self.last(joined), *more


def in_a_row(net: Net, _: Tensor, y: Tensor) -> Tensor:
    one = net.pool(y)
    two = net.pool(one)
    return torch.cat([y, one, two, net.pool(two)], 1)


def side_by_side(_: Net, __: Tensor, y: Tensor) -> Tensor:
    return torch.cat([F.max_pool2d(y, 5, 1, 2), F.max_pool2d(y, 3, 1, 1), y], 1)


def of_lines(_: Net, __: Tensor, y: Tensor) -> Tensor:
    wide = F.max_pool2d(y, (3, 1), (2, 1), (1, 0), (2, 1), ceil_mode=True)
    return torch.cat((y, wide, F.adaptive_max_pool2d(y, (2, 6))), dim=2)


MOVED: dict[str, tuple[Join, int]] = {
    "in a row": (in_a_row, 16),
    "side by side": (side_by_side, 12),
    "other sizes": (of_lines, 4),
}
STAY: dict[str, tuple[Join, int]] = {
    "a foreign branch": (lambda net, x, y: torch.cat([y, net.pool(y), net.side(x)], 1), 12),
    "a foreign pooling": (lambda net, x, y: torch.cat([y, net.pool(net.side(x))], 1), 8),
    "an average pooling": (lambda net, _, y: torch.cat([y, net.mean(y)], 1), 8),
    "another operation": (lambda net, _, y: torch.cat([y, net.pool(y * 2)], 1), 8),
    "not itself": (lambda net, _, y: torch.cat([net.pool(y), net.pool(net.pool(y))], 1), 8),
    "an addition": (lambda net, _, y: y + net.pool(y), 4),
}


def quantized(net: nn.Module, config: QuantConfig | None = None) -> fx.GraphModule:
    torch.manual_seed(0)
    return quantize(transform(net.eval()), DATA, config)


def read(model: fx.GraphModule, x: Tensor) -> Tensor:
    """What the last convolution reads."""
    found: list[Tensor] = []
    hook = model.get_submodule("last").register_forward_pre_hook(
        lambda _, inputs: found.append(inputs[0])
    )
    with torch.no_grad():
        model(x)
    hook.remove()
    return found[0]


@pytest.mark.parametrize("name", MOVED)
def test_the_stub_stands_before_the_poolings_and_nothing_changes(name: str) -> None:
    join, channels = MOVED[name]
    net = Net(join, channels)
    model = quantized(net)
    assert sorted(stubs(model)) == ["tanh_stub", "x_stub"]
    stub = stubs(model)["tanh_stub"]
    assert stub.points == ("last INPUT",)
    x_stub, first = stubs(model)["x_stub"], model.get_submodule("first")
    with torch.no_grad():
        seen = [join(net, x, torch.tanh(net.first(x))) for x in DATA]
        y = torch.tanh(first(x_stub(DATA[0])))
        want = fake_quantize(join(net, DATA[0], y), stub.scale, INT8)
    assert stub.scale.item() == pytest.approx(max(one.abs().max().item() for one in seen) / 127)
    assert len(want.unique()) > 20
    assert torch.equal(read(model, DATA[0]), want)


@pytest.mark.parametrize("name", STAY)
def test_the_stub_stays_where_anything_else_is_joined(name: str) -> None:
    model = insert_qdq(transform(Net(*STAY[name]).eval()))
    (last,) = [path for path, one in stubs(model).items() if "last INPUT" in one.points]
    assert last != "tanh_stub"


FP8 = TensorQuantConfig(format="float8_e4m3")
CONFIGS = {
    "clipped": QuantConfig(TensorQuantConfig(observer=MSEObserver)),
    "FP8": QuantConfig(FP8, FP8),
    "skipped": QuantConfig(skip=["last"]),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_the_stub_stays_where_the_range_or_the_numbers_ask_for_it(name: str) -> None:
    model = insert_qdq(transform(Net(*MOVED["in a row"]).eval()), CONFIGS[name])
    assert "tanh_stub" not in stubs(model)
    average = QuantConfig(TensorQuantConfig(observer=MovingAverageObserver))
    assert "tanh_stub" in stubs(insert_qdq(transform(Net(*MOVED["in a row"]).eval()), average))


def read_in_floating_point(net: Net, _: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    joined = torch.cat([y, net.pool(y)], 1)
    return joined, joined * 2


def read_by_a_convolution(net: Net, _: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    joined = torch.cat([y, net.pool(y)], 1)
    return joined, net.beside(joined[:, :4])


def returned(net: Net, _: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    pooled = net.pool(y)
    return torch.cat([y, pooled], 1), pooled


def with_indices(_: Net, __: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    pooled, indices = F.max_pool2d(y, 3, 1, 1, return_indices=True)
    return torch.cat([y, pooled], 1), indices


@pytest.mark.parametrize(
    "join", [read_in_floating_point, read_by_a_convolution, returned, with_indices]
)
def test_the_stub_stays_where_somebody_else_reads_what_is_between(join: Join) -> None:
    model = insert_qdq(transform(Net(join, 8).eval(), (DATA[0],)))
    (last,) = [path for path, one in stubs(model).items() if "last INPUT" in one.points]
    assert "cat" in last


def test_others_read_what_is_not_rounded() -> None:
    model = quantized(Net(lambda net, _, y: (torch.cat([y, net.pool(y)], 1), y * 2), 8))
    first, x_stub = model.get_submodule("first"), stubs(model)["x_stub"]
    assert "tanh_stub" in stubs(model)
    with torch.no_grad():
        torch.testing.assert_close(
            model(DATA[0])[1], torch.tanh(first(x_stub(DATA[0]))) * 2, rtol=0, atol=0
        )


def test_convolutions_share_the_stub_of_what_is_pooled() -> None:
    net = Net(lambda net, _, y: (torch.cat([y, net.pool(y)], 1), net.beside(y)), 8)
    model = insert_qdq(transform(net.eval()))
    assert sorted(stubs(model)) == ["tanh_stub", "x_stub"]
    assert sorted(stubs(model)["tanh_stub"].points) == ["beside INPUT", "last INPUT"]


def in_files(name: str) -> Any:
    lacks = not hasattr(decompositions, "adaptive_max_pool2d") and name == "other sizes"
    reason = "this torch cannot write an adaptive maximum to ONNX"
    return pytest.param(name, marks=pytest.mark.skipif(lacks, reason=reason))


@pytest.mark.parametrize("name", [in_files(name) for name in MOVED])
def test_the_file_computes_the_same(name: str, tmp_path: Path) -> None:
    model = quantized(Net(*MOVED[name]))
    path = export_onnx(model, (DATA[0],), tmp_path / "model.onnx")
    assert verify_onnx(path, model, DATA).only_ties
    file = File(path)
    pairs = [node for node in file.named("QuantizeLinear") if "tanh" in node.name]
    assert len(pairs) == 1
    assert {file.maker[one.input[0]].op_type for one in file.named("MaxPool")} <= {
        "DequantizeLinear",
        "MaxPool",
    }


@pytest.mark.parametrize(
    "join",
    [in_a_row, lambda _, __, y: F.pad(y.repeat(1, 4, 1, 1), (1, 1, 1, 1))],
    ids=["pooled", "padded"],
)
def test_a_layer_after_copies_is_measured_with_rounded_inputs(join: Join) -> None:
    net = Net(join, 16)
    model = quantized(net)
    rows = {row.path: row for row in analyze(model, DATA, sensitivity=True).rows}
    weight = model.get_submodule("last").weight("conv.weight")  # type: ignore[operator]
    (stub,) = [one for one in stubs(model).values() if "last INPUT" in one.points]
    with torch.no_grad():
        joined = torch.cat([join(net, x, torch.tanh(net.first(x))) for x in DATA])
        want = net.last(joined)
        got = F.conv2d(fake_quantize(joined, stub.scale, INT8), weight, net.last.bias)
    noise = (got - want).double().square().sum()
    sqnr = 10 * torch.log10(want.double().square().sum() / noise).item()
    assert rows["last"].sqnr_db == pytest.approx(sqnr, abs=0.01)
    assert rows["last"].output_sqnr_db == pytest.approx(sqnr, abs=0.01)


class Wide(nn.Module):
    """Three poolings in a row of 128 channels, as in YOLO."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 128, 1), nn.Conv2d(512, 16, 1)
        self.pool = nn.MaxPool2d(5, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.first(x))
        one = self.pool(y)
        two = self.pool(one)
        return self.last(torch.cat([y, one, two, self.pool(two)], 1))


@pytest.mark.skipif(
    find_spec("tensorrt_rtx_bindings") is None, reason="TensorRT for RTX is not installed"
)
def test_the_compiler_pools_once_on_integers(tmp_path: Path) -> None:
    model = quantized(Wide())
    path = export_onnx(model, (DATA[0],), tmp_path / "model.onnx", precision="float16")
    made = compile_onnx(path, "rtx4090", compiler="rtx")
    assert made.built
    assert not made.lost
    types = [one.inputs[0].dtype for one in made.kernels if one.kind == "maxpool"]
    assert types == ["INT8"] * 3  # six with the pair after the concatenation
