"""Capture by torch.export: the same graph as by tracing, and models that tracing refuses."""

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from embedl_deploy import capture, transform
from embedl_deploy.errors import CaptureError
from tests.helpers import assert_close, net


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(8)
        self.relu = nn.ReLU(inplace=True)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(x))
        out += x
        x = F.relu(out)
        return self.head(F.dropout(x.mean((2, 3)), 0.5, self.training))


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(16)
        self.attention = nn.MultiheadAttention(16, 4, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return x + self.mlp(x)


class NormAct(nn.BatchNorm2d):
    """A batch norm that also activates, as timm's: opened, and found again."""

    def forward(self, x: Tensor) -> Tensor:
        training = self.training
        return F.relu(
            F.batch_norm(
                x,
                self.running_mean,
                self.running_var,
                self.weight,
                self.bias,
                training,
                self.momentum or 0.1,
                self.eps,
            )
        )


def normalized() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), NormAct(4, eps=1e-3))


class Functional(nn.Module):
    """Weights of its own, functions in place of modules, a convolution padded to "same"."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 3, 3, 3))
        self.scale = nn.Parameter(torch.rand(4))
        self.shift = nn.Parameter(torch.rand(4))

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(F.conv2d(x, self.weight, padding="same"))
        x = F.layer_norm(x.permute(0, 2, 3, 1), (4,), self.scale, self.shift)
        x = F.max_pool2d(x.permute(0, 3, 1, 2), 2)
        return F.hardtanh(x, 0.0, 6.0) + F.avg_pool2d(x, 3, 1, 1)


class Pair(nn.Module):
    """Two inputs, results in a dict, one of them a constant of the code."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 6)
        self.lstm = nn.LSTM(6, 4, batch_first=True)

    def forward(self, x: Tensor, other: Tensor) -> dict[str, Any]:
        out, (hidden, _) = self.lstm(self.linear(x) + other)
        return {"out": out, "hidden": [hidden * torch.tensor([2.0])], "none": None}


class WritesSlices(nn.Module):
    """Writes to parts of a tensor, which tracing cannot express."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        base = torch.zeros_like(y)
        base[:, :2] = y[:, 2:]
        view = base[:, 2:]
        view += 1.0
        return base * y


class Branches(nn.Module):
    """Python code that depends on the shape."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] % 2:
            x = F.pad(x, (0, 1))
        for _ in range(len(x.shape) - 2):
            x = self.conv(x)[:, :3]
        return x


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[Tensor, ...]]] = {
    "residual": (Residual, (torch.randn(2, 3, 8, 8),)),
    "attention": (Attention, (torch.randn(2, 5, 16),)),
    "normalized": (normalized, (torch.randn(2, 3, 8, 8),)),
    "functional": (Functional, (torch.randn(2, 3, 8, 8),)),
    "pair": (Pair, (torch.randn(2, 3, 6), torch.randn(2, 3, 6))),
}
UNTRACEABLE: dict[str, tuple[Callable[[], nn.Module], tuple[Tensor, ...]]] = {
    "writes slices": (WritesSlices, (torch.randn(2, 3, 8, 8),)),
    "branches": (Branches, (torch.randn(2, 3, 8, 7),)),
}


