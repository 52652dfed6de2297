"""What capture keeps of a model, and what it cannot take."""

import copy
import io
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.utils import parametrizations, parametrize

from embedl_deploy import capture, transform
from embedl_deploy.errors import CaptureError
from embedl_deploy.graph import shapes
from embedl_deploy.graph.shapes import shape
from embedl_deploy.modules import FusedModule
from tests.cases.case import hooked
from tests.helpers import (
    assert_close,
    assert_same_eval,
    assert_same_training,
    assert_untouched,
    kinds,
    net,
    run,
    snapshot,
    warm,
)

IMAGE = (2, 3, 8, 8)


class LayerNorm2d(nn.LayerNorm):
    """Normalises the channels of an image, as ConvNeXt does."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name for it
        x = input.permute(0, 2, 3, 1)
        x = F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)
        return x.permute(0, 3, 1, 2)


class Inner(nn.Module):
    """A block with a layer of each way to be spelled."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = LayerNorm2d(4, eps=0.01)
        self.weight = nn.Parameter(torch.randn(4, 4, 1, 1))
        self.in_proj_weight = nn.Parameter(torch.randn(5, 4))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.conv(x)))
        x = F.conv2d(x, self.weight)
        x = F.dropout(x, 0.5, self.training)
        return F.linear(x.mean((2, 3)), self.in_proj_weight)


def paths(graph: fx.GraphModule) -> list[str]:
    return [str(node.target) for node in graph.graph.nodes if node.op == "call_module"]


# --- what is kept --------------------------------------------------------------------------------


def test_modules_have_the_paths_of_their_source() -> None:
    model = warm(nn.Sequential(nn.Sequential(Inner(), nn.Tanh()))).eval()
    graph = capture(model)
    inner = [f"0.0.{name}" for name in ("conv", "norm", "relu")]
    # A weight of the block itself would be its "0.0", which holds the others already.
    assert paths(graph) == [*inner, "0.0_1", "0.0.dropout", "0.0.in_proj", "0.1"]
    assert type(graph.get_submodule("0.0.norm")) is nn.LayerNorm
    assert_same_eval(model, graph, (torch.randn(IMAGE),))


def test_the_name_of_the_model_is_kept_over_several_captures() -> None:
    graph = capture(capture(Inner()))
    assert type(graph).__name__ == "Inner"


def test_a_second_capture_changes_nothing() -> None:
    model = warm(Inner()).eval()
    first = capture(model)
    second = capture(first)
    assert paths(first) == paths(second)
    assert kinds(first) == kinds(second)
    assert_same_eval(model, second, (torch.randn(IMAGE),))


def test_tied_parameters_stay_tied() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        return m.head(F.linear(m.embed(x), m.head.weight.T))

    model = net(forward, embed=nn.Embedding(7, 7), head=nn.Linear(7, 7, bias=False))
    model.embed.weight = model.head.weight
    graph = capture(model)
    tied = [one for _, one in graph.named_parameters(remove_duplicate=False)]
    assert len({id(one) for one in tied}) == 1
    assert tied[0] is not model.head.weight
    shared = capture(model, copy=False)
    assert all(one is model.head.weight for one in shared.parameters())


def test_a_weight_used_by_a_module_and_by_a_function_is_one_module() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        return F.linear(m.linear(x), m.linear.weight, m.linear.bias) + m.linear(x).tanh()

    model = warm(net(forward, linear=nn.Linear(4, 4))).eval()
    graph = capture(model)
    assert kinds(graph)["Linear"] == 3
    assert len({id(one) for one in graph.parameters()}) == 2
    assert_same_eval(model, transform(model), (torch.randn(3, 4),))


def test_each_module_keeps_its_mode() -> None:
    model = warm(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Sequential(Inner2(4))))
    for path in ("1", "2.0"):
        model.get_submodule(path).eval()
    graph = capture(model, copy=False)
    modes = {path: one.training for path, one in graph.named_modules()}
    assert modes[""]
    assert modes["0"]
    assert modes["2"]
    assert [modes[path] for path in ("1", "2.0")] == [False, False]
    assert not any(mode for path, mode in modes.items() if path.startswith("2.0."))
    assert_same_training(model, transform(model, copy=False), (torch.randn(IMAGE),))


