"""What patterns build, apart from how it gets into a graph."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from embedl_deploy.modules import (
    AttentionMask,
    FusedAdaptiveAvgPool2d,
    FusedConvBN,
    FusedConvBNAdd,
    FusedConvBNAddReLU,
    FusedConvBNReLU,
    FusedConvBNReLUMaxPool,
    FusedConvTransposeBN,
    FusedConvTransposeBNReLU,
    FusedGroupNorm,
    FusedInstanceNorm,
    FusedLayerNorm,
    FusedLinear,
    FusedLinearAdd,
    FusedLinearBN,
    FusedLinearBNReLU,
    FusedLinearReLU,
    FusedMHAInProjection,
    FusedModule,
    FusedRMSNorm,
    FusedScaledDotProductAttention,
    MHAInProjection,
    QDQPoint,
    ScaledDotProductAttention,
)
from tests.helpers import assert_close, warm


class Rounded(nn.Module):
    """Stands for a weight quantizer: whole numbers only."""

    def forward(self, weight: Tensor) -> Tensor:
        return (weight * 4).round() / 4


def conv() -> nn.Conv2d:
    return nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect")


def norm() -> nn.BatchNorm2d:
    return nn.BatchNorm2d(4)


def projection(**options: int) -> MHAInProjection:
    return MHAInProjection.of(nn.MultiheadAttention(8, 2, batch_first=True, **options))


IMAGE = torch.randn(2, 3, 6, 6)
TOKENS = torch.randn(2, 5, 8)
HEADS = torch.randn(2, 2, 5, 4)
MODULES: list[tuple[FusedModule, tuple[Tensor, ...], int]] = [
    (FusedConvBN(conv(), norm()), (IMAGE,), 1),
    (FusedConvBN(conv()), (IMAGE,), 1),
    (FusedConvBNReLU(conv(), norm(), nn.ReLU()), (IMAGE,), 1),
    (FusedConvBNReLUMaxPool(conv(), None, nn.GELU(), nn.MaxPool2d(2)), (IMAGE,), 1),
    (FusedConvBNAddReLU(conv(), norm(), nn.ReLU()), (IMAGE, torch.randn(2, 4, 6, 6)), 1),
    (FusedConvBNAdd(conv(), norm()), (IMAGE, torch.randn(2, 4, 6, 6)), 1),
    (FusedConvBN(nn.Conv1d(8, 6, 3), nn.BatchNorm1d(6)), (TOKENS.transpose(1, 2),), 1),
    (FusedConvTransposeBN(nn.ConvTranspose2d(3, 4, 3, 2, 1, 1), norm()), (IMAGE,), 1),
    (FusedConvTransposeBN(nn.ConvTranspose2d(3, 6, 2, groups=3)), (IMAGE,), 0),
    (FusedConvTransposeBNReLU(nn.ConvTranspose2d(3, 4, 2), norm(), nn.SiLU()), (IMAGE,), 1),
    (FusedLinearAdd(nn.Linear(8, 3)), (TOKENS, torch.randn(2, 5, 3)), 1),
    (FusedLinearBN(nn.Linear(8, 3), nn.BatchNorm1d(3)), (TOKENS[0],), 1),
    (FusedLinearBNReLU(nn.Linear(8, 3), nn.BatchNorm1d(3), nn.ReLU()), (TOKENS[0],), 1),
    (FusedGroupNorm(nn.GroupNorm(3, 3)), (IMAGE,), 0),
    (FusedInstanceNorm(nn.InstanceNorm2d(3)), (IMAGE,), 0),
    (FusedRMSNorm(nn.RMSNorm(8)), (TOKENS,), 0),
    (FusedLinear(nn.Linear(8, 3)), (TOKENS,), 1),
    (FusedLinearReLU(nn.Linear(8, 3, bias=False), nn.GELU()), (TOKENS,), 1),
    (FusedMHAInProjection(projection()), (TOKENS, TOKENS, TOKENS), 1),
    (FusedMHAInProjection(projection()), (TOKENS, TOKENS * 2, TOKENS * 3), 1),
    (
        FusedMHAInProjection(projection(kdim=6, vdim=4)),
        (TOKENS, torch.randn(2, 7, 6), torch.randn(2, 7, 4)),
        3,
    ),
    (FusedScaledDotProductAttention(ScaledDotProductAttention()), (HEADS, HEADS, HEADS), 0),
    (FusedLayerNorm(nn.LayerNorm(8)), (TOKENS,), 0),
    (FusedAdaptiveAvgPool2d(nn.AdaptiveAvgPool2d(2)), (IMAGE,), 0),
]


@pytest.mark.parametrize(("module", "args", "count"), MODULES)
def test_a_weight_quantizer_sees_each_weight_and_nothing_else(
    module: FusedModule, args: tuple[Tensor, ...], count: int
) -> None:
    warm(module).eval()
    before = module(*args)
    paths = module.quantizable_weights()
    assert len(paths) == count
    weights = [module.weight(path).detach() for path in paths]
    for path in paths:
        module.set_quantizer(path, Rounded())
    rounded = module(*args)
    assert all((weight * 4 % 1).any() for weight in weights)
    module.weight_quantizers.clear()
    if not paths:
        assert_close(rounded, before)
        return
    assert not torch.allclose(rounded[0], before[0], rtol=1e-3)
    with torch.no_grad():
        for path in paths:
            weight = module.get_parameter(path)
            weight.copy_(Rounded()(weight))
    assert_close(module(*args), rounded)


@pytest.mark.parametrize(("module", "args", "count"), MODULES)
def test_operations_are_the_children_without_the_quantizers(
    module: FusedModule, args: tuple[Tensor, ...], count: int
) -> None:
    del args, count
    operations = list(module.operations())
    assert operations
    assert module.weight_quantizers not in operations
    assert all(one in set(module.children()) for one in operations)


P = QDQPoint
ARGUMENTS = {
    FusedConvBN: {P.INPUT: ("input",)},
    FusedConvBNAddReLU: {P.INPUT: ("input",), P.RESIDUAL_INPUT: ("residual",)},
    FusedConvBNAdd: {P.INPUT: ("input",), P.RESIDUAL_INPUT: ("residual",)},
    FusedConvTransposeBN: {P.INPUT: ("input",)},
    FusedLinearAdd: {P.INPUT: ("input",), P.RESIDUAL_INPUT: ("residual",)},
    FusedLinear: {P.INPUT: ("input",)},
    FusedMHAInProjection: {P.INPUT: ("query", "key", "value")},
    FusedScaledDotProductAttention: {
        P.INPUT: ("query",),
        P.KEY_INPUT: ("key",),
        P.VALUE_INPUT: ("value",),
    },
    FusedAdaptiveAvgPool2d: {P.INPUT: ("input",)},
}


@pytest.mark.parametrize("kind", ARGUMENTS)
def test_a_point_names_arguments(kind: type[FusedModule]) -> None:
    found = {point: kind.quantized_arguments(point) for point in QDQPoint}
    assert {point: names for point, names in found.items() if names} == ARGUMENTS[kind]


def test_masks_merge_into_one() -> None:
    query = torch.randn(3, 2, 4, 8)
    mask, padding = torch.rand(4, 5) < 0.3, torch.rand(3, 5) < 0.3
    merged = AttentionMask(2)(query, mask, padding)
    assert merged.shape == (3, 1, 4, 5)
    hidden = mask[None, None] | padding[:, None, None]
    assert torch.equal(merged == float("-inf"), hidden)
    assert not merged[~hidden].any()
    assert merged.dtype == query.dtype


def test_masks_in_other_forms() -> None:
    query = torch.randn(3, 2, 4, 8, dtype=torch.float64)
    merge = AttentionMask(2)
    per_head = torch.randn(6, 4, 5)
    assert torch.equal(merge(query, per_head, None), per_head.double().view(3, 2, 4, 5))
    padding = torch.randn(3, 5)
    assert torch.equal(merge(query, None, padding), padding.double().view(3, 1, 1, 5))
    alone = merge(query[0], per_head[:2], padding[0])
    assert torch.equal(alone, per_head[:2].double() + padding[0].double())
    assert merge(query, None, None) is None


def test_attention_is_torchs() -> None:
    query, key, value = torch.randn(2, 4, 5, 8), torch.randn(2, 2, 7, 8), torch.randn(2, 2, 7, 3)
    module = ScaledDotProductAttention(scale=0.2, enable_gqa=True)
    expected = F.scaled_dot_product_attention(query, key, value, scale=0.2, enable_gqa=True)
    assert torch.equal(module(query, key, value), expected)
    causal = ScaledDotProductAttention(is_causal=True)(query, query, query)
    assert torch.equal(causal, F.scaled_dot_product_attention(query, query, query, is_causal=True))
