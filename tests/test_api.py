"""The public names, and what they take."""

import inspect
from typing import Any

import pytest
import torch
from torch import nn

import embedl_deploy
import embedl_deploy.patterns
import embedl_deploy.tensorrt
from embedl_deploy import get_transformation_plan, transform
from embedl_deploy.errors import CaptureError, DeployError, PatternError, PlanError
from tests.helpers import assert_same_eval, warm

OPTIONS = "model, args, kwargs, *, patterns, target, method, dynamic_shapes, copy"
SIGNATURES = {
    "transform": OPTIONS,
    "get_transformation_plan": OPTIONS,
    "apply_transformation_plan": "plan",
    "capture": "model, args, kwargs, *, method, dynamic_shapes, copy",
}


def parameters(function: Any) -> str:
    """Names of the parameters, with a star before those that are named."""
    found: list[str] = []
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is parameter.KEYWORD_ONLY and "*" not in found:
            found.append("*")
        found.append(name)
    return ", ".join(found)


@pytest.mark.parametrize("name", SIGNATURES)
def test_a_function_takes_what_it_is_known_to_take(name: str) -> None:
    assert name in embedl_deploy.__all__
    assert parameters(getattr(embedl_deploy, name)) == SIGNATURES[name]


@pytest.mark.parametrize("module", [embedl_deploy, embedl_deploy.patterns])
def test_every_public_name_is_there_once(module: Any) -> None:
    assert len(module.__all__) == len(set(module.__all__))
    assert all(getattr(module, name, None) is not None for name in module.__all__)


def test_results_have_what_the_contract_names() -> None:
    result = transform(nn.Sequential(nn.Conv2d(3, 4, 1)))
    assert isinstance(result.model, torch.fx.GraphModule)
    assert [match.qdq_points for match in result.matches]
    match = get_transformation_plan(nn.Sequential(nn.Conv2d(3, 4, 1))).matches[0]
    assert match.apply


def test_the_default_target_is_tensorrt() -> None:
    for function in (transform, get_transformation_plan):
        default = inspect.signature(function).parameters["target"].default
        assert default is embedl_deploy.tensorrt.TENSORRT


@pytest.mark.parametrize("error", [CaptureError, PatternError, PlanError])
def test_one_family_of_errors(error: type[Exception]) -> None:
    assert issubclass(error, DeployError)


def test_inputs_may_come_by_name() -> None:
    model = warm(nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(6))).eval()
    x = torch.randn(2, 3, 8, 8)
    result = transform(model, kwargs={"input": x})
    assert [match.pattern.name for match in result.matches] == [
        "RemoveIdentityAdaptiveAvgPoolPattern",
        "ConvBNPattern",
    ]
    assert_same_eval(model, result, (x,))


def test_sharing_memory_leaves_the_model_as_useful_as_it_was() -> None:
    model = warm(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())).eval()
    x = torch.randn(2, 3, 8, 8)
    before = model(x)
    result = transform(model, (x,), copy=False)
    assert torch.equal(model(x), before)
    with torch.no_grad():
        model.get_parameter("0.weight").mul_(2)
    assert not torch.equal(model(x), before)
    assert_same_eval(model, result, (x,))
