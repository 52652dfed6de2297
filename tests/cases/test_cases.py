"""What holds for every pattern, at every case of it."""

from collections import Counter

import pytest
import torch
from torch import nn

from embedl_deploy import (
    Result,
    apply_transformation_plan,
    get_transformation_plan,
    tensorrt,
    transform,
)
from embedl_deploy.modules import FusedModule
from embedl_deploy.modules.conv import LayerScale
from embedl_deploy.modules.frozen import FrozenBatchNorm
from embedl_deploy.patterns import Pattern, Stage
from embedl_deploy.patterns.parts import operations
from embedl_deploy.rewrite.variants import variants
from tests.cases import CASES, Case, Near
from tests.helpers import (
    addresses,
    assert_close,
    assert_same_eval,
    assert_same_training,
    assert_untouched,
    kinds,
    run,
    snapshot,
    warm,
)

NUMBERS = Counter[str]()


def name(case: Case) -> str:
    NUMBERS[case.pattern.__name__] += 1
    return f"{case.pattern.__name__}-{NUMBERS[case.pattern.__name__]}"


every_case = pytest.mark.parametrize("case", [pytest.param(one, id=name(one)) for one in CASES])
NEAR = [(case, near) for case in CASES for near in case.near]


def transformed(case: Case, model: nn.Module, *, copy: bool = True) -> Result:
    args = case.inputs() if case.example else None
    return transform(model, args, patterns=case.patterns, copy=copy)


@every_case
def test_it_matches_as_often_as_expected_and_declares_its_points(case: Case) -> None:
    result = transformed(case, warm(case.model()))
    matches = [match for match in result.matches if type(match.pattern) is case.pattern]
    assert len(matches) == case.count
    assert result.fused == (Counter({case.builds: case.count}) if case.builds else Counter())
    found = kinds(result.model)
    assert {kind: found[kind] for kind in case.becomes} == case.becomes
    assert {match.qdq_points for match in matches} == {case.points}
    fused = [module for module in result.model.modules() if isinstance(module, FusedModule)]
    assert {module.qdq_points for module in fused} == ({case.points} if case.builds else set())


@pytest.mark.slow
@every_case
def test_it_computes_the_same_and_a_second_time_finds_nothing_new(case: Case) -> None:
    model = warm(case.model()).eval()
    args = case.inputs()
    first = transformed(case, model)
    assert_same_eval(model, first, args)
    second = transform(first.model, args if case.example else None, patterns=case.patterns)
    assert second.matches == ()
    assert second.fused == first.fused
    assert kinds(second.model) == kinds(first.model)


@pytest.mark.slow
@pytest.mark.parametrize(
    "case",
    [
        pytest.param(one, id=name(one))
        for one in CASES
        if one.pattern.stage is Stage.CONVERSION and not one.traced
    ],
)
def test_either_way_in_gives_the_same(case: Case) -> None:
    model = warm(case.model())
    args = case.inputs()
    result = transform(model, args, patterns=case.patterns, method="export")
    matches = [match for match in result.matches if type(match.pattern) is case.pattern]
    assert len(matches) == case.count
    found = kinds(result.model)
    assert {kind: found[kind] for kind in case.becomes} == case.becomes
    assert_same_eval(model, result, args)


@pytest.mark.slow
@every_case
def test_it_trains_the_same(case: Case) -> None:
    model = warm(case.model()).train()
    result = transformed(case, model, copy=False)
    frozen = [one for one in result.model.modules() if isinstance(one, FrozenBatchNorm)]
    assert [one for one in result.model.modules() if not one.training] == frozen
    if not case.random:
        assert_same_training(model, result, case.inputs())
        return
    args = case.inputs()
    with torch.no_grad():
        one, other = result.model(*args), result.model(*args)
    assert not torch.equal(one, other), "dropout is on in training"
    model.eval()
    assert_close(run(result.model.eval(), args), run(model, args))


@pytest.mark.slow
@every_case
def test_the_model_is_left_as_it_was_and_keeps_its_parameters(case: Case) -> None:
    model = warm(case.model())
    before = snapshot(model)
    own = transformed(case, model).model
    assert_untouched(model, before)
    shared = transformed(case, model, copy=False).model
    assert_untouched(model, before)
    assert addresses(shared) == addresses(model)
    assert addresses(own).isdisjoint(addresses(model))
    sizes = sorted(parameter.numel() for parameter in model.parameters())
    assert sorted(one.numel() for one in own.parameters() if one.requires_grad) == sizes


@pytest.mark.slow
@pytest.mark.parametrize("case", [one for one in CASES if one.builds], ids=lambda one: one.builds)
def test_the_operations_are_the_children_of_the_fused_module(case: Case) -> None:
    plan = get_transformation_plan(case.model(), case.inputs(), patterns=case.patterns)
    modules = dict(plan._captured.named_modules())
    operations = {
        match.path: [type(modules[path]) for path in match.operations if path in modules]
        for match in plan.matches
        if type(match.pattern) is case.pattern
    }
    model = apply_transformation_plan(plan).model
    for path, expected in operations.items():
        fused = model.get_submodule(path)
        assert isinstance(fused, FusedModule)
        found = [type(one) for one in fused.operations() if not isinstance(one, LayerScale)]
        assert found
        assert not expected or found == expected


@pytest.mark.parametrize(
    ("case", "near"),
    [pytest.param(case, near, id=name(case)) for case, near in NEAR],
)
def test_a_near_miss_is_declined(case: Case, near: Near) -> None:
    model = warm(near.model())
    inputs = (near.inputs or case.inputs)()
    result = transform(model, inputs if near.example else None, patterns=case.patterns)
    assert not [match for match in result.matches if type(match.pattern) is case.pattern]
    reasons = [refusal.reason for refusal in result.refusals]
    assert bool(reasons) == (near.reason is not None)
    assert all(near.reason in reason for reason in reasons if near.reason)
    assert_same_eval(model, result, inputs)


# --- the tuples ----------------------------------------------------------------------------------

TUPLES = (
    tensorrt.TENSORRT_PATTERNS,
    tensorrt.TENSORRT_SMART_PATTERNS,
    tensorrt.TENSORRT_MIXED_PRECISION_PATTERNS,
)


def test_every_pattern_has_a_case_and_a_near_miss() -> None:
    wanted = {pattern for patterns in TUPLES for pattern in patterns}
    assert {case.pattern for case in CASES} == wanted
    builtin = set(tensorrt.TENSORRT_PATTERNS)
    assert {case.pattern for case, _ in NEAR} >= builtin


def test_the_default_is_conversions_then_fusions() -> None:
    conversions, fusions = tensorrt.TENSORRT_CONVERSION_PATTERNS, tensorrt.TENSORRT_FUSION_PATTERNS
    assert conversions + fusions == tensorrt.TENSORRT_PATTERNS
    assert {pattern.stage for pattern in conversions} == {Stage.CONVERSION}
    assert {pattern.stage for pattern in fusions} == {Stage.FUSION}


@pytest.mark.parametrize("patterns", TUPLES)
def test_a_longer_tree_stands_before_a_shorter_one_that_begins_alike(
    patterns: tuple[type[Pattern], ...],
) -> None:
    longest: dict[object, int] = {}
    for pattern in patterns:
        if pattern.stage is Stage.CONVERSION or pattern.__name__.startswith("Float"):
            continue
        length = variants(pattern.tree)[0].length
        head = next(operations(pattern.tree)).kinds
        assert length <= longest.get(head, length)
        longest[head] = length
    assert longest[nn.Conv2d,] == 2
    assert longest[nn.Linear,] == 1
