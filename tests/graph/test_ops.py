"""Every spelling of every row of the operations table gives the one canonical form."""

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from embedl_deploy import capture
from embedl_deploy.graph.ops import TABLE
from embedl_deploy.graph.rows import FunctionRow, Row, Spelling
from embedl_deploy.graph.sizes import check_input
from tests.helpers import assert_close, assert_same_eval, kinds, net, run, tensors

IMAGE = (2, 4, 6, 6)


@dataclass(frozen=True)
class Sample:
    """How to call an operation, with options that are not the default ones.

    Attributes:
        kind: Name of what is in the graph.
        args: The arguments after the first, from the module and the inputs.
        inputs: Shapes of the inputs; the first is what the operation works on.
        parts: Parameters of the module.
        whole: Whether the inputs are whole numbers.
        positive: Whether the inputs are positive.
    """

    kind: str
    args: Callable[..., tuple[Any, ...]] = lambda *_: ()
    inputs: tuple[tuple[int, ...], ...] = (IMAGE,)
    parts: dict[str, nn.Parameter] = field(default_factory=dict)
    whole: bool = False
    positive: bool = False

    def draw(self, shapes: Sequence[tuple[int, ...]]) -> list[Tensor]:
        """Inputs of these shapes."""
        if self.whole:
            return [torch.randint(0, 3, shape) for shape in shapes]
        found = [torch.randn(shape) for shape in shapes]
        return [one.abs() + 0.1 for one in found] if self.positive else found


def options(*args: Any) -> Callable[..., tuple[Any, ...]]:
    return lambda *_: args


def other(_: Any, *inputs: Tensor) -> tuple[Tensor]:
    return (inputs[1],)


