"""Equal scales across operations that copy, choices of the user, and what placement says."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from embedl_deploy import transform
from embedl_deploy.errors import QuantizationError
from embedl_deploy.export import export_onnx, verify_onnx
from embedl_deploy.modules import (
    FusedConvBN,
    FusedScaledDotProductAttention,
    ScaledDotProductAttention,
)
from embedl_deploy.quantize import (
    QuantConfig,
    QuantStub,
    Skip,
    WeightFakeQuantize,
    calibrate,
    insert_qdq,
    placement,
    quantize,
)
from embedl_deploy.quantize.placing.copying import sources
from embedl_deploy.quantize.rounding import INT8, fake_quantize
from tests.quantize.nets import NETS, batches, ready, vit

Operation = Callable[[Tensor], Any]
COPYING: dict[str, Operation] = {
    "flatten": lambda x: x.flatten(1),
    "reshape": lambda x: x.reshape(2, -1),
    "view": lambda x: x.view(x.shape[0], -1),
    "transpose": lambda x: x.transpose(1, 2),
    "permute": lambda x: x.permute(0, 2, 3, 1),
    "slice": lambda x: x[:, 1:3],
    "item": lambda x: x[:, 0],
    "split": lambda x: x.split(2, 1)[1],
    "chunk": lambda x: torch.chunk(x, 2, 1)[0],
    "unbind": lambda x: x.unbind(1)[2],
    "squeeze": lambda x: x[:, :1].squeeze(1),
    "unsqueeze": lambda x: x.unsqueeze(0),
    "expand": lambda x: x[:, :1].expand(-1, 3, -1, -1),
    "contiguous": lambda x: x.contiguous(),
    "cat": lambda x: torch.cat([x, x], 1),
    "stack": lambda x: torch.stack((x, x)),
    "flip": lambda x: x.flip(-1),
    "roll": lambda x: torch.roll(x, 1, 2),
    "repeat": lambda x: x.repeat(1, 2, 1, 1),
    "zero padding": lambda x: F.pad(x, (1, 1)),
    "reflection padding": lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect"),
    "nearest": lambda x: F.interpolate(x, scale_factor=2),
    "pixel shuffle": lambda x: F.pixel_shuffle(x, 2),
    "max pooling": lambda x: F.max_pool2d(x, 3, 2, 1),
    "adaptive max pooling": lambda x: F.adaptive_max_pool2d(x, 2),
    "dropout": lambda x: F.dropout(x, 0.5, training=False),
}
COMPUTING: dict[str, Operation] = {
    "average pooling": lambda x: F.avg_pool2d(x, 2),
    "bilinear": lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"),
    "padding with ones": lambda x: F.pad(x, (1, 1), value=1.0),
    "sum": lambda x: x + x,
    "product": lambda x: x * 0.3,
    "mean": lambda x: x.mean(1),
    "softmax": lambda x: x.softmax(1),
}
MODULES: dict[str, tuple[nn.Module, bool]] = {
    "MaxPool2d": (nn.MaxPool2d(2), True),
    "ZeroPad2d": (nn.ZeroPad2d(1), True),
    "PixelUnshuffle": (nn.PixelUnshuffle(2), True),
    "Upsample": (nn.Upsample(scale_factor=2), True),
    "Upsample, linear": (nn.Upsample(scale_factor=2, mode="bilinear"), False),
    "ConstantPad2d of 0": (nn.ConstantPad2d(1, 0.0), True),
    "ConstantPad2d of 1": (nn.ConstantPad2d(1, 1.0), False),
    "AvgPool2d": (nn.AvgPool2d(2), False),
    "Sigmoid": (nn.Sigmoid(), False),
}


class Between(nn.Module):
    """A convolution's input, an operation, and a convolution or linear layer after it."""

    def __init__(self, operation: Operation) -> None:
        super().__init__()
        self.operation = operation

    def forward(self, x: Tensor) -> Any:
        return self.operation(x)


def rounded(x: Tensor) -> Tensor:
    return fake_quantize(x, torch.tensor(0.11), INT8)


