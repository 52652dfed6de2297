"""The traps that the driver owns, by number."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from embedl_deploy import transform
from embedl_deploy.modules import FusedModule
from embedl_deploy.tensorrt import TENSORRT_FUSION_PATTERNS
from embedl_deploy.tensorrt.fusions.conv import ConvBNAddReLUPattern
from tests.cases.case import DoubledConv, hooked
from tests.helpers import (
    addresses,
    assert_same_eval,
    assert_same_training,
    assert_untouched,
    kinds,
    net,
    snapshot,
    warm,
)

MAP = (2, 4, 8, 8)


def conv(channels: int = 4, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(4, channels, 3, padding=1, **options)


def block(names: str = "conv bn relu", **parts: nn.Module) -> dict[str, nn.Module]:
    """The usual parts of these names, and others."""
    usual = {"conv": conv(), "bn": nn.BatchNorm2d(4), "relu": nn.ReLU()}
    return {**{name: usual[name] for name in names.split()}, **parts}


def fuses(forward: Callable[..., Any], expected: dict[str, int], **parts: nn.Module) -> Any:
    """The model fuses as expected, and computes and trains as it did; gives the result."""
    model = warm(net(forward, **parts))
    args = (torch.randn(MAP),)
    result = transform(model.train(), args, patterns=TENSORRT_FUSION_PATTERNS, copy=False)
    assert result.fused == expected
    assert_same_training(model, result, args)
    assert_same_eval(model, result, args)
    assert addresses(result.model) == addresses(model)
    return result


def reasons(result: Any, pattern: str) -> list[str]:
    return [one.reason for one in result.refusals if one.pattern == pattern]


# --- 1: a module called twice --------------------------------------------------------------------


def test_1_an_activation_called_twice_is_harmless() -> None:
    fuses(
        lambda m, x: m.relu(m.two(m.relu(m.one(x)))),
        {"FusedConvBNReLU": 2},
        one=conv(),
        two=conv(),
        relu=nn.ReLU(inplace=True),
    )


def test_1_a_shared_convolution_stays_tied_over_levels() -> None:
    def forward(m: Any, x: Tensor) -> list[Tensor]:
        levels = (x, F.max_pool2d(x, 2), F.max_pool2d(x, 4))
        return [m.relu(m.conv(level)) for level in levels]

    result = fuses(forward, {"FusedConvBNReLU": 3}, conv=conv(), relu=nn.ReLU())
    convs = {
        id(module.conv) for module in result.model.modules() if isinstance(module, FusedModule)
    }
    assert len(convs) == 1
    assert len({match.path for match in result.matches}) == 1
    names = [
        path for path, module in result.model.named_modules() if isinstance(module, FusedModule)
    ]
    assert len(set(names)) == 3


def test_1_a_shared_convolution_with_a_batch_norm_for_each_level() -> None:
    fuses(
        lambda m, x: (m.relu(m.one(m.conv(x))), m.relu(m.two(m.conv(F.max_pool2d(x, 2))))),
        {"FusedConvBNReLU": 2},
        **block("conv relu", one=nn.BatchNorm2d(4), two=nn.BatchNorm2d(4)),
    )


def test_1_a_shared_batch_norm_learns_from_each_level_in_turn() -> None:
    fuses(
        lambda m, x: (m.relu(m.bn(m.conv(x))), m.bn(m.conv(F.max_pool2d(x, 2)))),
        {"FusedConvBNReLU": 1, "FusedConvBN": 1},
        **block(),
    )


def test_1_a_convolution_applied_to_its_own_output() -> None:
    fuses(
        lambda m, x: m.conv(m.relu(m.conv(m.relu(m.conv(x))))),
        {"FusedConvBNReLU": 2, "FusedConvBN": 1},
        **block("conv relu"),
    )


def test_1_a_weight_that_is_also_read_keeps_its_place() -> None:
    result = fuses(
        lambda m, x: m.relu(m.bn(m.conv(x))) * m.conv.weight.std() + m.bn.bias.mean(),
        {"FusedConvBNReLU": 1},
        **block(),
    )
    assert "conv.weight" in dict(result.model.named_parameters(remove_duplicate=False))


def test_1_a_module_under_two_names_stays_one() -> None:
    shared = nn.Linear(8, 8)
    fuses(
        lambda m, x: m.two(F.relu(m.one(x))),
        {"FusedLinearReLU": 1, "FusedLinear": 1},
        one=shared,
        two=shared,
    )


# --- 2: one user is not one use ------------------------------------------------------------------


@pytest.mark.parametrize(
    "forward",
    [
        lambda m, x: m.relu((y := m.bn(m.conv(x))) + y),
        lambda m, x: m.relu(m.bn(y := m.conv(x)) + y),
        lambda m, x: torch.cat([y := m.bn(m.conv(x)), y], 1),
        lambda m, x: (y := m.relu(m.bn(m.conv(x)))) * y,
        lambda m, x: torch.where(x > 0, y := m.bn(m.conv(x)), y),
    ],
)
def test_2_a_value_used_twice_by_one_operation(forward: Callable[..., Any]) -> None:
    model = warm(net(forward, **block())).eval()
    result = transform(model, patterns=TENSORRT_FUSION_PATTERNS)
    assert result.fused.total() == 1
    assert result.fused["FusedConvBNAddReLU"] == 0
    assert_same_eval(model, result, (torch.randn(MAP),))


# --- 3: inputs come from holes -------------------------------------------------------------------


@pytest.mark.parametrize(
    "forward",
    [
        lambda m, x: m.relu(m.bn(m.conv(x)) + x),
        lambda m, x: m.relu(x + m.bn(m.conv(x))),
        lambda m, x: m.relu(m.bn(m.conv(y := x * 2)) + y),
    ],
)
def test_3_the_residual_is_the_input_of_the_convolution(forward: Callable[..., Any]) -> None:
    result = fuses(forward, {"FusedConvBNAddReLU": 1}, **block())
    (node,) = [node for node in result.model.graph.nodes if node.op == "call_module"]
    assert node.args[0] is node.args[1]


# --- 4: inputs that an earlier rewrite moved -----------------------------------------------------


def test_4_the_residual_is_the_output_of_another_match() -> None:
    fuses(
        lambda m, x: m.relu(m.bn2(m.two(y := m.relu(m.bn(m.conv(x))))) + y),
        {"FusedConvBNReLU": 1, "FusedConvBNAddReLU": 1},
        **block(two=conv(), bn2=nn.BatchNorm2d(4)),
    )


def test_4_a_chain_of_residual_blocks() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        for conv_, norm in zip(m.convs, m.norms, strict=True):
            x = m.relu(norm(conv_(x)) + x)
        return x

    convs = nn.ModuleList(conv() for _ in range(5))
    norms = nn.ModuleList(nn.BatchNorm2d(4) for _ in range(5))
    fuses(forward, {"FusedConvBNAddReLU": 5}, convs=convs, norms=norms, relu=nn.ReLU())


def test_4_a_conversion_moves_the_input_of_another() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        y = F.relu(m.one(m.pool(x).flatten(1)))
        z = m.same(y[..., None, None])
        return m.two(z.flatten(1)) + z.mean()

    pools = {"pool": nn.AdaptiveAvgPool2d(1), "same": nn.AdaptiveAvgPool2d(1)}
    model = warm(net(forward, one=nn.Linear(4, 4), two=nn.Linear(4, 3), **pools)).eval()
    args = (torch.randn(MAP),)
    result = transform(model, args)
    assert result.fused == {"FusedAdaptiveAvgPool2d": 1, "FusedConvBN": 2}
    conversions = [match.path for match in result.matches[:3]]
    assert conversions == ["one", "same", "two"]
    assert_same_eval(model, result, args)


# --- 5: applying the same again ------------------------------------------------------------------


def test_5_fused_modules_are_not_opened_again() -> None:
    model = warm(net(lambda m, x: m.relu(m.bn(m.conv(x)) + x), **block())).eval()
    args = (torch.randn(MAP),)
    first = transform(model, args)
    wrapped = nn.Sequential(first.model, nn.Conv2d(4, 4, 1))
    second = transform(wrapped, args)
    assert second.fused == {"FusedConvBNAddReLU": 1, "FusedConvBN": 1}
    assert [match.path for match in second.matches] == ["1"]
    assert_same_eval(wrapped, second, args)


# --- 6: both orders of a commutative operation ---------------------------------------------------


@pytest.mark.parametrize(
    "add",
    [
        lambda one, other: one + other,
        torch.add,
        lambda one, other: one.add(other),
        lambda one, other: one.add_(other),
        lambda one, other: torch.add(input=one, other=other),
    ],
)
@pytest.mark.parametrize("swap", [False, True])
def test_6_an_addition_in_any_spelling_and_order(
    add: Callable[[Tensor, Tensor], Tensor], *, swap: bool
) -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        pair = (m.bn(m.conv(x)), x * 3)
        return m.relu(add(*pair[::-1]) if swap else add(*pair))

    fuses(forward, {"FusedConvBNAddReLU": 1}, **block())


# --- 7: a value that leaves the match ------------------------------------------------------------


@pytest.mark.parametrize(
    ("forward", "fused", "reason"),
    [
        (
            lambda m, x: (m.relu(y := m.bn(m.conv(x))), y),
            {"FusedConvBN": 1},
            "the output of its batch_norm 'bn' is also used by 'output'",
        ),
        (
            lambda m, x: (m.relu(m.bn(y := m.conv(x))), {"inner": [y]}),
            {"FusedConvBN": 1},
            "the output of its conv 'conv' is also used by 'output'",
        ),
        (
            lambda m, x: m.relu(m.bn(y := m.conv(x))) + y.mean(),
            {"FusedConvBN": 1},
            "the output of its conv 'conv' is also used by 'mean'",
        ),
    ],
)
def test_7_an_inner_value_that_is_used_outside(
    forward: Callable[..., Any], fused: dict[str, int], reason: str
) -> None:
    result = fuses(forward, fused, **block())
    assert reason in reasons(result, "ConvBNReLUPattern")


# --- 8: a subclass may compute something else ----------------------------------------------------


class PlainConv(nn.Conv2d):
    """A subclass that adds only a constructor."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 3, padding=1)

    def extra_repr(self) -> str:
        return "a subclass"


