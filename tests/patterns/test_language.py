"""The words of the language: what they bind, how they expand, and what they refuse to say."""

import operator
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from embedl_deploy import Result, transform
from embedl_deploy.errors import PatternError
from embedl_deploy.patterns import (
    ACTIVATION,
    ADD,
    BATCH_NORM2D,
    CONV2D,
    DROPOUT,
    LINEAR,
    Call,
    ConversionPattern,
    FusedModule,
    Pattern,
    QDQPoint,
    Site,
    Tree,
    Value,
    chain,
    fork,
    hole,
    item,
    op,
    optional,
    wildcard,
)
from embedl_deploy.patterns.parts import names
from embedl_deploy.rewrite.variants import Run, Step, variants
from tests.helpers import assert_same_eval, kinds, net, warm

RELU = op("relu", nn.ReLU)


class Line(FusedModule):
    """Operations one after the other; the last takes what else the module is called with."""

    def __init__(self, *line: nn.Module) -> None:
        super().__init__()
        self.line = nn.ModuleList(line)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name for it
        for step in self.line:
            input = step(input)  # noqa: A001
        return input


def line(tree_: Tree, refuse_: Callable[..., str | None] | None = None) -> type[Pattern]:
    """A pattern of a chain that builds a `Line` of what it binds."""

    class LinePattern(Pattern):
        tree = tree_

        def build(self, **bound: Any) -> Line:
            del bound["site"]
            steps: list[nn.Module] = []
            for found in bound.values():
                steps.extend(found if isinstance(found, tuple) else [found] if found else [])
            return Line(*steps)

        def refuse(self, **bound: Any) -> str | None:
            return refuse_(**bound) if refuse_ else None

    return LinePattern


def lines(result: Result) -> list[list[str]]:
    """What each `Line` of the model holds."""
    return [
        [type(step).__name__ for step in module.line]
        for module in result.model.modules()
        if isinstance(module, Line)
    ]


def names_of(step: Step | Run | Any) -> list[str]:
    match step:
        case Step():
            return [*(name for source in step.sources for name in names_of(source)), step.op.name]
        case Run():
            return [*names_of(step.source), f"{step.wildcard.name}*"]
    return [f"<{step.name}>"]


# --- trees ---------------------------------------------------------------------------------------

TREES = [
    (CONV2D, [["conv"]]),
    (chain(CONV2D), [["conv"]]),
    (
        chain(CONV2D, optional(BATCH_NORM2D), ACTIVATION),
        [["conv", "batch_norm", "activation"], ["conv", "activation"]],
    ),
    (
        chain(optional(DROPOUT), LINEAR, optional(RELU)),
        [["dropout", "linear", "relu"], ["dropout", "linear"], ["linear", "relu"], ["linear"]],
    ),
    (chain(CONV2D, wildcard("between", RELU), LINEAR), [["conv", "between*", "linear"]]),
    (fork(ADD, CONV2D, hole("other")), [["conv", "<other>", "add"]]),
    (
        chain(fork(ADD, chain(CONV2D, optional(BATCH_NORM2D)), hole("other")), optional(RELU)),
        [
            ["conv", "batch_norm", "<other>", "add", "relu"],
            ["conv", "batch_norm", "<other>", "add"],
            ["conv", "<other>", "add", "relu"],
            ["conv", "<other>", "add"],
        ],
    ),
    (
        fork(ADD, fork(op("mul", operator.mul), LINEAR, hole("x")), hole("y")),
        [["linear", "<x>", "mul", "<y>", "add"]],
    ),
]


@pytest.mark.parametrize(("tree", "expected"), TREES)
def test_a_tree_is_written_out_longest_first(tree: Tree, expected: list[list[str]]) -> None:
    found = [names_of(variant.root) for variant in variants(tree)]
    assert sorted(found) == sorted(expected)
    lengths = [variant.length for variant in variants(tree)]
    assert lengths == sorted(lengths, reverse=True)
    assert lengths == [sum(name[-1] not in "*>" for name in one) for one in found]


def test_names_come_in_the_order_of_the_data() -> None:
    tree = chain(
        fork(ADD, chain(CONV2D, optional(BATCH_NORM2D)), hole("r")), wildcard("w", RELU), LINEAR
    )
    assert list(names(tree)) == ["conv", "batch_norm", "add", "w", "linear"]