def only_copies(operation: Operation, method: str) -> bool:
    """Whether only copying operations lead from the input to the result."""
    example = (torch.randn(2, 4, 6, 6),)
    graph = transform(Between(operation).eval(), example, method=method).model  # type: ignore[arg-type]
    modules = dict(graph.named_modules())
    first, *_, last = graph.graph.nodes
    (result,) = last.all_input_nodes
    return first in {result, *sources(result, modules)}


@pytest.mark.parametrize("method", ["trace", "export"])
@pytest.mark.parametrize("name", COPYING)
def test_what_copies_is_known_and_commutes_with_rounding(name: str, method: str) -> None:
    operation = COPYING[name]
    x = torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(0))
    assert torch.equal(rounded(operation(x)), operation(rounded(x)))
    assert only_copies(operation, method)


@pytest.mark.parametrize("name", COMPUTING)
def test_what_computes_does_not_commute(name: str) -> None:
    operation = COMPUTING[name]
    x = torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(0))
    assert not torch.equal(rounded(operation(x)), operation(rounded(x)))
    assert not only_copies(operation, "trace")


@pytest.mark.parametrize("name", MODULES)
def test_modules_likewise(name: str) -> None:
    module, copies = MODULES[name]
    x = torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(0))
    assert torch.equal(rounded(module(x)), module(rounded(x))) is copies
    assert only_copies(module, "trace") is copies


class Joined(nn.Module):
    """Two branches of very different ranges, joined, pooled and read again."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1)
        self.more, self.again = nn.Conv2d(4, 4, 1), nn.Conv2d(8, 4, 1)
        self.last, self.head = nn.Conv2d(8, 4, 3), nn.Linear(4, 2)
        with torch.no_grad():
            self.right.weight.mul_(20)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.left(x), self.right(x)
        both = torch.cat((left, right), 1)
        pooled = F.max_pool2d(both, 2)
        y = self.more(left).flatten(2).mean(2) + self.again(both).flatten(2).mean(2)
        return self.head(y + self.last(pooled).flatten(2).mean(2))


GROUP = ["left_stub", "cat_stub", "max_pool2d_stub"]
DATA = batches(2, 3, (3, 8, 8))


def stubs(model: nn.Module) -> dict[str, QuantStub]:
    return {path: one for path, one in model.named_modules() if isinstance(one, QuantStub)}


def joined() -> fx.GraphModule:
    torch.manual_seed(0)
    return insert_qdq(transform(Joined().eval()))


def test_both_sides_of_what_copies_share_one_scale() -> None:
    model = calibrate(joined(), DATA)
    found = stubs(model)
    assert sorted(found) == sorted([*GROUP, "x_stub", "add_1_stub"])
    assert [found[path].shares for path in GROUP] == ["", "left_stub", "left_stub"]
    assert len({found[path].scale.item() for path in GROUP}) == 1
    with torch.no_grad():
        wide = torch.cat([model.get_submodule("right.conv")(part) for part in DATA])
        narrow = torch.cat([model.get_submodule("left.conv")(part) for part in DATA])
    assert found["left_stub"].scale.item() == pytest.approx(wide.abs().max().item() / 127)
    assert narrow.abs().max() < wide.abs().max() / 5
    assert len({found[path].scale.item() for path in ("x_stub", "left_stub", "add_1_stub")}) == 3


def test_a_shared_scale_lasts() -> None:
    model = calibrate(joined(), DATA)
    twin = copy.deepcopy(model).train().double().float()
    optimizer = torch.optim.SGD(twin.parameters(), 0.1)
    twin(DATA[0]).square().mean().backward()
    optimizer.step()
    restored = joined()
    restored.load_state_dict(twin.state_dict())
    for one in (twin, restored):
        scales = {stubs(one)[path].scale.item() for path in GROUP}
        assert scales == {stubs(model)["left_stub"].scale.item()}
        assert [stubs(one)[path].shares for path in GROUP] == ["", "left_stub", "left_stub"]


class Apart(nn.Module):
    """Query, key and value are parts of one tensor that nobody rounds."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(8, 24)
        self.out = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).reshape(*x.shape[:2], 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v)
        return self.out(y.transpose(1, 2).flatten(2))