class ScaledConv(nn.Conv2d):
    """A subclass that calls the forward of its base."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name for it
        return super().forward(input) * 2


class TracedNorm(nn.BatchNorm2d):
    """A subclass that normalises as its base does, and then does more."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name for it
        torch._assert(input.ndim == 4, "an image")
        if self.training and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        momentum = self.momentum or 0.0
        mean, variance = self.running_mean, self.running_var
        affine = (self.weight, self.bias)
        return F.relu(
            F.batch_norm(input, mean, variance, *affine, self.training, momentum, self.eps)
        )


def test_8_a_subclass_without_a_forward_is_the_plain_class() -> None:
    result = fuses(
        lambda m, x: m.relu(m.conv(x)), {"FusedConvBNReLU": 1}, **block("relu", conv=PlainConv(4))
    )
    assert type(result.model.conv.conv) is nn.Conv2d


def test_8_a_subclass_with_another_forward_is_not_matched() -> None:
    result = fuses(lambda m, x: m.relu(m.conv(x)), {}, **block("relu", conv=DoubledConv(4, 4, 3)))
    assert kinds(result.model) == {"conv2d": 1, "mul": 1, "ReLU": 1}


def test_8_a_subclass_around_the_forward_of_its_base_is_opened() -> None:
    result = fuses(
        lambda m, x: m.relu(m.conv(x)),
        {"FusedConvBN": 1},
        **block("relu", conv=ScaledConv(4, 4, 3)),
    )
    assert kinds(result.model) == {"FusedConvBN": 1, "mul": 1, "ReLU": 1}


