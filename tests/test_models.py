"""Whole models: the contract's counts, no layer lost, the same outputs and gradients."""

from collections import Counter, defaultdict
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.convnext import CNBlockConfig, ConvNeXt
from torchvision.models.resnet import BasicBlock, ResNet
from torchvision.models.vision_transformer import VisionTransformer

from embedl_deploy import Result, transform
from embedl_deploy.modules import FusedModule
from embedl_deploy.tensorrt import TENSORRT_PATTERNS
from tests.helpers import addresses, assert_same_eval, assert_same_training, warm

SIZE = (1, 3, 224, 224)
SMALL = (1, 3, 96, 96)
"""For models that take any size; the channels are the same."""
COUNTED: dict[str, dict[str, int]] = {
    "resnet50": {
        "FusedConvBNReLUMaxPool": 1,
        "FusedConvBNAddReLU": 16,
        "FusedConvBNReLU": 32,
        "FusedConvBN": 5,
        "FusedAdaptiveAvgPool2d": 1,
    },
    "convnext_tiny": {
        "FusedConvBN": 23,
        "FusedLinearReLU": 18,
        "FusedLinear": 18,
        "FusedLayerNorm": 23,
        "FusedAdaptiveAvgPool2d": 1,
    },
    "convnext_base": {
        "FusedConvBN": 41,
        "FusedLinearReLU": 36,
        "FusedLinear": 36,
        "FusedLayerNorm": 41,
        "FusedAdaptiveAvgPool2d": 1,
    },
    "vit_b_16": {
        "FusedConvBN": 1,
        "FusedLinearReLU": 12,
        "FusedLinear": 25,
        "FusedLayerNorm": 25,
        "FusedMHAInProjection": 12,
        "FusedScaledDotProductAttention": 12,
    },
}
OTHERS = (
    "resnet18",
    "mobilenet_v2",
    "mobilenet_v3_large",
    "efficientnet_b0",
    "regnet_y_400mf",
    "densenet121",
    "swin_t",
)
LAYERS = (nn.Conv2d, nn.Linear, nn.LayerNorm, nn.MultiheadAttention)


@cache
def warmed(name: str) -> nn.Module:
    """A torchvision model with random weights, none of them silent."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model: nn.Module = torchvision.models.get_model(name)
        return warm(model).eval()


def fused_counts(result: Result) -> Counter[str]:
    """As the contract counts them."""
    names = (type(module).__name__ for module in result.model.modules())
    return Counter(name for name in names if name.startswith("Fused"))


# --- the contract's words ------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["resnet50", "convnext_tiny", "vit_b_16"])
def test_the_counts_of_the_contract_come_out(name: str) -> None:
    model = warmed(name)
    example = torch.randn(SIZE)
    result = transform(model, (example,))
    assert fused_counts(result) == COUNTED[name] == result.fused
    assert_every_layer_once(model, result, example)
    assert_same_eval(model, result, (example,))


FUSIONS_ONLY: dict[str, dict[str, int]] = {
    "resnet50": {**COUNTED["resnet50"], "FusedConvBN": 4, "FusedLinear": 1},
    "convnext_tiny": {**COUNTED["convnext_tiny"], "FusedConvBN": 22, "FusedLinear": 19},
    "vit_b_16": {"FusedConvBN": 1, "FusedLinearReLU": 12, "FusedLinear": 13, "FusedLayerNorm": 25},
}


SNIPPETS = """
from embedl_deploy import transform
from embedl_deploy.tensorrt import (
    TENSORRT_CONVERSION_PATTERNS, TENSORRT_FUSION_PATTERNS, TENSORRT_PATTERNS,
)