TOKENS = batches(2, 3, (5, 8))


def apart(config: QuantConfig | None = None) -> fx.GraphModule:
    torch.manual_seed(0)
    return insert_qdq(transform(Apart().eval(), (TOKENS[0],)), config)


def test_parts_of_a_tensor_without_a_stub_keep_their_own_scales() -> None:
    model = calibrate(apart(QuantConfig(attention="inputs")), TOKENS)
    assert len(stubs(model)) == 5
    assert not any(stub.shares for stub in stubs(model).values())
    assert len({stub.scale.item() for stub in stubs(model).values()}) == 5


def test_full_attention_rounds_probabilities_and_result_as_well() -> None:
    model = calibrate(apart(QuantConfig(attention="full")), TOKENS)
    found = stubs(model)
    assert len(found) == 7
    (inner,) = (one for one in found.values() if one.points[0].endswith("PROBABILITIES"))
    assert 0 < inner.scale.item() <= 1 / 127
    (result,) = (one for one in found.values() if one.points[0].endswith(" OUTPUT"))
    (out,) = (one for one in found.values() if one.points == ("out INPUT",))
    assert out.shares
    assert out.scale == result.scale
    with torch.no_grad():
        got, want = model(TOKENS[0]), calibrate(apart(), TOKENS)(TOKENS[0])
    assert 0 < float((got - want).norm() / want.norm()) < 0.05


def test_attention_may_be_left_alone() -> None:
    model = apart(QuantConfig(attention="none"))
    assert [stub.points for stub in stubs(model).values()] == [("qkv INPUT",), ("out INPUT",)]
    (row,) = (row for row in placement(model).rows if row.what == "none")
    assert row.reason == "attention is not quantized"
    assert len(row.points) == 3


MASKS: dict[str, Tensor | None] = {
    "none": None,
    "boolean": torch.tensor([[True, False, True], [False, False, False], [True, True, True]]),
    "additive": torch.tensor([[0.0, -1.0, 2.0], [-torch.inf] * 3, [0.5, -torch.inf, 0.0]]),
}


@pytest.mark.parametrize("mask", [*MASKS, "causal"])
def test_attention_in_steps_is_torchs(mask: str) -> None:
    attention = ScaledDotProductAttention(is_causal=mask == "causal", enable_gqa=True)
    query, key = torch.randn(2, 4, 3, 8), torch.randn(2, 2, 3, 8)
    given = MASKS.get(mask)
    got = attention.attend(query, key, key, given, through=lambda one: one)
    torch.testing.assert_close(got, attention(query, key, key, given))


@pytest.mark.slow
def test_full_attention_is_exported_as_simulated(tmp_path: Path) -> None:
    model = calibrate(apart(QuantConfig(attention="full")), TOKENS)
    path = export_onnx(model, (TOKENS[0],), tmp_path / "model.onnx")
    parity = verify_onnx(path, model, TOKENS)
    assert parity.only_ties
    assert len(parity.stubs) == 7


def test_full_attention_of_a_network_stays_close() -> None:
    source = ready(vit)
    result = transform(source, (batches()[0],))
    model = quantize(result, batches(), QuantConfig(attention="full"))
    attentions = [one for one in model.modules() if isinstance(one, FusedScaledDotProductAttention)]
    assert all(isinstance(one.probabilities, QuantStub) for one in attentions)
    assert [len(list(one.operations())) for one in attentions] == [1, 1]
    with torch.no_grad():
        got, want = model(batches()[0]), source(batches()[0])
    assert 0 < float((got - want).norm() / want.norm()) < 0.5