def assert_same(expected: Any, actual: Any) -> None:
    left, right = pytree.tree_leaves(expected), pytree.tree_leaves(actual)
    assert len(left) == len(right)
    for one, other in zip(left, right, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", MODELS)
def test_both_ways_give_the_same_matches(name: str) -> None:
    make, args = MODELS[name]
    model = make().eval()
    traced = transform(model, args, method="trace")
    exported = transform(model, args, method="export")
    assert exported.fused == traced.fused
    assert exported.fused
    found = [(match.pattern.name, match.path) for match in exported.matches]
    assert found == [(match.pattern.name, match.path) for match in traced.matches]
    assert_same(model(*args), exported.model(*args))


@pytest.mark.parametrize("name", [*MODELS, *UNTRACEABLE])
def test_the_exported_graph_computes_the_same_at_other_batch_sizes(name: str) -> None:
    make, args = (MODELS | UNTRACEABLE)[name]
    model = make().eval()
    graph = capture(model, tuple(one[:1] for one in args), method="export")
    for size in (1, 2, 5):
        batch = tuple(torch.cat([one] * 3)[:size] for one in args)
        assert_same(model(*batch), graph(*batch))


@pytest.mark.parametrize("name", UNTRACEABLE)
def test_auto_falls_back_to_export_and_says_so(name: str, caplog: pytest.LogCaptureFixture) -> None:
    make, args = UNTRACEABLE[name]
    model = make().eval()
    with pytest.raises(CaptureError):
        capture(model, args, method="trace")
    with caplog.at_level(logging.INFO, logger="embedl_deploy"):
        result = transform(model, args)
    assert "torch.export is tried" in caplog.text
    assert result.fused["FusedConvBN"] >= 1
    assert_same(model(*args), result.model(*args))


class WritesMask(nn.Module):
    """Attention whose mask is written part by part, which makes export write copies."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(16, 48), nn.Linear(16, 16)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        size = x.shape[1]
        mask = x.new_zeros((size, size))
        mask[: size // 2, size // 2 :] = -4.0
        parts = self.qkv(x).reshape(-1, size, 3, 2, 8).permute(2, 0, 3, 1, 4)
        query, key, value = parts.contiguous().unbind(0)
        scores = F.softmax((query * 8**-0.5) @ key.transpose(-2, -1) + mask, -1)
        mixed = F.dropout(scores, 0.0, self.training) @ value
        return self.proj(mixed.transpose(1, 2).reshape(-1, size, 16)), x.clone()


def test_copies_of_a_program_without_writes_hide_no_attention() -> None:
    model, x = WritesMask().eval(), torch.randn(2, 6, 16)
    result = transform(model, (x,))
    wanted = {"FusedMHAInProjection", "FusedScaledDotProductAttention", "FusedLinear"}
    assert wanted == result.fused.keys()
    found = result.model(x)
    assert_same(model(x), found)
    assert found[1] is not x


def test_parameters_are_the_models_own_under_their_paths() -> None:
    model = Residual()
    graph = capture(model, (torch.randn(2, 3, 8, 8),), method="export", copy=False)
    own = dict(model.named_parameters())
    assert {name: id(one) for name, one in graph.named_parameters()} == {
        name: id(one) for name, one in own.items()
    }


def test_training_goes_on_as_in_the_source() -> None:
    model = Residual().train()
    graph = capture(model, (torch.randn(2, 3, 8, 8),), method="export")
    assert graph.training
    x = torch.randn(4, 3, 8, 8)
    torch.manual_seed(1)
    expected = model(x)
    torch.manual_seed(1)
    torch.testing.assert_close(graph(x), expected)
    torch.testing.assert_close(graph.get_buffer("bn1.running_mean"), model.bn1.running_mean)
    assert not torch.equal(graph(x), graph(x))


def test_the_source_model_is_left_as_it_was() -> None:
    model = Attention().train()
    before = {name: one.clone() for name, one in model.state_dict().items()}
    capture(model, (torch.randn(2, 5, 16),), method="export")
    assert model.training
    assert all("forward" not in vars(module) for module in model.modules())
    assert all(torch.equal(one, before[name]) for name, one in model.state_dict().items())


def test_a_recurrent_layer_stays_whole() -> None:
    make, args = MODELS["pair"]
    graph = capture(make(), args, method="export")
    assert any(isinstance(module, nn.LSTM) for module in graph.modules())


def test_dynamic_shapes_are_those_asked_for() -> None:
    height = torch.export.Dim("height", min=4, max=64)
    graph = capture(
        Functional().eval(), (torch.randn(1, 3, 8, 8),), dynamic_shapes=({2: 2 * height},)
    )
    assert graph(torch.randn(1, 3, 16, 8)).shape[2] == 8


def test_export_needs_inputs() -> None:
    with pytest.raises(CaptureError, match="needs example inputs"):
        capture(Residual(), method="export")


def test_a_model_that_no_way_takes_names_its_line() -> None:
    class Impossible(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if float(x.sum()) > 0:  # the line
                return x
            return -x

    with pytest.raises(CaptureError, match=r"if float\(x.sum\(\)\) > 0"):
        capture(Impossible(), (torch.randn(2, 3),))


class Contained(nn.Module):
    """Containers in and out, one of them within another; code that depends on a shape."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(
        self, several_xs: list[Tensor], named: dict[str, Any], *, other: Any = None
    ) -> dict[str, Any]:
        x = self.linear(several_xs[0]) * named["my_factor"]
        if several_xs[1].shape[1] == 3 and other is not None:
            x = x + named["more"]["of_it"][0] * other[1]
        return {"x": x, "both": [several_xs[1], (x, None)]}


@pytest.mark.parametrize("method", ["export", "auto"])
def test_containers_go_in_and_out(method: Any) -> None:
    one, two, three, four = torch.randn(4, 2, 3)
    args = ([one, two], {"my_factor": three, "more": {"of_it": (four,)}})
    kwargs = {"other": (two * 2, three * 2)}
    model = Contained().eval()
    graph = capture(model, args, kwargs, method=method)
    names = [str(node.target) for node in graph.graph.nodes if node.op == "placeholder"]
    assert names == ["several_xs", "named", "other"]
    assert_same(model(*args, **kwargs), graph(*args, **kwargs))
    assert_same(model(*args, **kwargs), transform(model, args, kwargs).model(*args, **kwargs))


