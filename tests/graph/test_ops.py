"""Every spelling of every row of the operations table gives the one canonical form."""

import operator
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from embedl_deploy import capture
from embedl_deploy.graph.ops import TABLE
from embedl_deploy.graph.rows import FunctionRow, Row, Spelling
from tests.helpers import assert_close, assert_same_eval, kinds, net, run

IMAGE = (2, 4, 6, 6)


@dataclass(frozen=True)
class Sample:
    """How to call an operation, with options that are not the default ones.

    Attributes:
        kind: Name of what stands in the graph.
        args: The arguments behind the first, from the module and the inputs.
        inputs: Shapes of the inputs; the first is what the operation works on.
        parts: Parameters of the module.
        plain: Arguments for spellings that take none.
    """

    kind: str
    args: Callable[..., tuple[Any, ...]] = lambda *_: ()
    inputs: tuple[tuple[int, ...], ...] = (IMAGE,)
    parts: dict[str, nn.Parameter] = field(default_factory=dict)


def options(*args: Any) -> Callable[..., tuple[Any, ...]]:
    return lambda *_: args


def other(_: Any, *inputs: Tensor) -> tuple[Tensor]:
    return (inputs[1],)


def weights(*shapes: tuple[int, ...]) -> dict[str, nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    names = ("weight", "bias")
    made = [nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]
    return dict(zip(names, made, strict=False))


TWO = (IMAGE, IMAGE)
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
    "sigmoid": Sample("Sigmoid"),
    "tanh": Sample("Tanh"),
    "softmax": Sample("Softmax", options(1)),
    "dropout": Sample("Dropout", lambda m, *_: (0.5, m.training), inputs=((2, 4, 6),)),
    "conv2d": Sample(
        "Conv2d",
        lambda m, *_: (m.weight, m.bias, 2, (1, 0), 1, 2),
        parts=weights((6, 2, 3, 3), (6,)),
    ),
    "batch_norm": Sample("BatchNorm2d"),
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
}
INPUTS: dict[Spelling, tuple[tuple[int, ...], ...]] = {
    F.dropout2d: (IMAGE,),
    F.dropout3d: ((2, 3, 2, 4, 4),),
}
NEEDS_OWNER = {"batch_norm"}
"""Rows whose module form depends on the module that makes the call; tested by themselves."""

CALLS = [
    pytest.param(row, spelling, inplace, id=f"{row.name}-{getattr(spelling, '__name__', spelling)}")
    for row in TABLE.rows
    if row.name not in NEEDS_OWNER
    for inplace, spellings in ((False, row.spellings), (True, row.inplace))
    for spelling in spellings
]


def called(spelling: Spelling, value: Any, args: tuple[Any, ...]) -> Any:
    return getattr(value, spelling)(*args) if isinstance(spelling, str) else spelling(value, *args)


def test_every_row_has_a_sample() -> None:
    assert {row.name for row in TABLE.rows} == set(SAMPLES)


def test_no_spelling_belongs_to_two_rows() -> None:
    rows = [{*row.spellings, *row.inplace} for row in TABLE.rows]
    assert len(set().union(*rows)) == sum(map(len, rows))
    assert not any(TABLE.writes(one) for row in TABLE.rows for one in row.spellings)


@pytest.mark.parametrize(("row", "spelling", "inplace"), CALLS)
def test_a_spelling_gives_the_canonical_form(
    row: Row, spelling: Spelling, *, inplace: bool
) -> None:
    sample = SAMPLES[row.name]

    def forward(m: Any, first: Tensor, *rest: Tensor) -> Any:
        value = first.clone() if inplace else first
        if row.name == "cat":
            return called(spelling, [value, rest[0]], sample.args())
        result = called(spelling, value, sample.args(m, first, *rest))
        return (result, value) if inplace else result

    names = ["first", "second", "third", "fourth"][: len(sample.inputs)]
    space: dict[str, Any] = {"inner": forward}
    exec(f"def forward(m, {', '.join(names)}): return inner(m, {', '.join(names)})", space)  # noqa: S102 - torch.fx reads the signature
    model = net(space["forward"], **sample.parts).eval()
    graph = capture(model, method="trace")
    kind = KINDS.get(spelling, sample.kind)
    assert kinds(graph) == {kind: 1, **({"clone": 1} if inplace else {})}
    if isinstance(row, FunctionRow):
        assert row.target in [node.target for node in graph.graph.nodes]
    shapes = INPUTS.get(spelling, sample.inputs)
    assert_same_eval(model, graph, [torch.randn(shape) for shape in shapes])


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
    assert all(TABLE.find(target) is not None for target in targets)