result = transform(model, patterns=TENSORRT_FUSION_PATTERNS)
fusions_only = result
result = transform(model, (example,))
"""


@pytest.mark.parametrize("name", FUSIONS_ONLY)
def test_the_snippets_of_the_contract_run_word_for_word(name: str) -> None:
    space: dict[str, Any] = {"model": warmed(name), "example": torch.randn(SIZE)}
    exec(SNIPPETS, space)  # noqa: S102 - the contract's own words
    assert fused_counts(space["result"]) == COUNTED[name]
    alone = space["fusions_only"]
    assert fused_counts(alone) == FUSIONS_ONLY[name]
    assert isinstance(alone.model, torch.fx.GraphModule)
    assert {one.kind for one in alone.unfused} <= {"MultiheadAttention"}
    tuples = ("TENSORRT_CONVERSION_PATTERNS", "TENSORRT_FUSION_PATTERNS", "TENSORRT_PATTERNS")
    conversions, fusions, both = (space[one] for one in tuples)
    assert conversions + fusions == both


@pytest.mark.parametrize("name", ["convnext_base", "convnext_large"])
def test_a_large_model_is_counted_without_its_memory(name: str) -> None:
    with torch.device("meta"):
        model, example = torchvision.models.get_model(name), torch.randn(SIZE)
    result = transform(model, (example,))
    assert fused_counts(result) == COUNTED["convnext_base"]


# --- nothing lost, nothing twice -----------------------------------------------------------------


def homes(model: nn.Module) -> dict[int, list[str]]:
    """Paths of the fused modules that hold each parameter, by its address."""
    found: dict[int, list[str]] = defaultdict(list)
    for path, module in model.named_modules():
        if isinstance(module, FusedModule):
            for address in addresses(module):
                found[address].append(path)
    return found


def weight_names(layer: nn.Module) -> list[str]:
    """What tells where a layer went; the out-projection of attention is a layer of its own."""
    return ["in_proj_weight"] if isinstance(layer, nn.MultiheadAttention) else ["weight"]


def assert_every_layer_once(model: nn.Module, result: Result, example: Tensor) -> None:
    """Each layer of the source is in exactly one fused module, under its own path."""
    assert {one.kind for one in result.unfused} <= {"BatchNorm2d"}
    shared = transform(model, (example,), copy=False)
    assert shared.fused == result.fused
    found = homes(shared.model)
    layers = {path: one for path, one in model.named_modules() if isinstance(one, LAYERS)}
    assert layers
    for path, layer in layers.items():
        (name,) = weight_names(layer)
        (home,) = found[layer.get_parameter(name).data_ptr()]
        assert home in {path, f"{path}.in_projection"}
    without = ("FusedScaledDotProductAttention", "FusedAdaptiveAvgPool2d")
    assert shared.fused.total() - sum(shared.fused[kind] for kind in without) == len(layers)
    attentions = shared.fused["FusedScaledDotProductAttention"]
    assert shared.fused["FusedMHAInProjection"] == attentions


@pytest.mark.parametrize("name", OTHERS)
def test_no_layer_is_lost_and_none_counted_twice(name: str) -> None:
    model = warmed(name)
    example = torch.randn(SMALL)
    result = transform(model, (example,))
    assert_every_layer_once(model, result, example)
    assert_same_eval(model, result, (example,))


# --- training ------------------------------------------------------------------------------------


def small_resnet() -> nn.Module:
    return torchvision.models.resnet18(num_classes=10)


def small_convnext() -> nn.Module:
    settings = [CNBlockConfig(16, 32, 2), CNBlockConfig(32, None, 2)]
    return ConvNeXt(settings, stochastic_depth_prob=0.0, layer_scale=0.5, num_classes=10)


def small_vit() -> nn.Module:
    return VisionTransformer(64, 16, 2, 4, 32, 64, num_classes=10)


def small_mobilenet() -> nn.Module:
    model = torchvision.models.mobilenet_v2(num_classes=10, width_mult=0.35, dropout=0.0)
    assert isinstance(model, nn.Module)
    return model


@pytest.mark.parametrize("make", [small_resnet, small_convnext, small_vit, small_mobilenet])
@pytest.mark.parametrize("example", [True, False])
def test_a_training_step_is_the_same(make: Callable[[], nn.Module], *, example: bool) -> None:
    model = warm(make()).double().train()
    args = (torch.randn(4, 3, 64, 64, dtype=torch.float64),)
    result = transform(model, args if example else None, copy=False)
    assert result.fused.total() > 8
    assert_same_training(model, result, args)


def test_a_transformed_resnet_learns() -> None:
    model = ResNet(BasicBlock, [1, 1, 1, 1], num_classes=3, norm_layer=nn.BatchNorm2d)
    fused: Any = transform(model.train(), patterns=TENSORRT_PATTERNS).model
    optimizer = torch.optim.SGD(fused.parameters(), 0.05)
    images, labels = torch.randn(6, 3, 32, 32), torch.tensor([0, 1, 2, 0, 1, 2])
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(fused(images), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 3