class WithoutGradient(nn.Module):
    """Blocks under `no_grad` and under an autocast that is switched off."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            scale = self.first(x).sigmoid() * 2
        return self.second(x) * scale


def test_code_under_no_grad_passes_no_gradient() -> None:
    model = WithoutGradient()
    x = torch.randn(3, 4)
    graph = capture(model, (x,), method="export", copy=False)
    assert_same(model(x), graph(x))
    torch.autograd.backward(graph(x).sum())
    assert model.first.weight.grad is None
    assert model.second.weight.grad is not None


def test_code_under_autocast_is_refused() -> None:
    class Cast(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return x @ x

    with pytest.raises(CaptureError, match="runs under autocast"):
        capture(Cast(), (torch.randn(2, 2),), method="export")


@pytest.mark.parametrize(
    ("drop", "shape"),
    [
        (F.dropout, (3, 8)),
        (F.dropout1d, (3, 8, 4)),
        (F.dropout2d, (3, 8, 4, 4)),
        (F.dropout3d, (3, 8, 2, 2, 2)),
        (F.alpha_dropout, (3, 8)),
        (F.feature_alpha_dropout, (3, 8, 4, 4)),
    ],
)
def test_a_dropout_beside_a_residual_drops_its_branch_alone(
    drop: Callable[..., Tensor], shape: tuple[int, ...]
) -> None:
    class Dropped(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            x = x * 2
            return x - drop(x, 0.5, self.training)

    model, x = Dropped().eval(), torch.rand(shape) + 0.1
    graph = capture(model, (x,), method="export").train()
    model.train()
    for mode in (graph, model):
        torch.manual_seed(3)
        expected = model(x)
        torch.manual_seed(3)
        torch.testing.assert_close(mode(x), expected)
    assert graph(x).abs().max() > 0


class Unknown:
    """A result of a kind that no library knows."""

    def __init__(self, x: Tensor) -> None:
        self.x = x


BAD: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "value": (lambda x: x if x.sum() > 0 else -x, "x.sum() > 0"),
    "numpy": (lambda x: torch.from_numpy(x.numpy()), "x.numpy()"),
    "item as a size": (lambda x: x[: int(x.max())].reshape(x.shape[0], 1), "int(x.max())"),
    "unknown result": (lambda x: Unknown(x.sum(0)[: len(x)]), "return tensors"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_model_that_no_way_takes_has_one_error(name: str) -> None:
    function, said = BAD[name]

    class Inside(nn.Module):
        def forward(self, x: Tensor) -> Any:
            return function(x)

    with pytest.raises(CaptureError) as caught:
        capture(nn.Sequential(nn.Identity(), Inside()), (torch.ones(2, 3),))
    text = str(caught.value)
    assert text.startswith("no way in takes Sequential\n")
    assert " take Sequential: " in text
    assert said in text
    assert text.count("What to try") == 1
    assert "test_exported.py" in text


def test_what_is_no_model_is_said() -> None:
    with pytest.raises(CaptureError, match="the model is a function"):
        capture(lambda x: x)  # type: ignore[arg-type]


def test_a_batch_that_the_code_makes_a_number_is_the_one_that_was_given() -> None:
    """As RT-DETR does; the size of its input stays a symbol, which stands for two (torch 2.13)."""

    def forward(_: Any, x: Tensor) -> Tensor:
        return x.sin() * torch.ones(2, 4).expand(x.shape[0], 4) if x.shape[0] != 1 else x.cos()

    example = torch.randn(1, 4)
    graph = capture(net(forward), (example,), method="export")
    assert torch.equal(graph(example), example.cos())


@pytest.mark.parametrize(
    ("kwargs", "said"),
    [
        ({"x": torch.randn(5, 3, 9, 8)}, r"'x' is \[5, 3, 9, 8\].*for \[any, 3, 8, 8\] alone"),
        ({"x": torch.randn(5, 3, 8)}, r"'x' is \[5, 3, 8\]"),
        ({"scale": 3}, "'scale' is 3.*for 2 alone"),
        (
            {"x": torch.randn(5, 3, 8, 8), "masks": {"a": torch.ones(5, 1)}},
            r"'masks_a' is \[5, 1\]",
        ),
    ],
)
def test_inputs_that_the_graph_does_not_hold_for_are_refused(
    kwargs: dict[str, Any], said: str
) -> None:
    def forward(self: Any, x: Tensor, scale: int, masks: dict[str, Tensor]) -> Tensor:
        x = self.conv(x) * scale
        rows = [x[:, :, at] for at in range(int(x.shape[2]))]
        return sum(rows, torch.zeros(())) * masks["a"][:, None]

    model = net(forward, conv=nn.Conv2d(3, 4, 1)).eval()
    given = {"x": torch.randn(2, 3, 8, 8), "scale": 2, "masks": {"a": torch.ones(2, 8)}}
    graph = capture(model, kwargs=given)
    larger = given | {"x": torch.randn(5, 3, 8, 8), "masks": {"a": torch.ones(5, 8)}}
    assert_close(graph(**larger), model(**larger))
    with pytest.raises(CaptureError, match=said):
        graph(**given | kwargs)