def test_conditions_add_up() -> None:
    narrow = CONV2D.where(lambda conv: conv.groups == 1).where(lambda conv: conv.out_channels > 4)
    assert [narrow.accepts(nn.Conv2d(4, *sizes)) for sizes in ((4, 1), (8, 1))] == [False, True]
    assert not narrow.accepts(nn.Conv2d(4, 8, 1, groups=2))
    assert CONV2D.accepts(nn.Conv2d(4, 4, 1))
    assert narrow.named("first").name == "first"
    assert narrow.escaping("why").escape == "why"


def test_an_item_is_a_number_and_no_tensor_that_equals_it() -> None:
    others = (1, False, slice(0), torch.tensor(0), torch.tensor([0, 0]), Value((2,)))
    calls = [Call(operator.getitem, (Value((2,)), index), {}) for index in (0, *others)]
    assert [item(0).accepts(call) for call in calls] == [True] + [False] * len(others)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (chain, "chain\\(\\) is given nothing"),
        (lambda: chain(optional(RELU)), "at least one operation that is always there"),
        (lambda: chain(wildcard("w", RELU)), "at least one operation"),
        (lambda: chain(RELU, fork(ADD, CONV2D, hole("x"))), "a fork has its inputs within itself"),
        (lambda: chain(wildcard("w", RELU), LINEAR), "a wildcard is between two operations"),
        (lambda: chain(LINEAR, wildcard("w", RELU)), "a wildcard is between two operations"),
        (
            lambda: chain(LINEAR, wildcard("w", RELU), optional(CONV2D)),
            "a wildcard is between two operations",
        ),
        (
            lambda: chain(LINEAR, wildcard("w", RELU), optional(ADD), wildcard("v", RELU), CONV2D),
            "nor beside another wildcard",
        ),
        (
            lambda: chain(optional(LINEAR), wildcard("w", RELU), CONV2D),
            "a wildcard is between two operations",
        ),
        (
            lambda: chain(LINEAR, wildcard("w", RELU), wildcard("v", DROPOUT), CONV2D),
            "a wildcard is between two operations",
        ),
        (lambda: chain(CONV2D, hole("x")), "chain\\(\\) is given Hole"),  # type: ignore[arg-type]
        (lambda: chain(CONV2D, chain(RELU)), "chain\\(\\) is given Chain"),  # type: ignore[arg-type]
        (lambda: chain(nn.Conv2d), "chain\\(\\) is given <class"),  # type: ignore[arg-type]
        (lambda: optional(chain(RELU)), "optional\\(\\) is given Chain"),  # type: ignore[arg-type]
        (lambda: wildcard("w"), "wildcard\\('w'\\) is given nothing"),
        (lambda: wildcard("w", optional(RELU)), "is given Optional"),  # type: ignore[arg-type]
        (lambda: fork(ADD), "fork\\(\\) is given nothing"),
        (lambda: fork(ADD, optional(RELU), hole("x")), "is given Optional"),  # type: ignore[arg-type]
        (lambda: fork(chain(ADD), RELU), "fork\\(\\) is given Chain"),  # type: ignore[arg-type]
        (lambda: op("x"), "names no module class and no function"),
        (lambda: op("x", 3), "takes module classes and functions, not 3"),  # type: ignore[arg-type]
    ],
)
def test_a_tree_that_says_nothing_is_an_error(make: Callable[[], Tree], text: str) -> None:
    with pytest.raises(PatternError, match=text):
        make()


# --- classes -------------------------------------------------------------------------------------


def define(base: type[Pattern] = Pattern, **members: Any) -> type[Pattern]:
    return type("Mine", (base,), {"build": lambda _self, conv: conv, **members})


@pytest.mark.parametrize(
    ("members", "text"),
    [
        ({"tree": "Conv2d"}, "Mine.tree is a str"),
        ({"tree": nn.Conv2d}, "Mine.tree is a type"),
        ({"tree": hole("x")}, "Mine.tree is a Hole"),
        ({"tree": [CONV2D]}, "Mine.tree is a list"),
        ({"tree": chain(CONV2D, CONV2D)}, "binds 'conv' twice"),
        ({"tree": fork(ADD, CONV2D, CONV2D)}, "binds 'conv' twice"),
        (
            {"tree": LINEAR},
            r"Mine.build\(\) takes 'conv', which its tree does not bind; it binds linear",
        ),
        (
            {"tree": CONV2D, "refuse": lambda _self, scale: scale},
            r"Mine.refuse\(\) takes 'scale', which its tree does not bind; it binds conv",
        ),
        (
            {"tree": CONV2D, "qdq_points": ("input",)},
            "holds 'input', which is no Q/DQ point; use QDQPoint.INPUT, ",
        ),
    ],
)
def test_a_wrong_class_is_an_error_where_it_is_defined(members: dict[str, Any], text: str) -> None:
    with pytest.raises(PatternError, match=text):
        define(**members)


