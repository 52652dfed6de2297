"""Plans are found, edited, applied once and printed; lists of patterns are checked."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from embedl_deploy import (
    TransformationPlan,
    apply_transformation_plan,
    get_transformation_plan,
    transform,
)
from embedl_deploy.errors import PatternError, PlanError
from embedl_deploy.modules import FusedConvBN, FusedConvBNReLU
from embedl_deploy.patterns import (
    ACTIVATION,
    BATCH_NORM2D,
    CONV2D,
    LINEAR,
    ConversionPattern,
    FusedModule,
    Pattern,
    QDQPoint,
    chain,
    op,
    optional,
)
from embedl_deploy.tensorrt import TENSORRT_FUSION_PATTERNS, TENSORRT_PATTERNS
from embedl_deploy.tensorrt.fusions.conv import ConvBNPattern, ConvBNReLUPattern
from tests.helpers import assert_same_eval, kinds, net, warm

IMAGE = (torch.randn(2, 3, 8, 8),)


def small() -> nn.Module:
    """Three convolutions, one of them depthwise, and a head with two linear layers."""
    return warm(
        nn.Sequential(
            nn.Conv2d(3, 6, 3, bias=False),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.Conv2d(6, 6, 3, groups=6),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.Conv2d(6, 4, 1),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(4, 4),
            nn.ReLU(),
            nn.Linear(4, 3),
        )
    ).eval()


def plan_of(model: nn.Module, patterns: Sequence[Any] = TENSORRT_PATTERNS) -> TransformationPlan:
    return get_transformation_plan(model, IMAGE, patterns=patterns)


def found(matches: Sequence[Any]) -> list[tuple[str, str]]:
    return [(match.pattern.name.removesuffix("Pattern"), match.path) for match in matches]


ALL = [
    ("FlattenLinearToConv1x1", "9"),
    ("FlattenLinearToConv1x1", "10"),
    ("ConvBNReLU", "0"),
    ("ConvBNReLU", "3"),
    ("ConvBN", "6"),
    ("AdaptiveAvgPool", "7"),
    ("ConvBNReLU", "9"),
    ("ConvBN", "11"),
]


# --- editing -------------------------------------------------------------------------------------


def test_a_plan_lists_conversions_then_fusions_in_graph_order() -> None:
    model = small()
    plan = plan_of(model)
    assert found(plan.matches) == ALL
    result = apply_transformation_plan(plan)
    assert found(result.matches) == ALL
    assert_same_eval(model, result, IMAGE)


@pytest.mark.parametrize("index", range(2, len(ALL)))
def test_a_fusion_that_is_switched_off_leaves_its_operations(index: int) -> None:
    model = small()
    plan = plan_of(model)
    plan.matches[index].apply = False
    result = apply_transformation_plan(plan)
    assert found(result.matches) == [*ALL[:index], *ALL[index + 1 :]]
    assert result.fused.total() == len(ALL) - 3
    assert_same_eval(model, result, IMAGE)


@pytest.mark.parametrize(
    ("off", "expected"),
    [
        ([0], [*ALL[2:6], ("LinearReLU", "9"), ("Linear", "11")]),
        ([1], [ALL[0], *ALL[2:6], ("ConvBN", "9"), ("Linear", "11")]),
        ([0, 1], [*ALL[2:6], ("LinearReLU", "9"), ("Linear", "11")]),
        ([1, 2], [ALL[0], *ALL[3:6], ("ConvBN", "9"), ("Linear", "11")]),
    ],
)
def test_a_conversion_that_is_switched_off_lets_the_fusions_be_found_anew(
    off: list[int], expected: list[tuple[str, str]]
) -> None:
    model = small()
    plan = plan_of(model)
    for index in off:
        plan.matches[index].apply = False
    result = apply_transformation_plan(plan)
    assert found(result.matches) == expected
    assert_same_eval(model, result, IMAGE)


def test_each_call_of_a_shared_module_is_switched_off_by_itself() -> None:
    model = warm(net(lambda m, x: m.conv(m.conv(m.conv(x).tanh()).tanh()), conv=nn.Conv2d(3, 3, 1)))
    for index in range(3):
        plan = plan_of(model)
        assert found(plan.matches) == [("ConvBN", "conv")] * 3
        plan.matches[index].apply = False
        result = apply_transformation_plan(plan)
        modules = dict(result.model.named_modules(remove_duplicate=False))
        calls = [node for node in result.model.graph.nodes if node.op == "call_module"]
        kinds_ = [type(modules[str(node.target)]) for node in calls]
        assert [kind for kind in kinds_ if kind is not nn.Tanh] == [
            nn.Conv2d if call == index else FusedConvBN for call in range(3)
        ]
        assert_same_eval(model, result, IMAGE)


def test_everything_switched_off_gives_the_captured_model() -> None:
    model = small()
    plan = plan_of(model, TENSORRT_FUSION_PATTERNS)
    for match in plan.matches:
        match.apply = False
    result = apply_transformation_plan(plan)
    assert result.matches == ()
    assert not result.fused
    assert {one.reason.partition(": ")[2] for one in result.unfused} == {"switched off in the plan"}
    assert kinds(result.model) == kinds(plan._captured)
    assert_same_eval(model, result, IMAGE)


def test_a_plan_is_applied_once() -> None:
    plan = plan_of(small())
    apply_transformation_plan(plan)
    with pytest.raises(PlanError, match="applied before"):
        apply_transformation_plan(plan)


def test_finding_changes_nothing() -> None:
    model = small()
    plan = plan_of(model)
    assert not any(isinstance(module, FusedModule) for module in plan._captured.modules())
    assert plan._captured.get_submodule("9").out_features == 4  # still the linear layer


# --- priority ------------------------------------------------------------------------------------

DEPTHWISE = CONV2D.where(lambda conv: conv.groups == conv.in_channels > 1)


class SkipDepthwisePattern(ConvBNReLUPattern):
    """What the contract has as an example: a depthwise convolution stays in floating point."""

    tree = chain(DEPTHWISE, optional(BATCH_NORM2D), ACTIVATION)
    qdq_points = ()


@pytest.mark.parametrize("mine", [SkipDepthwisePattern, SkipDepthwisePattern()])
@pytest.mark.parametrize("kind", [list, tuple])
def test_a_users_pattern_stands_first_and_wins(mine: Any, kind: type) -> None:
    model = small()
    result = transform(model, IMAGE, patterns=kind([mine, *TENSORRT_FUSION_PATTERNS]))
    by_path = {match.path: match for match in result.matches}
    assert by_path["3"].pattern.name == "SkipDepthwisePattern"
    assert by_path["3"].qdq_points == result.model.get_submodule("3").qdq_points == ()
    assert by_path["0"].qdq_points == (QDQPoint.INPUT,)
    assert_same_eval(model, result, IMAGE)


def test_the_same_pattern_standing_last_loses() -> None:
    result = transform(small(), IMAGE, patterns=[*TENSORRT_FUSION_PATTERNS, SkipDepthwisePattern])
    assert "SkipDepthwisePattern" not in {match.pattern.name for match in result.matches}


def test_earlier_wins_even_where_it_is_shorter() -> None:
    result = transform(small(), patterns=[ConvBNPattern, ConvBNReLUPattern])
    assert found(result.matches) == [("ConvBN", "0"), ("ConvBN", "3"), ("ConvBN", "6")]


def test_no_pattern_is_a_list_too() -> None:
    model = small()
    result = transform(model, patterns=[])
    assert result.matches == ()
    assert_same_eval(model, result, IMAGE)


# --- conversions that do not end -----------------------------------------------------------------


def swap(
    name: str, before: type[nn.Module], after: type[nn.Module], times: int = 1
) -> type[Pattern]:
    members = {
        "tree": op("one", before),
        "build": lambda _self: nn.Sequential(*(after() for _ in range(times))),
    }
    return type(name, (ConversionPattern,), members)


ENDLESS = [
    (
        [("There", nn.ReLU, nn.Tanh, 1), ("Back", nn.Tanh, nn.ReLU, 1)],
        "Back and There undo each other",
    ),
    (
        [("A", nn.ReLU, nn.Tanh, 1), ("B", nn.Tanh, nn.SiLU, 1), ("C", nn.SiLU, nn.ReLU, 1)],
        "A and B and C undo each other",
    ),
    ([("Same", nn.ReLU, nn.ReLU, 1)], "Same matches what it makes"),
    ([("Twice", nn.ReLU, nn.ReLU, 2)], "Twice matches what it makes"),
    ([("Four", nn.ReLU, nn.Tanh, 4), ("More", nn.Tanh, nn.ReLU, 4)], "Four and More undo"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("specs", "text"), ENDLESS)
def test_conversions_that_never_end_are_named(specs: list[Any], text: str) -> None:
    patterns = [swap(*spec) for spec in specs]
    with pytest.raises(PatternError, match=f"conversions at '.*' never end: {text}"):
        transform(nn.Sequential(nn.Linear(3, 3), nn.ReLU()), patterns=patterns)


@pytest.mark.slow
def test_a_long_chain_of_conversions_ends() -> None:
    layers = [layer for _ in range(100) for layer in (nn.Linear(4, 4), nn.ELU())]
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), *layers).eval()
    for layer in layers[::2]:
        nn.init.orthogonal_(layer.weight, 1.2)  # type: ignore[arg-type]
    result = transform(model)
    # The last activation is after the flattening.
    assert result.fused == {"FusedConvBNReLU": 99, "FusedConvBN": 1, "FusedAdaptiveAvgPool2d": 1}
    assert_same_eval(model, result, (torch.randn(2, 4, 3, 3),))


# --- wrong lists and wrong builds ----------------------------------------------------------------


class NoTree(Pattern):
    """A base without a tree, as a family of patterns may have."""


@pytest.mark.parametrize(
    ("patterns", "text"),
    [
        (ConvBNPattern, "patterns is a type; pass a list or a tuple"),
        (ConvBNPattern(), "patterns is a ConvBNPattern; pass a list"),
        ("ConvBNPattern", "patterns is a str; pass a list"),
        ({ConvBNPattern}, "patterns is a set; pass a list"),
        ([TENSORRT_FUSION_PATTERNS], "in the list of patterns is no Pattern with a tree"),
        (["ConvBNPattern"], "'ConvBNPattern' in the list of patterns is no Pattern"),
        ([nn.Conv2d], "nn.modules.conv.Conv2d'> in the list of patterns is no Pattern"),
        ([nn.ReLU()], r"ReLU\(\) in the list of patterns is no Pattern"),
        ([NoTree], "NoTree'> in the list of patterns is no Pattern with a tree"),
        ([NoTree()], r"NoTree\(\) in the list of patterns is no Pattern with a tree"),
    ],
)
def test_a_wrong_list_is_an_error(patterns: Any, text: str) -> None:
    with pytest.raises(PatternError, match=text):
        transform(small(), patterns=patterns)


def building(
    build: Callable[..., Any], base: type[Pattern] = Pattern, **members: Any
) -> type[Pattern]:
    return type("Mine", (base,), {"tree": LINEAR, "build": build, **members})


class NamesItsInput(FusedModule):
    def __init__(self, linear: nn.Module) -> None:
        super().__init__()
        self.linear = linear

    def forward(self, tokens: Tensor) -> Tensor:
        return self.linear(tokens)


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        (
            building(lambda _, linear: linear),
            r"Mine.build\(\) returned a Linear; a fusion builds a",
        ),
        (building(lambda _, linear: None), r"Mine.build\(\) returned a NoneType"),  # noqa: ARG005
        (
            building(
                lambda _, linear: NamesItsInput(linear), qdq_points=(QDQPoint.RESIDUAL_INPUT,)
            ),
            r"RESIDUAL_INPUT, but forward\(\) of NamesItsInput has no argument 'residual'",
        ),
        (
            building(lambda _, linear: 3, ConversionPattern),  # noqa: ARG005
            r"Mine.build\(\) returned 3, which is no module",
        ),
    ],
)
def test_a_build_that_gives_the_wrong_thing_is_an_error(pattern: type[Pattern], text: str) -> None:
    model = small()
    with pytest.raises(PatternError, match=text):
        transform(model, patterns=[pattern])


def test_input_and_output_are_points_of_every_module() -> None:
    points = (QDQPoint.INPUT, QDQPoint.OUTPUT)
    pattern = building(lambda _, linear: NamesItsInput(linear), qdq_points=points)
    result = transform(nn.Sequential(nn.Linear(3, 3)), patterns=[pattern])
    assert result.matches[0].qdq_points == points
    assert NamesItsInput.quantized_arguments(QDQPoint.INPUT) == ("tokens",)


def test_an_error_inside_build_is_not_hidden() -> None:
    def build(_self: Pattern, linear: nn.Linear) -> nn.Module:
        raise ZeroDivisionError(str(linear.in_features))

    with pytest.raises(ZeroDivisionError):
        transform(small(), patterns=[building(build)])


# --- printing ------------------------------------------------------------------------------------


def leaky() -> nn.Module:
    """One convolution fuses, two cannot with their activations, one with groups not at all."""

    def forward(m: Any, x: Tensor) -> Tensor:
        first, second = m.first(x), m.second(x)
        return m.up(first.relu() + second.relu()) + first.mean() + second.mean() + m.third(x).mean()

    parts = {name: nn.Conv2d(3, 4, 1) for name in ("first", "second", "third")}
    return net(forward, up=nn.ConvTranspose2d(4, 4, 1, groups=2), **parts)


def test_a_result_prints_what_fused_what_was_refused_and_what_is_left() -> None:
    text = str(transform(leaky(), IMAGE)).splitlines()
    rows = [row.split() for row in text]
    assert ["Fusion", "First", "at", "Count", "Q/DQ", "points"] in rows
    assert ["ConvBNPattern", "first", "3", "INPUT"] in rows
    refused = [row for row in rows if row[:1] == ["ConvBNReLUPattern"]]
    assert [row[1:3] for row in refused] == [["first", "1"], ["second", "1"]]
    assert all("is also used by 'mean" in " ".join(row) for row in refused)
    (left,) = [row for row in rows if row[:1] == ["ConvTranspose2d"]]
    assert left[1:5] == ["up", "1", "1.02", "k"]
    assert "ConvTransposeBNPattern: a transposed convolution with 2 groups" in " ".join(left)


def test_a_plan_prints_what_is_switched_off() -> None:
    plan = plan_of(small())
    plan.matches[3].apply = False
    rows = [row.split() for row in str(plan).splitlines()]
    assert ["Conversion", "First", "at", "Count", "Q/DQ", "points"] in rows
    assert ["FlattenLinearToConv1x1Pattern", "9", "2"] in rows
    assert ["ConvBNReLUPattern", "0", "2", "INPUT"] in rows
    assert ["ConvBNReLUPattern", "3", "1", "INPUT", "off"] in rows


def test_what_is_left_has_the_reason_of_its_refusal() -> None:
    model = net(lambda m, x: m.mha(x, x, x), mha=nn.MultiheadAttention(8, 2))
    (left,) = transform(model).unfused
    assert (left.path, left.kind) == ("mha", "MultiheadAttention")
    assert "DecomposeMultiheadAttentionPattern: the model uses the attention weights" in left.reason


def test_the_kinds_of_fused_modules_are_counted() -> None:
    result = transform(small(), IMAGE)
    assert result.fused == {"FusedConvBNReLU": 3, "FusedConvBN": 2, "FusedAdaptiveAvgPool2d": 1}
    assert isinstance(result.model.get_submodule("0"), FusedConvBNReLU)
    assert result.unfused == ()
