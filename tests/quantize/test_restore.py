"""A quantized model comes back from plain data and a state dict, in another process as well."""

import copy
import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, fx, nn

from embedl_deploy import transform
from embedl_deploy.errors import QuantizationError
from embedl_deploy.modules import FusedLinear
from embedl_deploy.quantize import (
    EntropyObserver,
    FixedObserver,
    MinMaxObserver,
    MovingAverageObserver,
    MSEObserver,
    PercentileObserver,
    QuantConfig,
    Skip,
    TensorQuantConfig,
    insert_qdq,
    quantize,
    restore,
    scale_parameters,
)
from embedl_deploy.quantize.stubs import quantizers_of
from tests.quantize.nets import batches, ready
from tests.quantize.test_learned import LEARNED, SHAPE, Joined, train

ROOT = Path(__file__).parents[2]
CONFIGS = {
    "default": QuantConfig(),
    "learned": LEARNED,
    "all": QuantConfig(
        TensorQuantConfig(7, partial(PercentileObserver, 99.9, bins=512), signed=False),
        TensorQuantConfig(4, MSEObserver, scale="fixed"),
        skip=("head", Skip("layer1.*", weights=False), nn.LayerNorm, Skip(FusedLinear)),
        attention="full",
    ),
    "fp8": QuantConfig(
        TensorQuantConfig(format="float8_e4m3", observer=partial(FixedObserver, bound=3.0)),
        TensorQuantConfig(observer=partial(MovingAverageObserver, momentum=0.5)),
        probabilities=TensorQuantConfig(observer=partial(FixedObserver, bound=1.0)),
    ),
    "weights alone": QuantConfig(None, TensorQuantConfig(4, block_size=64)),
    "entropy": QuantConfig(TensorQuantConfig(observer=EntropyObserver)),
}


def observed(make: Callable[[], Any]) -> tuple[Any, ...]:
    observer = make()
    return type(observer), *sorted(
        (name, value) for name, value in vars(observer).items() if isinstance(value, int | float)
    )


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_comes_back_from_json(name: str) -> None:
    config = CONFIGS[name]
    again = QuantConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert again.to_dict() == config.to_dict()
    assert again.skips == config.skips
    assert again.attention == config.attention
    for part in ("activations", "weights", "probabilities"):
        one, other = getattr(again, part), getattr(config, part)
        if one is None or other is None:
            assert one is other
            continue
        assert observed(one.observer) == observed(other.observer)
        names = ("bits", "signed", "format", "scale", "block_size")
        assert all(getattr(one, field) == getattr(other, field) for field in names)


def test_what_is_left_out_has_its_default() -> None:
    assert QuantConfig.from_dict({}) == QuantConfig()
    config = QuantConfig.from_dict({"weights": {"bits": 4}, "skip": [{"which": "head"}]})
    assert config == QuantConfig(weights=TensorQuantConfig(4), skip=(Skip("head"),))


class Own(MinMaxObserver):
    pass


class OwnLayer(nn.Linear):
    pass


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (QuantConfig(TensorQuantConfig(observer=Own)), "the observer Own is not stored"),
        (
            QuantConfig(weights=TensorQuantConfig(observer=lambda: MSEObserver())),  # noqa: PLW0108
            "the observer <lambda> is not stored",
        ),
        (QuantConfig(skip=[lambda *_: False]), "skip by <lambda> is not stored"),
        (QuantConfig(skip=[nn.Linear(2, 2)]), "skip by this Linear is not stored"),
        (QuantConfig(skip=[OwnLayer]), "skip by the class OwnLayer is not stored"),
    ],
)
def test_what_has_no_name_is_refused(config: QuantConfig, words: str) -> None:
    with pytest.raises(QuantizationError, match=words):
        config.to_dict()


@pytest.mark.parametrize(
    ("stored", "words"),
    [
        ({"weight": {}}, "a config has no 'weight'; it has activations, weights"),
        ({"weights": {"width": 4}}, "the config of a tensor has no 'width'"),
        ({"weights": 4}, "the config of a tensor is stored as a dict, not as a int"),
        ({"weights": {"bits": 40}}, "bits must be between 2 and 8"),
        ({"weights": {"bits": "8"}}, "bits must be between 2 and 8, '8' is not"),
        ({"weights": {"observer": {"name": "os.system"}}}, "there is no observer 'os.system'"),
        ({"weights": {"observer": "MSEObserver"}}, "an observer is stored as .*, not as 'MSE"),
        ({"weights": {"observer": None}}, "an observer is stored as .*, not as None"),
        (
            {"weights": {"observer": {"name": "MSEObserver", "momentum": 1}}},
            "MSEObserver does not take",
        ),
        ({"skip": [{"which": {"class": "os.system"}}]}, "a skip selects by"),
        ({"skip": [{"which": {"class": "torch.nn.functional"}}]}, "a skip selects by"),
        ({"skip": [{"which": 3}]}, "a skip selects by 3"),
    ],
)
def test_what_no_config_has_is_named(stored: dict[str, Any], words: str) -> None:
    with pytest.raises(QuantizationError, match=words):
        QuantConfig.from_dict(stored)