def test_a_pattern_without_build_is_an_error() -> None:
    with pytest.raises(PatternError, match=r"no build\(\)"):
        type("Mine", (Pattern,), {"tree": CONV2D})


def test_a_conversion_has_no_points() -> None:
    with pytest.raises(PatternError, match="is a conversion and can have no qdq_points"):
        define(ConversionPattern, tree=CONV2D, qdq_points=(QDQPoint.INPUT,))


def test_build_may_take_less_than_the_tree_binds_and_the_site() -> None:
    seen: list[str] = []

    class Named(Pattern):
        tree = chain(CONV2D, optional(BATCH_NORM2D), RELU)

        def build(self, conv: nn.Conv2d, site: Site, *, extra: int = 3) -> FusedModule:
            seen.append(site.path("conv"))
            return Line(conv, nn.ReLU())

    result = transform(nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU()), patterns=[Named])
    assert [match.path for match in result.matches] == seen == ["0"]
    assert repr(result.matches[0].pattern) == "Named()"


def test_what_optional_leaves_out_is_none() -> None:
    seen: list[Any] = []

    class Seen(Pattern):
        tree = chain(CONV2D, optional(BATCH_NORM2D), wildcard("between", DROPOUT), RELU)

        def build(self, conv: Any, batch_norm: Any, between: Any, relu: Any) -> FusedModule:
            seen.append((type(batch_norm), between))
            return Line(conv, relu)

    transform(nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU()), patterns=[Seen])
    assert seen == [(type(None), ())]


# --- matching ------------------------------------------------------------------------------------


def sequence(*kinds: type[nn.Module]) -> nn.Module:
    made = [nn.Linear(4, 4) if kind is nn.Linear else kind() for kind in kinds]
    return warm(nn.Sequential(*made)).eval()


L, R, D, T = nn.Linear, nn.ReLU, nn.Dropout, nn.Tanh
RUN = chain(LINEAR, wildcard("between", op("r", nn.ReLU), DROPOUT), op("last", nn.Linear))


@pytest.mark.parametrize(
    ("tree", "model", "expected"),
    [
        (RUN, (L, L), [["Linear", "Linear"]]),
        (RUN, (L, R, D, R, L), [["Linear", "ReLU", "Dropout", "ReLU", "Linear"]]),
        (RUN, (L, R, T, L), []),
        (RUN, (R, R, L), []),
        (RUN, (L, R, L, L), [["Linear", "ReLU", "Linear"]]),
        # The run takes what it can and gives back what the operation before it needs.
        (
            chain(RELU, wildcard("between", op("r", nn.ReLU), DROPOUT), LINEAR),
            (R, R, D, R, L),
            [["ReLU", "ReLU", "Dropout", "ReLU", "Linear"]],
        ),
        (
            chain(op("tanh", nn.Tanh), RELU, wildcard("between", op("r", nn.ReLU)), LINEAR),
            (T, R, R, R, L),
            [["Tanh", "ReLU", "ReLU", "ReLU", "Linear"]],
        ),
        (
            chain(op("tanh", nn.Tanh), RELU, wildcard("between", op("r", nn.ReLU)), LINEAR),
            (T, L),
            [],
        ),
        (
            chain(optional(DROPOUT), LINEAR, optional(RELU)),
            (D, L, R, L, L, R, D, L),
            [["Dropout", "Linear", "ReLU"], ["Linear"], ["Linear", "ReLU"], ["Dropout", "Linear"]],
        ),
    ],
)
def test_a_chain_matches(
    tree: Tree, model: tuple[type[nn.Module], ...], expected: list[list[str]]
) -> None:
    source = sequence(*model)
    result = transform(source, patterns=[line(tree)])
    assert lines(result) == expected
    assert_same_eval(source, result, (torch.randn(3, 4),))


class Sum(FusedModule):
    """A linear layer, plus what is passed."""

    def __init__(self, linear: nn.Module) -> None:
        super().__init__()
        self.linear = linear

    def forward(self, input: Tensor, other: Tensor) -> Tensor:  # noqa: A002 - torch's name for it
        return self.linear(input) - other


