"""Each rule of fusion takes what it says and not what is close to it; no operator is lost."""

from pathlib import Path

import pytest
from onnx import ModelProto

from embedl_deploy.onnx_model.opening import graph_of
from embedl_deploy.onnx_model.view import View
from embedl_deploy.tensorrt.prediction.catalog import FUSIONS
from embedl_deploy.tensorrt.prediction.explain import predict
from embedl_deploy.tensorrt.prediction.plan import Plan
from embedl_deploy.tensorrt.prediction.rule import Group
from tests.tensorrt.prediction.cases import CASES
from tests.tensorrt.rules.format_cases import FORMAT, TYPES
from tests.tensorrt.rules.models import Text
from tests.tensorrt.rules.placement_cases import PLACEMENT

MODELS = {f"{name} {place}": model
          for name, pair in (FORMAT | TYPES | PLACEMENT).items()
          for place, model in zip(("broken", "kept"), pair, strict=True)}  # fmt: skip
MODELS |= {f"{name} holds": case.holds for name, case in CASES.items()}
MODELS |= {f"{name} not": case.not_ for name, case in CASES.items()}


def planned(proto: ModelProto) -> Plan:
    return predict(View(graph_of(proto, Path())))


def groups(model: Text) -> list[Group]:
    return list(planned(model.proto()).groups)


def of(model: Text, label: str) -> Group:
    (group,) = [one for one in groups(model) if label in {node.label for node in one.nodes}]
    return group


def test_every_rule_has_a_case() -> None:
    ids = [rule.id for rule in FUSIONS]
    assert len(set(ids)) == len(ids)
    assert set(CASES) == set(ids)
    for letter in "KNQ":
        own = [one for one in ids if one[0] == letter]
        assert own == sorted(own)


@pytest.mark.parametrize("rule", CASES)
def test_a_rule_takes_what_it_says(rule: str) -> None:
    case = CASES[rule]
    group = of(case.holds, case.nodes[-1])
    assert rule in {one.id for one in group.rules}
    assert group.dtype == case.dtype
    folded = {node.label for node in group.folded}
    if rule.startswith("Q"):
        assert folded >= set(case.nodes)
    else:
        assert {node.label for node in group.nodes} - folded == set(case.nodes)


@pytest.mark.parametrize("rule", CASES)
def test_a_rule_leaves_what_is_close_to_it(rule: str) -> None:
    case = CASES[rule]
    found = groups(case.not_)
    took = [one for one in found if rule in {item.id for item in one.rules}]
    assert not any(node.label == case.nodes[-1] for one in took for node in one.nodes)
    if case.instead:
        assert case.instead in {one.rule.id for one in found}


@pytest.mark.parametrize("name", MODELS)
def test_every_operator_is_in_exactly_one_group(name: str) -> None:
    plan = planned(MODELS[name].proto())
    taken = [id(node) for group in plan.groups for node in group.nodes]
    assert len(taken) == len(set(taken))
    assert set(taken) == {id(node) for node in plan.view.graph}
    assert all(group.nodes for group in plan.groups)