def test_8_a_batch_norm_with_an_activation_inside_is_opened() -> None:
    fuses(lambda m, x: m.bn(m.conv(x)), {"FusedConvBNReLU": 1}, **block("conv", bn=TracedNorm(4)))


def test_8_a_forward_set_on_the_instance_is_not_matched() -> None:
    layer = conv()
    layer.forward = lambda input: F.conv2d(input, torch.ones(4, 4, 1, 1)) * layer.weight.mean()  # type: ignore[method-assign]  # noqa: A006
    model = net(lambda m, x: m.relu(m.conv(x)), **block("relu", conv=layer))
    result = transform(model, (torch.randn(MAP),))
    assert result.fused == {}
    assert_same_eval(model, result, (torch.randn(MAP),))


# --- 9: the source model stays as it was ---------------------------------------------------------


def test_9_nothing_of_the_source_model_changes() -> None:
    class Frozen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = hooked(conv())
            self.bn = nn.BatchNorm2d(4).eval()
            self.relu = nn.ReLU(inplace=True)
            self.pool = nn.AdaptiveAvgPool2d(1)
            self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
            self.drop = nn.Dropout(0.3, inplace=True)
            self.head = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.relu(self.bn(self.conv(x)))
            tokens = x.flatten(2).transpose(1, 2)
            x = x + self.attention(tokens, tokens, tokens)[0].mean(1)[..., None, None]
            return self.head(self.drop(self.pool(x).flatten(1)))

    model: Any = warm(Frozen()).double()
    model.conv.register_forward_pre_hook(lambda _module, args: args)
    model.head.register_full_backward_hook(lambda _module, _in, _out: None)
    model.register_forward_hook(lambda _module, _args, output: output)
    model.conv.weight.requires_grad_(False)
    model.head.weight.grad = torch.ones_like(model.head.weight)
    before = snapshot(model)
    for copy in (True, False):
        for args in (None, (torch.randn(MAP, dtype=torch.float64),)):
            result = transform(model, args, copy=copy)
            assert_untouched(model, before)
    assert not result.model.get_parameter("conv.weight").requires_grad
    assert not result.model.get_submodule("bn").training
    assert result.model.training