def joined(config: QuantConfig) -> fx.GraphModule:
    return quantize(transform(ready(Joined, SHAPE)), batches(2, 8, SHAPE), config)


def outputs(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model(batches(1, 8, SHAPE, seed=9)[0])


LOADER = """
import json, sys
import torch
from safetensors.torch import load_file
from embedl_deploy import transform
from embedl_deploy.cli.torchvision_ops import import_torchvision
from embedl_deploy.quantize import QuantConfig, restore

import_torchvision()
from tests.quantize.test_restore import Joined, outputs

torch.set_num_threads(1)
config = QuantConfig.from_dict(json.load(open(sys.argv[1])))
model = restore(transform(Joined().eval()), config, load_file(sys.argv[2]))
torch.save(outputs(model), sys.argv[3])
"""


def test_a_trained_model_with_learned_scales_comes_back_in_a_new_process(tmp_path: Path) -> None:
    model = joined(LEARNED)
    train(model, 3)
    config, weights, output = (tmp_path / one for one in ("c.json", "w.safetensors", "o.pt"))
    config.write_text(json.dumps(LEARNED.to_dict()))
    save_file(model.state_dict(), weights)
    command = [sys.executable, "-W", "ignore", "-c", LOADER, str(config), str(weights), str(output)]
    subprocess.run(command, check=True, cwd=ROOT, timeout=120)
    assert torch.equal(torch.load(output, weights_only=True), outputs(model.eval()))


@pytest.mark.parametrize("name", ["default", "learned", "entropy"])
def test_training_saved_in_its_middle_comes_back_as_eval_would_show_it(name: str) -> None:
    model = joined(CONFIGS[name])
    train(model, 3)
    restored = restore(transform(ready(Joined, SHAPE)), CONFIGS[name], model.state_dict())
    assert not restored.training
    assert torch.equal(outputs(restored), outputs(model.eval()))
    losses = train(restored, 3), train(model, 3)
    assert losses[0] == losses[1]
    assert torch.equal(outputs(restored.eval()), outputs(model.eval()))


def test_scales_that_were_set_by_hand_come_back_also_into_a_model_in_training() -> None:
    model = joined(QuantConfig())
    for quantizer in quantizers_of(model):
        quantizer.scale *= 0.8
    restored = restore(transform(ready(Joined, SHAPE).train()), None, model.state_dict())
    assert torch.equal(outputs(restored), outputs(model))


def test_a_calibrated_model_takes_another_state() -> None:
    model, other = joined(LEARNED), joined(LEARNED)
    train(other, 3)
    model.load_state_dict(other.state_dict())
    assert torch.equal(outputs(model), outputs(other.eval()))


def test_stubs_of_one_learned_scale_still_have_one_after_a_state_was_assigned() -> None:
    model, other = joined(LEARNED), joined(LEARNED)
    train(other, 3)
    model.load_state_dict(copy.deepcopy(other.state_dict()), assign=True)
    assert torch.equal(outputs(model), outputs(other.eval()))
    assert len(scale_parameters(model)) == len(scale_parameters(other))
    assert train(model, 3) == train(other, 3)
    assert torch.equal(outputs(model.eval()), outputs(other.eval()))


def test_a_state_of_another_config_is_refused() -> None:
    state = joined(QuantConfig(skip=("last",))).state_dict()
    result = transform(ready(Joined, SHAPE))
    want = "missing: 2 tensors, such as 'last.weight_quantizers.conv_weight.scale'"
    with pytest.raises(QuantizationError, match=want):
        restore(result, QuantConfig(), state)
    wrapped = {f"module.{name}": one for name, one in joined(QuantConfig()).state_dict().items()}
    with pytest.raises(QuantizationError, match=r"unknown: \d+ tensors, such as 'module\."):
        restore(result, QuantConfig(), wrapped)
    whole = joined(QuantConfig()).state_dict()
    whole["last.conv.weight"] = torch.zeros(4, 9, 1, 1)
    with pytest.raises(QuantizationError, match="another shape"):
        restore(result, QuantConfig(), whole)


FP8 = TensorQuantConfig(format="float8_e4m3")


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (QuantConfig(weights=TensorQuantConfig(4)), "conv_weight' is for bits=8, not for bits=4"),
        (QuantConfig(TensorQuantConfig(6)), "x_stub' is for bits=8, not for bits=6"),
        (QuantConfig(FP8, FP8), "is for bits=8, not for float8_e4m3"),
    ],
)
def test_scales_for_other_numbers_are_refused(
    config: QuantConfig, words: str, tmp_path: Path
) -> None:
    torch.save(joined(QuantConfig()).state_dict(), tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    with pytest.raises(QuantizationError, match=words):
        restore(transform(ready(Joined, SHAPE)), config, state)
    own: dict[str, Any] = {}
    plain = joined(QuantConfig()).state_dict(destination=own)
    assert plain.keys() == state.keys()


def test_an_uncalibrated_state_gives_an_uncalibrated_model() -> None:
    state = insert_qdq(transform(ready(Joined, SHAPE))).state_dict()
    restored = restore(transform(ready(Joined, SHAPE)), None, state)
    with pytest.raises(QuantizationError, match="has no scale yet"):
        outputs(restored)