def weights(*shapes: tuple[int, ...]) -> dict[str, nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    names = ("weight", "bias")
    made = [nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]
    return dict(zip(names, made, strict=False))


def convolution(kind: str, rank: int) -> "Sample":
    """A convolution with options that are not the default ones."""
    return Sample(
        kind,
        lambda m, *_: (m.weight, m.bias, 2, 1, 1, 2),
        ((2, 4, *[6] * rank),),
        weights((6, 2, *[3] * rank), (6,)),
    )


def transposed(kind: str, rank: int) -> "Sample":
    """A transposed convolution with options that are not the default ones."""
    return Sample(
        kind,
        lambda m, *_: (m.weight, m.bias, 2, 1, 1, 2, 2),
        ((2, 4, *[4] * rank),),
        weights((4, 3, *[3] * rank), (6,)),
    )


TWO = (IMAGE, IMAGE)
SERIES = (2, 4, 12)
VOLUME = (2, 4, 4, 6, 6)
SAMPLES = {
    "relu": Sample("ReLU"),
    "relu6": Sample("ReLU6"),
    "leaky_relu": Sample("LeakyReLU", options(0.3)),
    "elu": Sample("ELU", options(1.7)),
    "gelu": Sample("GELU"),
    "silu": Sample("SiLU"),
    "hardswish": Sample("Hardswish"),
    "hardsigmoid": Sample("Hardsigmoid"),
    "hardtanh": Sample("Hardtanh", options(-0.5, 0.7)),
    "prelu": Sample("PReLU", lambda m, *_: (m.weight,), parts=weights((4,))),
    "rrelu": Sample("RReLU", lambda m, *_: (0.2, 0.4, m.training)),
    "selu": Sample("SELU"),
    "celu": Sample("CELU", options(1.3)),
    "mish": Sample("Mish"),
    "logsigmoid": Sample("LogSigmoid"),
    "tanhshrink": Sample("Tanhshrink"),
    "hardshrink": Sample("Hardshrink", options(0.7)),
    "softshrink": Sample("Softshrink", options(0.7)),
    "softplus": Sample("Softplus", options(1.5, 10.0)),
    "softsign": Sample("Softsign"),
    "threshold": Sample("Threshold", options(0.1, 0.3)),
    "glu": Sample("GLU", options(1)),
    "log_softmax": Sample("LogSoftmax", options(1)),
    "softmin": Sample("Softmin", options(1)),
    "sigmoid": Sample("Sigmoid"),
    "tanh": Sample("Tanh"),
    "softmax": Sample("Softmax", options(1)),
    "dropout": Sample("Dropout", lambda m, *_: (0.5, m.training), inputs=((2, 4, 6),)),
    "conv2d": Sample(
        "Conv2d",
        lambda m, *_: (m.weight, m.bias, 2, (1, 0), 1, 2),
        parts=weights((6, 2, 3, 3), (6,)),
    ),
    "conv1d": convolution("Conv1d", 1),
    "conv3d": convolution("Conv3d", 3),
    "conv_transpose1d": transposed("ConvTranspose1d", 1),
    "conv_transpose2d": transposed("ConvTranspose2d", 2),
    "conv_transpose3d": transposed("ConvTranspose3d", 3),
    "batch_norm": Sample("BatchNorm2d"),
    "instance_norm": Sample("InstanceNorm2d"),
    "rms_norm": Sample("RMSNorm", lambda m, *_: ((6,), m.weight, 0.1), parts=weights((6,))),
    "group_norm": Sample(
        "GroupNorm", lambda m, *_: (2, m.weight, m.bias, 0.1), parts=weights((4,), (4,))
    ),
    "bilinear": Sample(
        "Bilinear",
        lambda m, *inputs: (inputs[1], m.weight, m.bias),
        ((2, 3), (2, 4)),
        weights((5, 3, 4), (5,)),
    ),
    "embedding": Sample(
        "Embedding", lambda m, *_: (m.weight, 1), ((2, 3),), weights((4, 5)), whole=True
    ),
    "linear": Sample("Linear", lambda m, *_: (m.weight, m.bias), parts=weights((3, 6), (3,))),
    "layer_norm": Sample(
        "LayerNorm",
        lambda m, *_: ((6,), m.weight, m.bias, 0.1),
        parts=weights((6,), (6,)),
    ),
    "attention": Sample(
        "ScaledDotProductAttention",
        lambda _, *inputs: inputs[1:],
        ((2, 2, 5, 4), (2, 2, 7, 4), (2, 2, 7, 3), (5, 7)),
    ),
    "adaptive_avg_pool2d": Sample("AdaptiveAvgPool2d", options((2, 3))),
    "max_pool2d": Sample("MaxPool2d", options(3, 2, 1, 1, True)),
    "avg_pool2d": Sample("AvgPool2d", options(3, 2, 1, True, False, 2)),
    "adaptive_avg_pool1d": Sample("AdaptiveAvgPool1d", options(3), (SERIES,)),
    "adaptive_avg_pool3d": Sample("AdaptiveAvgPool3d", options((1, 3, 2)), (VOLUME,)),
    "max_pool1d": Sample("MaxPool1d", options(3, 2, 1, 1, True), (SERIES,)),
    "max_pool3d": Sample("MaxPool3d", options(3, 2, 1, 1, True), (VOLUME,)),
    "max_pool1d_with_indices": Sample("MaxPool1d", options(3, 2, 1), (SERIES,)),
    "max_pool2d_with_indices": Sample("MaxPool2d", options(3, 2, 1)),
    "max_pool3d_with_indices": Sample("MaxPool3d", options(3, 2, 1), (VOLUME,)),
    "avg_pool1d": Sample("AvgPool1d", options(3, 2, 1, True, False), (SERIES,)),
    "avg_pool3d": Sample("AvgPool3d", options(3, 2, 1, True, False, 2), (VOLUME,)),
    "adaptive_max_pool1d": Sample("AdaptiveMaxPool1d", options(3), (SERIES,)),
    "adaptive_max_pool2d": Sample("AdaptiveMaxPool2d", options((3, 2))),
    "adaptive_max_pool3d": Sample("AdaptiveMaxPool3d", options(2), (VOLUME,)),
    "adaptive_max_pool1d_with_indices": Sample("AdaptiveMaxPool1d", options(3), (SERIES,)),
    "adaptive_max_pool2d_with_indices": Sample("AdaptiveMaxPool2d", options((3, 2))),
    "adaptive_max_pool3d_with_indices": Sample("AdaptiveMaxPool3d", options(2), (VOLUME,)),
    "lp_pool1d": Sample("LPPool1d", options(2.0, 3, 2, True), (SERIES,)),
    "lp_pool2d": Sample("LPPool2d", options(2.0, 3, 2, True)),
    "lp_pool3d": Sample("LPPool3d", options(2.0, 2, 1, True), (VOLUME,)),
    "pixel_shuffle": Sample("PixelShuffle", options(2)),
    "pixel_unshuffle": Sample("PixelUnshuffle", options(2)),
    "channel_shuffle": Sample("ChannelShuffle", options(2)),
    "upsample": Sample("Upsample", options((7, 8), None, "bilinear", True)),
    "rsub": Sample("sub", other, TWO),
    "pow": Sample("pow", options(3)),
    "square": Sample("pow"),
    "maximum": Sample("maximum", other, TWO),
    "minimum": Sample("minimum", other, TWO),
    **{name: Sample(name, options(0.1)) for name in ("eq", "ne", "lt", "le", "gt", "ge")},
    **{
        name: Sample(name)
        for name in ("abs", "ceil", "cos", "erf", "exp", "floor", "neg", "reciprocal", "sin")
    },
    **{name: Sample(name, positive=True) for name in ("log", "rsqrt", "sqrt")},
    "clamp": Sample("clamp", options(-0.5, 0.4)),
    "clamp_min": Sample("clamp", options(-0.5)),
    "clamp_max": Sample("clamp", options(0.4)),
    **{name: Sample(name, options((2, -1), True)) for name in ("mean", "sum", "amax", "amin")},
    **{name: Sample(name, options(-1, False, True)) for name in ("var", "std")},
    "einsum": Sample("einsum"),
    "where": Sample("where"),
    "masked_fill": Sample("masked_fill"),
    "multi_head_attention": Sample("MultiheadAttention"),
    "unflatten": Sample("unflatten", options(1, (2, -1))),
    "clone": Sample("clone"),
    "detach": Sample("detach"),
    "stack": Sample("stack", options(1), TWO),
    "expand": Sample("broadcast_to", options((3, -1, -1)), ((4, 6),)),
    "squeeze": Sample("squeeze", options(1), ((2, 1, 3),)),
    "unsqueeze": Sample("unsqueeze", options(-1)),
    "chunk": Sample("chunk", options(2, 1)),
    "split": Sample("split", options([1, 3], 1)),
    "unbind": Sample("unbind", options(1)),
    "roll": Sample("roll", options(1, -1)),
    "pad": Sample("pad", options((1, 2), "constant", 0.5)),
    "mT": Sample("transpose"),
    "t": Sample("transpose"),
    "to": Sample("to", options(torch.float64)),
    **{name: Sample("to") for name in ("float", "double", "half", "bfloat16", "int", "long")},
    "bool": Sample("to"),
    "type_as": Sample("type_as", other, TWO),
    "reshape_as": Sample("reshape_as", other, ((4, 6), (3, 8))),
    "size": Sample("size", options(1)),
    "select": Sample("getitem", options(1, 2)),
    "narrow": Sample("getitem", options(2, 1, 3)),
    "add": Sample("add", other, TWO),
    "sub": Sample("sub", other, TWO),
    "mul": Sample("mul", other, TWO),
    "truediv": Sample("truediv", other, TWO),
    "matmul": Sample("matmul", other, ((2, 3, 4), (2, 4, 5))),
    "flatten": Sample("flatten", options(1, 2)),
    "cat": Sample("cat", options(1), TWO),
    "reshape": Sample("reshape", options((2, -1, 12))),
    "permute": Sample("permute", options((0, 2, 3, 1))),
    "transpose": Sample("transpose", options(1, -1)),
}
KINDS: dict[Spelling, str] = {
    F.dropout1d: "Dropout1d",
    F.dropout2d: "Dropout2d",
    F.dropout3d: "Dropout3d",
    F.alpha_dropout: "AlphaDropout",
    F.feature_alpha_dropout: "FeatureAlphaDropout",
}
INPUTS: dict[Spelling, tuple[tuple[int, ...], ...]] = {
    F.dropout2d: (IMAGE,),
    F.dropout3d: ((2, 3, 2, 4, 4),),
    **dict.fromkeys((torch.bmm, "bmm"), ((2, 3, 4), (2, 4, 5))),
    **dict.fromkeys((torch.mm, "mm", operator.imatmul), ((4, 4), (4, 4))),
}
APART = {
    *("batch_norm", "instance_norm", "einsum", "where", "masked_fill", "t", "size"),
    "multi_head_attention",
}
"""Rows that are called in another way, or have a form in some places only; tested below."""

CALLS = [
    pytest.param(row, spelling, inplace, id=f"{row.name}-{getattr(spelling, '__name__', spelling)}")
    for row in TABLE.rows
    if row.name not in APART
    for inplace, spellings in ((False, row.spellings), (True, row.inplace))
    for spelling in spellings
]


def called(spelling: Spelling, value: Any, args: tuple[Any, ...]) -> Any:
    if not isinstance(spelling, str):
        return spelling(value, *args)
    if spelling.startswith("."):
        return getattr(value, spelling[1:])
    return getattr(value, spelling)(*args)


def assert_same(model: nn.Module, graph: nn.Module, inputs: Sequence[Tensor]) -> None:
    """Both give the same values and types; those that are no floating-point numbers exactly."""
    got, want = (tensors(run(one, [x.clone() for x in inputs])) for one in (graph, model))
    assert len(got) == len(want) > 0
    for one, other in zip(got, want, strict=True):
        assert (one.shape, one.dtype) == (other.shape, other.dtype)
        torch.testing.assert_close(one, other, equal_nan=True)


def test_every_row_has_a_sample() -> None:
    assert {row.name for row in TABLE.rows} == set(SAMPLES)


def test_no_spelling_belongs_to_two_rows() -> None:
    rows = [{*row.spellings, *row.inplace} for row in TABLE.rows]
    assert len(set().union(*rows)) == sum(map(len, rows))
    assert not any(TABLE.writes(one) for row in TABLE.rows for one in row.spellings)


def sampled(row: Row, spelling: Spelling, *, inplace: bool) -> Any:
    """A network that makes the call of a row's sample."""
    sample = SAMPLES[row.name]

    def forward(m: Any, first: Tensor, *rest: Tensor) -> Any:
        value = first.clone() if inplace else first
        if row.name in {"cat", "stack"}:
            return called(spelling, [value, rest[0]], sample.args())
        result = called(spelling, value, sample.args(m, first, *rest))
        return (result, value) if inplace else result

    names = ["first", "second", "third", "fourth"][: len(sample.inputs)]
    space: dict[str, Any] = {"inner": forward}
    exec(f"def forward(m, {', '.join(names)}): return inner(m, {', '.join(names)})", space)  # noqa: S102 - torch.fx reads the signature
    return net(space["forward"], **sample.parts).eval()


@pytest.mark.parametrize(("row", "spelling", "inplace"), CALLS)
def test_a_spelling_gives_the_canonical_form(
    row: Row, spelling: Spelling, *, inplace: bool
) -> None:
    sample = SAMPLES[row.name]
    model = sampled(row, spelling, inplace=inplace)
    graph = capture(model, method="trace")
    kind = KINDS.get(spelling, sample.kind)
    assert kinds(graph) == {kind: 1, **({"clone": 1} if inplace else {})}
    if isinstance(row, FunctionRow):
        assert row.target in [node.target for node in graph.graph.nodes]
    inputs = sample.draw(INPUTS.get(spelling, sample.inputs))
    assert_same(model, graph, inputs)


DECOMPOSED = {"lp_pool1d", "lp_pool2d", "lp_pool3d", "softmin", "softsign", "tanhshrink"}
"""Functions that torch.export gives as several operations; their modules stay whole."""


@pytest.mark.parametrize(
    ("row", "spelling"),
    [
        pytest.param(row, spelling, id=f"{row.name}-{getattr(spelling, '__name__', spelling)}")
        for row in TABLE.rows
        if row.name not in APART | DECOMPOSED
        for spelling in (row.spellings if row.name == "dropout" else row.spellings[:1])
    ],
)
def test_export_gives_the_same_form(row: Row, spelling: Spelling) -> None:
    inputs = SAMPLES[row.name].draw(INPUTS.get(spelling, SAMPLES[row.name].inputs))
    for inplace in (False, True)[: 1 + bool(row.inplace)]:
        model = sampled(row, row.inplace[0] if inplace else spelling, inplace=inplace)
        exported = capture(model, inputs, method="export")
        traced = capture(model, inputs, method="trace")
        assert_same(model, exported, inputs)
        assert calls(exported) == calls(traced)


def calls(graph: fx.GraphModule) -> list[Any]:
    """What a graph calls, in order, with all that is no node; items and checks of inputs apart."""
    modules = dict(graph.named_modules())
    return [
        (
            str(modules[str(node.target)] if node.op == "call_module" else node.target),
            fx.map_arg((node.args, node.kwargs), lambda _: None),
        )
        for node in graph.graph.nodes
        if node.op.startswith("call") and node.target not in {operator.getitem, check_input}
    ]


@pytest.mark.parametrize(
    ("forward", "kind"),
    [
        (lambda _, x: F.relu(input=x), "ReLU"),
        (lambda _, x: F.relu(x, inplace=True), "ReLU"),
        (lambda _, x: F.gelu(x, approximate="tanh"), "GELU"),
        (lambda _, x: F.hardtanh(x, 0.0, 6.0), "ReLU6"),
        (lambda _, x: F.leaky_relu(x, negative_slope=0.2, inplace=True), "LeakyReLU"),
        (lambda _, x: F.softmax(x, dim=-1), "Softmax"),
        (lambda _, x: x.softmax(dim=2), "Softmax"),
        (lambda _, x: F.adaptive_avg_pool2d(x, output_size=(None, 1)), "AdaptiveAvgPool2d"),
        (lambda _, x: F.max_pool2d(x, kernel_size=2), "MaxPool2d"),
        (lambda _, x: F.max_pool2d(x, 2, stride=[1, 1]), "MaxPool2d"),
        (lambda _, x: F.layer_norm(x, [6, 6]), "LayerNorm"),
        (lambda _, x: x.flatten(start_dim=2), "flatten"),
        (lambda _, x: x.reshape(2, 4, -1), "reshape"),
        (lambda _, x: x.view(2, -1), "reshape"),
        (lambda _, x: x.permute([0, 3, 1, 2]), "permute"),
        (
            lambda _, x: F.scaled_dot_product_attention(x, x, value=x, scale=0.3, is_causal=True),
            "ScaledDotProductAttention",
        ),
        (lambda _, x: 1.5 * x, "mul"),
        (lambda _, x: 2 - x, "sub"),
        (lambda _, x: torch.add(x, 3), "add"),
    ],
)
def test_keywords_and_options_are_read(forward: Callable[..., Any], kind: str) -> None:
    model = net(forward).eval()
    graph = capture(model, method="trace")
    assert kinds(graph) == {kind: 1}
    x = torch.randn(IMAGE)
    assert_close(run(graph, (x,)), run(model, (x.clone(),)))


FACTOR = {"weight": nn.Parameter(torch.randn(4, 4, 1, 1))}


@pytest.mark.parametrize(
    ("forward", "kind"),
    [
        (lambda _, x: F.softmax(x, dim=-1, dtype=torch.float64), "softmax"),
        (lambda _, x: x.softmax(-1, torch.float64), "softmax"),
        (lambda m, x: F.conv2d(x, m.weight * x.mean()), "conv2d"),
        (lambda m, x: F.linear(x.mean((2, 3)), m.weight[:, :, 0, 0] * x.mean()), "linear"),
        (lambda m, x: F.layer_norm(x, (6,), None, m.weight.flatten()[:6]), "layer_norm"),
        (lambda _, x: F.layer_norm(x, x.shape[-1:]), "layer_norm"),
        (lambda _, x: F.adaptive_avg_pool2d(x, x.shape[-1] // 2), "adaptive_avg_pool2d"),
        (lambda _, x: torch.add(x, x, alpha=2), "add"),
        (lambda _, x: x.sub(x * x, alpha=3), "sub"),
        (lambda _, x: torch.div(x, 0.1, rounding_mode="floor"), "div"),
        (lambda _, x: x.view(torch.int32).double(), "view"),
        (lambda _, x: (x * 2).reshape(x.shape), "reshape"),
        (lambda _, x: x.reshape(x.shape[0] * 2, -1), "reshape"),
        (lambda _, x: F.elu(x, alpha=float(2)), "ELU"),
        (lambda _, x: F.hardtanh(x, x.dim() - 5.0, 1.0), "hardtanh"),
    ],
)
def test_a_use_without_a_module_form_stays_what_it_is(
    forward: Callable[..., Any], kind: str
) -> None:
    model = net(forward, **FACTOR).eval()
    graph = capture(model, method="trace")
    assert kinds(graph)[kind] == 1
    assert_same_eval(model, graph, (torch.randn(IMAGE),))


def test_functions_are_canonical_targets() -> None:
    targets = {row.target for row in TABLE.rows if isinstance(row, FunctionRow)}
    assert operator.add in targets
    assert all(TABLE.find(target) is not None for target in targets - {operator.getitem})


class Norms(nn.Module):
    """Parameters and statistics that a module keeps for functions it calls itself."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.weight = nn.Parameter(torch.rand(4) + 0.5)
        self.bias = nn.Parameter(torch.randn(4))
        self.register_buffer("mean", torch.randn(4))
        self.register_buffer("var", torch.rand(4) + 0.5)
        self.matrix = nn.Parameter(torch.randn(6, 6))
        self.index = nn.Buffer(torch.tensor([2, 0]))


def first_sum(items: Any) -> Any:
    q, k, _, v = items
    return q + k * v


def batch_normed(m: Any, x: Tensor) -> Tensor:
    return F.batch_norm(m.conv(x), m.mean, m.var, m.weight, m.bias, False, 0.2, 1e-3)


BOTH: dict[str, Callable[[Any, Tensor], Any]] = {
    "slice": lambda _, x: x[:, :3],
    "slices": lambda _, x: x[0:1, ::2, 1:5:2, -3:],
    "whole slices": lambda _, x: x[:, :, :, 1],
    "none": lambda _, x: x[:, None] * 2,
    "none after an ellipsis": lambda m, x: m.conv(x)[..., None] * 2,
    "ellipsis": lambda m, x: m.conv(x)[..., 1, :2],
    "item and slice": lambda _, x: x[:, 1:3, 0],
    "item": lambda _, x: x[-1],
    "select": lambda m, x: m.conv(x).select(-1, 2) + x.narrow(1, 0, 4)[:, :, :, 1],
    "index": lambda m, x: x[:, m.index] + x[m.index][:1, 2:],
    "iterated": lambda _, x: first_sum(x.permute(1, 0, 2, 3)),
    "unbound": lambda _, x: first_sum(x.permute(1, 0, 2, 3).unbind(0)),
    "mT": lambda _, x: x @ x.mT,
    "T of a parameter": lambda m, x: x @ m.matrix.T,
    "t of a parameter": lambda m, x: x @ m.matrix.t(),
    "number first": lambda _, x: (2 - x) * (3 * x) + (1 + x),
    "powers": lambda _, x: 2**x + x**2 + x.square(),
    "number below": lambda _, x: x / 8 + torch.div(x, 3.0),
    "mean of all": lambda _, x: x.mean() + x.sum() + x.mean(-1, keepdim=True),
    "variance": lambda _, x: torch.var(x, -1, correction=0) + x.var(3, unbiased=False),
    "einsum": lambda _, x: torch.einsum("bchw,bcvw->bhv", x, x),
    "where": lambda _, x: torch.where(x > 0, x, 0.5),
    "masked": lambda _, x: x.masked_fill(x == 0, -1e9).softmax(-1),
    "layer norm": lambda m, x: F.layer_norm(x.transpose(1, 3), (4,), m.weight, m.bias),
    "batch norm": batch_normed,
    "instance norm": lambda m, x: F.instance_norm(m.conv(x), None, None, m.weight, m.bias),
    "upsample": lambda _, x: F.interpolate(x, scale_factor=2, mode="bilinear"),
    "upsample nearest": lambda _, x: F.interpolate(x, scale_factor=(2, 3)),
    "upsample to a size": lambda _, x: F.interpolate(x, (7, 7), mode="bicubic"),
    "antialiased": lambda _, x: F.interpolate(x, (4, 4), mode="bicubic", antialias=True),
    "upsample exactly": lambda _, x: F.interpolate(x, size=9, mode="nearest-exact"),
    "pooled with indices": lambda _, x: F.adaptive_max_pool2d(x, 2, return_indices=True),
    "padding by name": lambda m, x: F.conv2d(x, m.conv.weight, padding="same"),
    "attention": lambda _, x: F.scaled_dot_product_attention(x, x, x, is_causal=True, scale=0.3),
    "attention with a mask": lambda m, x: F.scaled_dot_product_attention(
        x, x, x, attn_mask=m.matrix, enable_gqa=True
    ),
    "expand": lambda _, x: x[:, :1].expand(-1, 4, 6, 6),
    "split": lambda _, x: first_sum(x.split([1, 1, 1, 1], 1)) + first_sum(x.split(1, 1)),
    "chunk": lambda _, x: first_sum(x.chunk(4, dim=-3)),
    "casts": lambda _, x: x.double().to(torch.float32) * 2,
    "sizes": lambda _, x: x.reshape(x.shape[0], x.size(1), -1),
}


DIFFERENT = {"antialiased", "sizes"}
"""Sizes that are fixed are numbers after torch.export; antialiasing leaves a default out."""


@pytest.mark.parametrize("name", BOTH)
def test_both_ways_give_the_same_calls(name: str) -> None:
    model = type("Net", (Norms,), {"forward": BOTH[name]})().eval()
    x = torch.randn(3, 4, 6, 6)
    traced, exported = (capture(model, (x,), method=way) for way in ("trace", "export"))
    assert_same(model, traced, [x])
    assert_same(model, exported, [x])
    assert name in DIFFERENT or calls(exported) == calls(traced)


@pytest.mark.parametrize("name", ["batch norm", "instance norm"])
def test_a_norm_that_is_called_as_a_function_is_a_module(name: str) -> None:
    model = type("Net", (Norms,), {"forward": BOTH[name]})().eval()
    graph = capture(model, method="trace")
    kind = {"batch norm": "BatchNorm2d", "instance norm": "InstanceNorm2d"}[name]
    assert kinds(graph) == {"Conv2d": 1, kind: 1}


def test_a_norm_on_its_own_statistics_learns_them_in_training() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        return F.batch_norm(m.conv(x), m.mean, m.var, m.weight, m.bias, m.training, 0.2, 1e-3)

    model = type("Net", (Norms,), {"forward": forward})().train()
    graph = capture(model)
    x = torch.randn(3, 4, 6, 6)
    assert kinds(graph) == {"Conv2d": 1, "BatchNorm2d": 1}
    torch.testing.assert_close(graph(x), model(x))
    norm = next(one for one in graph.modules() if isinstance(one, nn.BatchNorm2d))
    torch.testing.assert_close(norm.running_mean, model.get_buffer("mean"))
    assert_same_eval(model, graph, (x,))


def test_a_frozen_norm_in_a_model_in_training_stays_frozen() -> None:
    model = type("Net", (Norms,), {"forward": batch_normed})().train()
    graph = capture(model)
    x = torch.randn(3, 4, 6, 6)
    assert kinds(graph) == {"Conv2d": 1, "batch_norm": 1}
    torch.testing.assert_close(graph(x), model(x))