# --- 10: both inputs of an add are convolutions --------------------------------------------------


def two_branches(*, swap: bool) -> tuple[Callable[..., Any], dict[str, nn.Module]]:
    def forward(m: Any, x: Tensor) -> Tensor:
        pair = (m.deep_bn(m.deep(F.relu(m.first(x)))), m.short_bn(m.short(x)))
        one, other = pair[::-1] if swap else pair
        return F.relu(one + other)

    norms = {name: nn.BatchNorm2d(4) for name in ("deep_bn", "short_bn")}
    return forward, {"first": conv(), "deep": conv(), "short": conv(), **norms}


@pytest.mark.parametrize("swap", [False, True])
def test_10_the_deeper_branch_is_fused_and_the_other_is_the_residual(*, swap: bool) -> None:
    forward, parts = two_branches(swap=swap)
    expected = {"FusedConvBNReLU": 1, "FusedConvBN": 1, "FusedConvBNAddReLU": 1}
    result = fuses(forward, expected, **parts)
    (match,) = [one for one in result.matches if isinstance(one.pattern, ConvBNAddReLUPattern)]
    assert match.operations[:2] == ("deep", "deep_bn")
    again = transform(net(forward, **parts), patterns=TENSORRT_FUSION_PATTERNS)
    assert [one.operations for one in again.matches] == [one.operations for one in result.matches]


def test_10_of_two_branches_as_deep_the_first_argument_is_fused() -> None:
    result = fuses(
        lambda m, x: F.relu(m.bn2(m.two(x)) + m.bn(m.conv(x))),
        {"FusedConvBN": 1, "FusedConvBNAddReLU": 1},
        **block(two=conv(), bn2=nn.BatchNorm2d(4)),
    )
    (match,) = [one for one in result.matches if isinstance(one.pattern, ConvBNAddReLUPattern)]
    assert match.path == "two"


def test_10_where_the_deeper_branch_is_used_elsewhere_the_other_is_fused() -> None:
    result = fuses(
        lambda m, x: (F.relu((y := m.bn2(m.two(F.relu(x)))) + m.bn(m.conv(x))), y),
        {"FusedConvBN": 1, "FusedConvBNAddReLU": 1},
        **block(two=conv(), bn2=nn.BatchNorm2d(4)),
    )
    (match,) = [one for one in result.matches if isinstance(one.pattern, ConvBNAddReLUPattern)]
    assert match.path == "conv"
    assert reasons(result, "ConvBNAddReLUPattern") == []


# --- modes ---------------------------------------------------------------------------------------


def test_a_frozen_batch_norm_stays_frozen_in_a_training_model() -> None:
    parts = block(bn=nn.BatchNorm2d(4).eval())
    model = warm(net(lambda m, x: m.relu(m.bn(m.conv(x))), **parts))
    parts["conv"].train()
    result = transform(model, copy=False)
    (fused,) = [one for one in result.model.modules() if isinstance(one, FusedModule)]
    assert fused.training
    assert fused.conv.training  # type: ignore[union-attr]
    assert not fused.batch_norm.training  # type: ignore[union-attr]
    assert_same_training(model, result, (torch.randn(MAP),))


def test_parts_of_a_conversion_keep_the_modes_of_the_model() -> None:
    model = nn.Sequential(
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.9),
        nn.Dropout(0.8),
        nn.Linear(4, 3),
    ).eval()
    model[2].train()  # dropout at test time, on purpose
    result = transform(model)
    modes = {path: one.training for path, one in result.model.named_modules() if "." not in path}
    assert modes == {"": False, "0": False, "2": True, "3": False, "4": False}


def test_the_modes_of_attention_are_those_of_its_model() -> None:
    model = net(
        lambda m, x: m.mha(x, x, x)[0] + m.linear(x),
        mha=nn.MultiheadAttention(8, 2, 0.5),
        linear=nn.Linear(8, 8),
    )
    model.train()
    model.mha.eval()
    result = transform(model)
    modes = {path: one.training for path, one in result.model.named_modules()}
    assert modes[""]
    assert modes["linear"]
    assert not any(mode for path, mode in modes.items() if path.startswith("mha."))