class Pooled(nn.Module):
    """A backbone that returns what it pools."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.pool = nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1)

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(self.conv(x)).flatten(1)


def test_a_result_of_the_model_is_not_rounded() -> None:
    model = insert_qdq(transform(Pooled().eval()))
    assert [stub.points for stub in stubs(model).values()] == [("conv INPUT",)]
    (row,) = (row for row in placement(model).rows if row.what == "none")
    assert (row.path, row.reason) == ("pool", "its result is one of the model")
    assert row.points == ("pool INPUT", "pool OUTPUT")


def test_nothing_but_a_result_is_nothing_to_quantize() -> None:
    with pytest.raises(QuantizationError, match="'0' is left"):
        insert_qdq(transform(nn.Sequential(nn.AdaptiveAvgPool2d(1))))


class Padded(nn.Module):
    """A convolution after a padding, and perhaps somebody else who reads what it pads."""

    def __init__(self, padding: Operation, *, read: bool = False) -> None:
        super().__init__()
        self.pad, self.read = padding, read
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        y = self.pad(torch.sin(x))
        return (self.conv(y), y) if self.read else (self.conv(y),)


PADDINGS: dict[str, tuple[Operation, str]] = {
    "zeros": (lambda x: F.pad(x, (1, 2, 1, 2)), "sin_stub"),
    "module": (nn.ReflectionPad2d(1), "sin_stub"),
    "constant module": (nn.ConstantPad2d(1, 0.0), "sin_stub"),
    "ones": (lambda x: F.pad(x, (1, 2), value=1.0), "pad_stub"),
    "other module": (nn.ConstantPad2d(1, 2.0), "pad_stub"),
}


@pytest.mark.parametrize("name", PADDINGS)
def test_a_stub_stands_before_a_padding_with_what_has_a_value_of_its_own(name: str) -> None:
    operation, path = PADDINGS[name]
    source = Padded(operation).eval()
    model = quantize(transform(source), DATA)
    assert list(stubs(model)) == [path]
    weight = model.get_submodule("conv").weight("conv.weight")  # type: ignore[operator]
    scale = stubs(model)[path].scale
    with torch.no_grad():
        y = fake_quantize(operation(torch.sin(DATA[0])), scale, INT8)
        want = F.conv2d(y, weight, source.conv.bias)
        torch.testing.assert_close(model(DATA[0])[0], want)
    read = insert_qdq(transform(Padded(operation, read=True).eval()))
    assert list(stubs(read)) == ["pad_stub"]


class Small(nn.Module):
    """Two blocks and a head; the second block and the head read the same tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))
        self.head = nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.first(x)
        return self.second(y), self.head(y)


def quantizers(skip: Any, config: QuantConfig | None = None) -> tuple[list[str], list[str]]:
    """Points with a stub, and modules with a quantized weight, where something is skipped."""
    result = transform(Small().eval())
    if callable(skip) and getattr(skip, "__name__", "") == "of":
        skip = skip(result.model)
    model = insert_qdq(result, config or QuantConfig(skip=[skip]))
    points = [point for stub in stubs(model).values() for point in stub.points]
    named = model.named_modules()
    weights = [path for path, one in named if isinstance(one, WeightFakeQuantize)]
    return sorted(points), sorted(path.partition(".weight_q")[0] for path in weights)


ALL = ["first.0", "head", "second.0"]


def of(model: fx.GraphModule) -> nn.Module:
    return model.get_submodule("head.conv")


SKIPS: dict[str, tuple[Any, set[str]]] = {
    "path": ("head", {"head"}),
    "holder": ("second", {"second.0"}),
    "pattern": ("[fs]*", {"first.0", "second.0"}),
    "deep pattern": ("*.0", {"first.0", "second.0"}),
    "fused class": (FusedConvBN, {"head", "second.0"}),
    "operation's class": (nn.BatchNorm2d, {"second.0"}),
    "module": (of, {"head"}),
    "predicate": (lambda path, module: path == "head" and len(list(module.children())), {"head"}),
    "class that is nowhere": (nn.Linear, set()),
}


@pytest.mark.parametrize("name", SKIPS)
def test_modules_can_be_skipped(name: str) -> None:
    skip, paths = SKIPS[name]
    kept = [path for path in ALL if path not in paths]
    assert quantizers(skip) == ([f"{path} INPUT" for path in kept], kept)