def subtraction(*, commutative: bool, linear_first: bool) -> type[Pattern]:
    minus = op("minus", operator.sub, commutative=commutative)
    inputs = (LINEAR, hole("other")) if linear_first else (hole("other"), LINEAR)

    class Subtraction(Pattern):
        tree = fork(minus, *inputs)

        def build(self, linear: nn.Linear) -> FusedModule:
            return Sum(linear)

    return Subtraction


@pytest.mark.parametrize("commutative", [True, False])
@pytest.mark.parametrize("linear_first", [True, False])
@pytest.mark.parametrize("model_first", [True, False])
def test_only_a_commutative_fork_fits_both_ways_round(
    *, commutative: bool, linear_first: bool, model_first: bool
) -> None:
    forward = (
        (lambda m, x, y: m.linear(x) - y) if model_first else (lambda m, x, y: y - m.linear(x))
    )
    pattern = subtraction(commutative=commutative, linear_first=linear_first)
    result = transform(net(forward, linear=nn.Linear(4, 4)), patterns=[pattern])
    assert len(result.matches) == (commutative or linear_first == model_first)


def test_a_hole_is_an_input_in_the_order_of_the_tree() -> None:
    model = net(lambda m, x, y: y - m.linear(x), linear=nn.Linear(4, 4)).eval()

    class Turned(FusedModule):
        def __init__(self, linear: nn.Module) -> None:
            super().__init__()
            self.linear = linear

        def forward(self, first: Tensor, input: Tensor) -> Tensor:  # noqa: A002
            return first - self.linear(input)

    class Holes(Pattern):
        tree = fork(op("minus", operator.sub), hole("first"), LINEAR)

        def build(self, linear: nn.Linear) -> FusedModule:
            return Turned(linear)

    result = transform(model, patterns=[Holes])
    assert len(result.matches) == 1
    assert_same_eval(model, result, (torch.randn(3, 4), torch.randn(3, 4)))


def test_a_hole_takes_no_number() -> None:
    pattern = subtraction(commutative=True, linear_first=True)
    result = transform(
        net(lambda m, x: m.linear(x) - 2.0, linear=nn.Linear(4, 4)), patterns=[pattern]
    )
    assert (*result.matches, *result.refusals) == ()


def test_a_function_is_named_by_its_qualified_name_too() -> None:
    class ByName(ConversionPattern):
        tree = op("norm", "torch.functional.norm")

        def build(self, norm: Call) -> nn.Module:
            return net(lambda _, x: (x * x).sum(norm.kwargs["dim"]) ** 0.5)

    model = net(lambda _, x: torch.norm(F.pad(x, (1, 1)), dim=-1))
    result = transform(model, patterns=[ByName])
    assert [match.path for match in result.matches] == ["norm"]
    assert kinds(result.model) == {"pad": 1, "mul": 1, "sum": 1, "pow": 1}
    assert_same_eval(model, result, (torch.randn(1, 2, 3, 3),))


def test_a_call_shows_own_tensors_and_hides_values() -> None:
    seen: list[Call] = []

    class Seen(ConversionPattern):
        tree = op("mul", operator.mul)

        def refuse(self, mul: Call) -> str:
            seen.append(mul)
            return "only looking"

        def build(self) -> nn.Module:
            raise AssertionError

    model = net(lambda m, x: x * m.factor, factor=nn.Parameter(torch.ones(3)))
    result = transform(model, (torch.randn(2, 3),), patterns=[Seen])
    (call,) = seen
    assert call.args[0] == Value((2, 3), torch.float32)
    assert isinstance(call.args[1], nn.Parameter)
    assert [(one.pattern, one.reason) for one in result.refusals] == [("Seen", "only looking")]


def test_a_site_answers() -> None:
    answers: dict[str, Any] = {}

    class Asks(Pattern):
        tree = chain(CONV2D, wildcard("between", DROPOUT), RELU)

        def refuse(self, site: Site) -> str | None:
            answers.update(
                path=site.path("relu"),
                shape=site.input_shape("conv"),
                inner=site.input_shape("relu"),
                shared=site.is_shared("conv"),
            )
            with pytest.raises(PatternError, match="'between' is a run of operations"):
                site.path("between")
            return "asked"

        def build(self, conv: Any) -> FusedModule:
            raise AssertionError

    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    transform(model, (torch.randn(2, 3, 8, 8),), patterns=[Asks])
    known = {"path": "1", "shape": (2, 3, 8, 8), "inner": (2, 4, 6, 6), "shared": False}
    assert answers == known
    transform(model, patterns=[Asks])
    assert answers == {**known, "shape": None, "inner": (None, 4, None, None)}