class Inner2(nn.Module):
    """Dropout in three spellings."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.5)
        self.conv = nn.Conv2d(channels, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.dropout2d(self.drop(x), 0.5, self.training)
        return F.dropout(self.conv(x), training=self.training)


@pytest.mark.parametrize("captured_in_training", [True, False])
def test_functional_dropout_follows_the_mode(*, captured_in_training: bool) -> None:
    model = Inner2(3).train(captured_in_training)
    graph = capture(model)
    x = torch.randn(IMAGE)
    assert not torch.equal(graph.train()(x), graph(x))
    assert_same_eval(model, graph, (x,))


def test_dropout_that_is_always_on_stays_on() -> None:
    model = net(lambda _, x: F.dropout(x, 0.5, training=True)).eval()
    graph = capture(model)
    x = torch.ones(1000)
    assert 300 < int((graph.eval()(x) == 0).sum()) < 700
    off = net(lambda _, x: F.dropout(x, 0.5, training=False)).train()
    assert torch.equal(capture(off).train()(x), x)


def test_attention_drops_weights_in_training_alone() -> None:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(x, x, x, dropout_p=0.5 if m.training else 0.0)

    model = net(forward).train()
    graph = capture(model)
    x = torch.randn(1, 2, 5, 4)
    assert not torch.equal(graph(x), graph(x))
    assert_same_eval(model, graph, (x,))


def test_buffers_are_not_frozen_into_the_graph() -> None:
    model = net(
        lambda m, x: x * m.scale.abs().sqrt() + m.table[m.index], scale=torch.full((4,), 4.0)
    )
    model.register_buffer("table", torch.randn(5, 4))
    model.register_buffer("index", torch.tensor([3, 1, 2]))
    graph = capture(model, copy=False)
    x = torch.randn(3, 4)
    assert_close(run(graph, (x,)), run(model, (x,)))
    model.scale.fill_(9.0)
    model.index.add_(1)
    assert_close(run(graph, (x,)), run(model, (x,)))
    assert set(graph.state_dict()) == set(model.state_dict())


def test_sizes_of_own_tensors_are_numbers() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        for index in range(m.table.shape[0] - m.table.size(0) + len(m.weight)):
            x = x + m.weight[index] * m.table.dim()
        return x if m.weight.ndim == 2 and m.table.numel() == 6 else -x

    model = net(forward, weight=nn.Parameter(torch.randn(3, 4)), table=torch.zeros(2, 3))
    assert_same_eval(model, capture(model, method="trace"), (torch.randn(2, 4),))


@pytest.mark.parametrize(
    "forward",
    [
        lambda m, x: m.relu(input=m.norm(input=m.conv(input=x))),
        lambda m, x: m.drop(input=F.relu(m.norm(input=m.conv(x)))),
        lambda m, x: m.identity(input=m.flatten(input=m.relu(m.norm(m.conv(x))))),
    ],
)
def test_modules_called_by_keyword_are_matched(forward: Callable[..., Any]) -> None:
    parts = {"conv": nn.Conv2d(3, 4, 3), "norm": nn.BatchNorm2d(4), "relu": nn.ReLU(inplace=True)}
    others = {"drop": nn.Dropout(), "identity": nn.Identity(), "flatten": nn.Flatten()}
    model = warm(net(forward, **parts, **others)).eval()
    result = transform(model)
    assert result.fused == {"FusedConvBNReLU": 1}
    assert not any(node.kwargs for node in result.model.graph.nodes)
    assert_same_eval(model, result, (torch.randn(IMAGE),))


# --- hooks ---------------------------------------------------------------------------------------


def pre_hooked(module: nn.Module) -> nn.Module:
    module.register_forward_pre_hook(lambda _module, args: tuple(one * 2 for one in args))
    return module


@pytest.mark.parametrize("hook", [hooked, pre_hooked])
@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Conv2d(3, 3, 3),
        lambda: nn.BatchNorm2d(3),
        nn.ReLU,
        nn.Identity,
        nn.Flatten,
        lambda: nn.AdaptiveAvgPool2d(1),
        lambda: LayerNorm2d(3),
        lambda: nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU()),
    ],
)
def test_what_hooks_do_to_values_is_done(
    hook: Callable[[nn.Module], nn.Module], make: Callable[[], nn.Module]
) -> None:
    model = warm(nn.Sequential(nn.Conv2d(3, 3, 3), hook(make()), nn.Tanh())).eval()
    x = torch.randn(IMAGE)
    assert_same_eval(model, transform(model), (x,))
    assert_same_eval(model, transform(model, (x,)), (x,))


# --- inputs and outputs --------------------------------------------------------------------------


def scaled(_: Any, x: Tensor, mask: Tensor | None = None, factor: float = 2.0) -> Tensor:
    x = x * factor
    return x if mask is None else x * mask


def test_an_input_without_example_takes_its_default() -> None:
    model = net(scaled)
    x, mask = torch.randn(3), torch.rand(3)
    alone = capture(model, (x,))
    assert [node.target for node in alone.graph.nodes if node.op == "placeholder"] == ["x"]
    assert_close(run(alone, (x,)), run(model, (x,)))
    named = capture(model, (x,), {"mask": mask})
    assert_close(run(named, (x, mask)), run(model, (x, mask)))
    whole = capture(model, (), {"factor": 3.0, "x": x, "mask": mask})
    assert_close(run(whole, (x, mask, 0.5)), run(model, (x, mask, 0.5)))


def many(m: Any, x: Tensor, other: Tensor) -> dict[str, Any]:
    y = F.relu(m.conv(x))
    return {"one": y, "rest": [y + other, (y.mean(), None)], "name": "fixed"}


def test_several_inputs_and_nested_outputs() -> None:
    model = warm(net(many, conv=nn.Conv2d(3, 4, 1))).eval()
    args = (torch.randn(IMAGE), torch.randn(2, 4, 8, 8))
    result = transform(model, args)
    assert result.fused == {"FusedConvBNReLU": 1}
    got, want = run(result.model, args), run(model, args)
    assert_close(got, want)
    assert got.keys() == want.keys()
    assert got["name"] == "fixed"
    assert got["rest"][1][1] is None


def test_a_variable_number_of_inputs() -> None:
    model = net(lambda m, *xs: m.conv(xs[0]) + xs[1] * xs[2], conv=nn.Conv2d(3, 3, 1)).eval()
    args = tuple(torch.randn(IMAGE) for _ in range(3))
    assert_same_eval(model, transform(model, args), args)


def test_a_dict_as_an_input() -> None:
    model = net(lambda m, batch: m.conv(batch["image"]) * batch["scale"], conv=nn.Conv2d(3, 3, 1))
    batch = {"image": torch.randn(IMAGE), "scale": torch.rand(1)}
    result = transform(model, (batch,))
    assert result.fused == {"FusedConvBN": 1}
    assert_close(run(result.model, (batch,)), run(model, (batch,)))


def test_a_graph_module_is_a_model_too() -> None:
    model = warm(nn.Sequential(Inner(), nn.Linear(5, 2))).eval()
    traced = fx.symbolic_trace(model)
    before = snapshot(traced)
    result = transform(traced, (torch.randn(IMAGE),))
    assert_untouched(traced, before)
    assert result.fused == transform(model, (torch.randn(IMAGE),)).fused
    assert_same_eval(model, result, (torch.randn(IMAGE),))


@pytest.mark.parametrize(
    ("dtype", "relative"),
    [(torch.float64, 1e-12), (torch.bfloat16, 2e-2), (torch.float16, 2e-3)],
)
def test_other_dtypes_stay(dtype: torch.dtype, relative: float) -> None:
    model = warm(
        nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
            nn.Linear(4, 8), nn.LayerNorm(8), nn.GELU(),
        )
    )  # fmt: skip
    attention = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).self_attn
    whole = net(lambda m, x: m.mha(y := m.stem(x)[:, None], y, y)[0], stem=model, mha=attention)
    whole.to(dtype).eval()
    x = torch.randn(IMAGE, dtype=dtype)
    result = transform(whole, (x,))
    assert result.fused.total() == 7
    assert {one.dtype for one in result.model.parameters()} == {dtype}
    assert_same_eval(whole, result, (x,), relative)


# --- what comes out is an ordinary module --------------------------------------------------------


def test_a_result_can_be_copied_saved_and_loaded() -> None:
    model = warm(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())).eval()
    first = transform(model).model
    twin = copy.deepcopy(first)
    x = torch.randn(IMAGE)
    assert_close(run(twin, (x,)), run(first, (x,)))
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    other = transform(warm(copy.deepcopy(model))).model.eval()
    assert not torch.equal(run(other, (x,)), run(first, (x,)))
    other.load_state_dict(torch.load(file))
    assert torch.equal(run(other, (x,)), run(first, (x,)))


def test_nothing_dead_is_left_and_assertions_stay() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        m.unused(x).relu()
        torch._assert(x.shape[0] > 0, "an empty batch")
        torch._assert(x.dim() == 4, "an image")
        return m.conv(x)

    model = net(forward, conv=nn.Conv2d(3, 4, 1), unused=nn.Conv2d(3, 4, 1))
    graph = capture(model, method="trace")
    assert kinds(graph) == {"Conv2d": 1, "_assert": 1, "gt": 1, "size": 1}
    with pytest.raises(AssertionError, match="an empty batch"):
        graph(torch.randn(0, 3, 4, 4))


# --- weights that something else makes -----------------------------------------------------------

OLD_NORMS = ("ignore:.*weight_norm.*is deprecated:FutureWarning",)


def old_weight_norm(module: nn.Module) -> nn.Module:
    return nn.utils.weight_norm(module)


def pruned(module: nn.Module) -> nn.Module:
    from torch.nn.utils import prune

    return prune.random_unstructured(module, "weight", 0.3)


class Absolute(nn.Module):
    """A weight that is never negative."""

    def forward(self, weight: Tensor) -> Tensor:
        return weight.abs()


def absolute(module: nn.Module) -> nn.Module:
    parametrize.register_parametrization(module, "weight", Absolute())
    return module


MADE: dict[str, tuple[Callable[[nn.Module], nn.Module], str]] = {
    "parametrized weight norm": (parametrizations.weight_norm, "parametrizations.weight.original0"),
    "parametrized spectral norm": (
        parametrizations.spectral_norm,
        "parametrizations.weight.original",
    ),
    "own parametrization": (absolute, "parametrizations.weight.original"),
    "old weight norm": (old_weight_norm, "weight_g"),
    "old spectral norm": (nn.utils.spectral_norm, "weight_orig"),
    "pruned": (pruned, "weight_orig"),
}


@pytest.mark.filterwarnings(*OLD_NORMS)
@pytest.mark.parametrize("name", MADE)
@pytest.mark.parametrize("copied", [True, False])
def test_a_weight_that_is_made_by_something_else_while_it_trains_is_not_taken_for_plain(
    name: str, *, copied: bool
) -> None:
    wrap, parameter = MADE[name]
    layer = wrap(nn.Conv2d(3, 4, 3))
    head = wrap(nn.Linear(4, 2))
    forward = lambda m, x: m.head(F.relu(m.plain(m.layer(x))).mean((2, 3)))  # noqa: E731
    model = net(forward, plain=nn.Conv2d(4, 4, 1), layer=layer, head=head).train()
    x = torch.randn(IMAGE)
    run(model, (x,))
    try:
        result = transform(model, (x,), method="trace", copy=copied)
    except CaptureError as error:
        assert "be copied" in str(error)  # noqa: PT017
        assert not layer.weight.is_leaf
        return
    assert result.fused == {"FusedConvBNReLU": 1, "FusedAdaptiveAvgPool2d": 1}
    assert_same_eval(model, result, (x,))
    if copied:
        return
    with torch.no_grad():
        layer.get_parameter(parameter).mul_(-1.5)
    assert_same_eval(model, result, (x,))


# --- what cannot be captured --------------------------------------------------------------------


def branches(_: Any, x: Tensor) -> Tensor:
    if x.sum() > 0:
        return x
    return -x


def loops(_: Any, x: Tensor) -> Tensor:
    return sum(row for row in x)


@pytest.mark.parametrize(
    ("forward", "line"),
    [(branches, "if x.sum() > 0:"), (loops, "return sum(row for row in x)")],
)
def test_an_untraceable_model_is_named_with_its_line(
    forward: Callable[..., Any], line: str
) -> None:
    with pytest.raises(CaptureError) as caught:
        capture(nn.Sequential(net(forward)), method="trace")
    text = str(caught.value)
    assert text.startswith("Sequential ")
    assert "test_capture.py:" in text
    assert line in text
    assert "What to try" in text


class Holder(nn.Module):
    """Something that cannot be copied."""

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()

    def forward(self, x: Tensor) -> Tensor:
        return x * 2


def test_a_model_that_can_not_be_copied_is_an_error() -> None:
    for copied in (True, False):
        with pytest.raises(CaptureError, match=r"Holder .*lock"):
            capture(Holder(), copy=copied)


def pair() -> nn.Module:
    made: nn.Module = net(lambda m, x, other: m.conv(x) + other, conv=nn.Conv2d(3, 4, 3))
    return made


ONE = torch.randn(IMAGE)


@pytest.mark.parametrize(
    ("args", "kwargs", "text"),
    [
        ((ONE, ONE, ONE), {}, "the model takes 2 inputs; given by position: 3 example inputs"),
        ((ONE,), {}, "no example was given for the model's input 'other'"),
        ((), {}, "no example was given for the model's input 'x'"),
        ((ONE,), {"third": ONE}, r"the model has no input 'third'; it has \['other', 'x'\]"),
        ((ONE,), {"x": ONE}, "the input 'x' is given by position and by name"),
        (
            (ONE[:, :2], 1.0),
            {},
            r"'conv' .*shapes \[\(2, 2, 8, 8\)\]",
        ),
        ((ONE, ONE), {}, r"'add' .*shapes \[\(2, 4, 6, 6\), \(2, 3, 8, 8\)\]"),
        ((ONE.long(), 1.0), {}, "do not fit the model: 'conv'"),
        ((None, 1.0), {}, "do not fit the model: 'conv'"),
        (ONE, {}, r"args is a Tensor; pass the inputs as a tuple: \(example,\)"),
    ],
)
def test_example_inputs_that_do_not_fit_are_named(args: Any, kwargs: Any, text: str) -> None:
    model = pair()
    before = snapshot(model)
    with pytest.raises(CaptureError, match=text):
        capture(model, args, kwargs, method="trace")
    assert_untouched(model, before)


def test_an_unknown_method_is_an_error() -> None:
    with pytest.raises(CaptureError, match="'nonsense'"):
        capture(pair(), method="nonsense")  # type: ignore[arg-type]


# --- shapes --------------------------------------------------------------------------------------


class Shapes(fx.Interpreter):
    """Runs a graph and compares every value with what is known of it."""

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if isinstance(value, Tensor) and n.op != "output":
            assert shape(n) == tuple(value.shape), n
            assert n.meta["val"].dtype == value.dtype, n
        return value


def names_a_device(m: Any, x: Tensor) -> Tensor:
    return m.conv(x) * torch.arange(x.shape[-1], device=torch.device("cpu"))


def mixes_in_a_constant(m: Any, x: Tensor) -> Tensor:
    return m.conv(x).to(torch.float64) + torch.tensor([1.0, 2.0]).sum()


@pytest.mark.parametrize(
    ("forward", "needs_fakes"),
    [(names_a_device, True), (mixes_in_a_constant, False), (lambda m, x: m.conv(x), False)],
)
@pytest.mark.parametrize("train", [True, False])
def test_shapes_and_dtypes_are_those_of_a_run(
    forward: Callable[..., Any], *, needs_fakes: bool, train: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    faked: list[object] = []
    fake = shapes._fake
    monkeypatch.setattr(shapes, "_fake", lambda *args: faked.append(fake(*args)))
    parts = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Dropout())
    model = net(forward, conv=parts).train(train)
    before = snapshot(model)
    x = torch.randn(IMAGE)
    graph = capture(model, (x,), method="trace", copy=False)
    assert_untouched(model, before)
    assert not any(value.is_meta for value in graph.state_dict().values())
    Shapes(graph).run(x)
    assert len(faked) == needs_fakes


@pytest.mark.parametrize(
    ("norm", "size"),
    [(nn.BatchNorm2d(5), IMAGE), (nn.BatchNorm1d(3), IMAGE), (nn.BatchNorm3d(3), IMAGE)],
)
def test_a_batch_norm_that_does_not_fit_is_named(norm: nn.Module, size: tuple[int, ...]) -> None:
    with pytest.raises(CaptureError, match="do not fit the model: '1' cannot take shapes"):
        capture(nn.Sequential(nn.ReLU(), norm).eval(), (torch.randn(size),), method="trace")


@pytest.mark.parametrize(
    ("dtype", "weights"),
    [
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
        (torch.bfloat16, torch.bfloat16),
        (torch.bfloat16, torch.float32),
    ],
)
def test_batch_norms_and_relus_keep_type_and_memory_format(
    dtype: torch.dtype, weights: torch.dtype
) -> None:
    model = nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.BatchNorm2d(3, affine=False))
    x = torch.randn(IMAGE).to(dtype, memory_format=torch.channels_last)
    graph = capture(model.eval().to(weights), (x,), method="trace")
    Shapes(graph).run(x)
    known = [one.meta["val"] for one in graph.graph.nodes if one.op == "call_module"]
    assert all(one.is_contiguous(memory_format=torch.channels_last) for one in known)


def test_shapes_of_a_single_image_in_training() -> None:
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).train()
    result = transform(model, (torch.randn(1, 3, 8, 8),))
    assert result.fused["FusedConvBN"] == 1
    assert result.model.training
    assert all(one.training for one in result.model.modules())


@pytest.mark.slow
@pytest.mark.parametrize("device", [None, "cpu"])
def test_new_nodes_of_a_conversion_have_shapes_too(device: str | None) -> None:
    """A graph that names a device cannot be computed on the meta device."""

    def forward(m: Any, x: Tensor) -> Any:
        y = m.head(m.pool(x).flatten(1))[None] * torch.ones(x.shape[0], 1, device=device)
        return m.mha(y, y, y)[0]

    model = net(
        forward,
        pool=nn.AdaptiveAvgPool2d(1),
        head=nn.Linear(3, 8),
        mha=nn.MultiheadAttention(8, 2),
    ).eval()
    x = torch.randn(IMAGE)
    result = transform(model, (x,))
    assert any(isinstance(one, FusedModule) for one in result.model.modules())
    assert result.coverage is not None
    Shapes(result.model).run(x)


class _Rest(nn.Module):
    """Takes more than it is given: `*rest`, `**options`, or both."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def positional(self, x: Tensor, *rest: Tensor) -> Tensor:
        return self.linear(x) + len(rest)

    def named(self, x: Tensor, **options: Any) -> Tensor:
        return self.linear(x) * (2 if options.get("double") else 1)

    def both(self, x: Tensor, *rest: Tensor, last: bool = False, **options: Any) -> Tensor:
        return self.linear(x) + len(rest) + len(options) + int(last)


@pytest.mark.parametrize("forward", ["positional", "named", "both"])
@pytest.mark.parametrize("method", ["trace", "export"])
def test_inputs_that_take_the_rest_may_take_nothing(forward: str, method: Any) -> None:
    x = torch.randn(2, 3)
    kind = type(forward, (_Rest,), {"forward": getattr(_Rest, forward)})
    model = kind()
    captured = capture(model, (x,), method=method)
    assert [node.target for node in captured.graph.nodes if node.op == "placeholder"] == ["x"]
    assert_close(captured(x), model(x))