def test_activations_or_weights_alone_can_be_skipped() -> None:
    points = [f"{path} INPUT" for path in ALL]
    assert quantizers(Skip("head", activations=False)) == (points, ["first.0", "second.0"])
    assert quantizers(Skip("head", weights=False)) == (["first.0 INPUT", "second.0 INPUT"], ALL)
    both = QuantConfig(skip=[Skip("head", activations=False), Skip("second", weights=False)])
    assert quantizers(None, both) == (
        ["first.0 INPUT", "head INPUT"],
        ["first.0", "second.0"],
    )


def test_weights_alone_need_no_data() -> None:
    result = transform(Small().eval())
    model = quantize(result, [], QuantConfig(skip=[Skip("*", weights=False)]))
    assert not stubs(model)
    rows = placement(model).rows
    assert [row.what for row in rows] == ["weight"] * 3 + ["none"] * 3
    quantizer = model.get_submodule("first.0.weight_quantizers.conv_weight")
    conv = model.get_submodule("first.0.conv")
    assert isinstance(conv, nn.Conv2d)
    with torch.no_grad():
        x = DATA[0]
        want = result.model.get_submodule("first.0")(x)
        got = model.get_submodule("first.0")(x)
        torch.testing.assert_close(got, F.conv2d(x, quantizer(conv.weight), conv.bias).relu())
    assert not torch.equal(got, want)


def test_a_skipped_weight_is_listed() -> None:
    config = QuantConfig(skip=[Skip("head", activations=False)])
    rows = placement(insert_qdq(transform(Small().eval()), config)).rows
    (row,) = (row for row in rows if row.what == "none")
    assert (row.path, row.points, row.reason) == ("head", (), "weights skipped by 'head'")


@pytest.mark.parametrize("skip", ["haed", "head.*.x", nn.ReLU()])
def test_a_skip_that_selects_nothing_is_refused(skip: Any) -> None:
    with pytest.raises(QuantizationError, match="skip selects no fused module with"):
        quantizers(skip)


def test_a_skipped_weight_may_be_anything() -> None:
    net = Small().eval()
    with torch.no_grad():
        net.head.weight.fill_(float("nan"))
    assert insert_qdq(transform(net), QuantConfig(skip=["head"]))


def test_a_skip_in_no_list_and_an_unknown_choice_are_refused() -> None:
    with pytest.raises(QuantizationError, match=r"skip is a list: write skip=\['head'\]"):
        QuantConfig(skip="head")
    with pytest.raises(QuantizationError, match="not 'all'"):
        QuantConfig(attention="all")  # type: ignore[arg-type]


def test_the_placement_prints() -> None:
    model = insert_qdq(transform(Small().eval()), QuantConfig(skip=[Skip("h*")]))
    assert str(placement(model)) == (
        "What    Path                  Bits  Q/DQ points     Reason\n"
        "──────  ────────────────────  ────  ──────────────  "
        "──────────────────────────────────────────\n"
        "stub    x_stub                8     first.0 INPUT   "
        "input of a kernel that computes in integers\n"
        "stub    first.0_stub          8     second.0 INPUT  "
        "input of a kernel that computes in integers\n"
        "weight  first.0.conv.weight   8                     one scale a channel\n"
        "weight  second.0.conv.weight  8                     one scale a channel\n"
        "none    head                        head INPUT      skipped by 'h*'"
    ).replace("──────────────────────────────────────────\n", "─" * 43 + "\n")


@pytest.mark.parametrize("net", NETS)
def test_every_quantizer_has_a_row_with_a_reason(net: str) -> None:
    model = insert_qdq(transform(ready(NETS[net]), (batches()[0],)))
    rows = placement(model).rows
    assert {row.path for row in rows if row.what == "stub"} == set(stubs(model))
    weights = [one for one in model.modules() if isinstance(one, WeightFakeQuantize)]
    assert len([row for row in rows if row.what == "weight"]) == len(weights)
    assert all(row.reason and row.bits == 8 for row in rows if row.what != "none")
