"""A target is a value that a model remembers."""

import copy
import io
from collections.abc import Callable

import pytest
import torch
from torch import fx, nn

from embedl_deploy import Target, apply_transformation_plan, capture, transform
from embedl_deploy import get_transformation_plan as plan_of
from embedl_deploy.errors import DeployError, ExportError, PatternError
from embedl_deploy.quantize import QuantConfig, TensorQuantConfig, WeightFakeQuantize, insert_qdq
from embedl_deploy.target import target_of
from embedl_deploy.tensorrt import TENSORRT, TENSORRT_SMART_PATTERNS, LinearPattern

TOY = Target(
    name="Toy",
    patterns=(LinearPattern,),
    config=QuantConfig(weights=TensorQuantConfig(bits=5)),
    lists={"none": ()},
)


def linear() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 4), nn.ReLU())


def pickled(model: fx.GraphModule) -> fx.GraphModule:
    stream = io.BytesIO()
    torch.save(model, stream)
    stream.seek(0)
    loaded: fx.GraphModule = torch.load(stream, weights_only=False)
    return loaded


AGAIN: dict[str, Callable[[fx.GraphModule], fx.GraphModule]] = {
    "as it is": lambda model: model,
    "deepcopy": copy.deepcopy,
    "pickle": pickled,
    "copy of a pickle": lambda model: copy.deepcopy(pickled(model)),
    "another graph": lambda model: fx.GraphModule(model, model.graph),
    "quantized": lambda model: pickled(insert_qdq(model)),
}


@pytest.mark.parametrize("again", AGAIN.values(), ids=AGAIN)
@pytest.mark.parametrize("target", [TENSORRT, TOY], ids=["tensorrt", "toy"])
def test_a_model_remembers_its_target(
    target: Target, again: Callable[[fx.GraphModule], fx.GraphModule]
) -> None:
    result = transform(linear(), target=target)
    assert result.target is target
    assert target_of(again(result.model)) == target


def test_a_plan_takes_its_target_along() -> None:
    plan = plan_of(linear(), target=TOY)
    assert [match.pattern.name for match in plan.matches] == ["LinearPattern"]
    assert target_of(apply_transformation_plan(plan).model) is TOY


def test_patterns_of_ones_own_stand_in_for_the_targets() -> None:
    result = transform(linear(), target=TOY, patterns=TENSORRT.named("full"))
    assert result.fused == {"FusedLinearReLU": 1}
    assert result.target is TOY


@pytest.mark.parametrize(
    ("config", "bits"), [(None, 5), (QuantConfig(), 8)], ids=["the target's", "explicit"]
)
def test_an_explicit_config_wins(config: QuantConfig | None, bits: int) -> None:
    model = insert_qdq(transform(linear(), target=TOY), config)
    (weight,) = (one for one in model.modules() if isinstance(one, WeightFakeQuantize))
    assert weight.config.bits == bits


def test_a_graph_that_was_only_captured_has_no_target() -> None:
    assert target_of(capture(linear())) is None


def test_lists_have_names() -> None:
    assert TENSORRT.named("full") is TENSORRT.patterns
    assert TENSORRT.named("smart") is TENSORRT_SMART_PATTERNS
    with pytest.raises(PatternError, match="no list 'smart'; choose full, none"):
        TOY.named("smart")


def test_what_contradicts_itself_is_refused() -> None:
    with pytest.raises(ExportError, match="opset 17"):
        Target(name="Toy", patterns=(), config=QuantConfig(), opset=17)


def test_what_a_target_lacks_is_said() -> None:
    with pytest.raises(DeployError, match="no function"):
        TOY.check("model.onnx")
