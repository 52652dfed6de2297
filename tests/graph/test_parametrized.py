"""Weights that a layer computes when it runs are computed at capture where the model infers."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune, spectral_norm

from embedl_deploy import transform
from tests.helpers import assert_same_eval, assert_untouched, net, snapshot

Wrap = Callable[[nn.Module], nn.Module]
IMAGE, ROWS = (2, 3, 8, 8), (4, 6)


class Symmetric(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.triu() + x.triu(1).mT


def symmetric(module: nn.Module) -> nn.Module:
    parametrize.register_parametrization(module, "weight", Symmetric())
    return module


def old_weight_norm(module: nn.Module) -> nn.Module:
    with pytest.warns(FutureWarning, match="weight_norm"):
        return nn.utils.weight_norm(module)


def pruned(module: nn.Module) -> nn.Module:
    prune.l1_unstructured(module, "weight", amount=0.4)
    return module


def pruned_by_channel(module: nn.Module) -> nn.Module:
    """Twice, and its bias as well."""
    prune.ln_structured(pruned(module), "weight", amount=0.3, n=2, dim=0)
    prune.random_unstructured(module, "bias", amount=0.5)
    return module


def pruned_together(module: nn.Module) -> nn.Module:
    prune.global_unstructured([(module, "weight")], prune.RandomUnstructured, amount=0.5)
    return module


def convs(wrap: Wrap) -> nn.Module:
    return nn.Sequential(wrap(nn.Conv2d(3, 8, 3)), nn.ReLU(), wrap(nn.Conv2d(8, 4, 3)))


def linears(wrap: Wrap) -> nn.Module:
    return nn.Sequential(wrap(nn.Linear(6, 8)), nn.ReLU(), wrap(nn.Linear(8, 8)))


def positional() -> nn.Module:
    """The positional convolution of wav2vec 2.0."""
    conv = nn.Conv1d(16, 16, 8, padding=4, groups=4)
    norm = parametrizations.weight_norm(conv, dim=2)
    return net(lambda m, x: F.gelu(m.conv(x)[:, :, :-1]) + x, conv=norm)


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], dict[str, int]]] = {
    **{
        f"{name}, {kind}": (lambda make=make, wrap=wrap: make(wrap), shape, fused)  # type: ignore[misc]
        for kind, make, shape, fused in (
            ("conv", convs, IMAGE, {"FusedConvBNReLU": 1, "FusedConvBN": 1}),
            ("linear", linears, ROWS, {"FusedLinearReLU": 1, "FusedLinear": 1}),
        )
        for name, wrap in (
            ("weight_norm", parametrizations.weight_norm),
            ("spectral_norm", parametrizations.spectral_norm),
            ("orthogonal", parametrizations.orthogonal),
            ("old weight_norm", old_weight_norm),
            ("old spectral_norm", spectral_norm),
            ("pruned", pruned),
            ("pruned by channel", pruned_by_channel),
            ("pruned together", pruned_together),
        )
    },
    "positional": (positional, (2, 16, 9), {"FusedConvBN": 1}),
    "transposed": (
        lambda: nn.Sequential(parametrizations.weight_norm(nn.ConvTranspose1d(4, 4, 4, 2, 1))),
        (2, 4, 9),
        {"FusedConvTransposeBN": 1},
    ),
    "symmetric": (lambda: nn.Sequential(symmetric(nn.Linear(6, 6))), ROWS, {"FusedLinear": 1}),
    "bias": (
        lambda: nn.Sequential(parametrizations.weight_norm(nn.Linear(6, 6), "bias")),
        ROWS,
        {"FusedLinear": 1},
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_it_is_computed_at_capture_and_the_model_stays(name: str) -> None:
    make, shape, fused = MODELS[name]
    model, x = make().eval(), torch.randn(shape)
    model(x)
    before = snapshot(model)
    result = transform(model, (x,), copy=False)
    assert result.fused == fused
    assert result.left == ()
    assert_same_eval(model, result, (x,))
    assert_untouched(model, before)
    assert all(one.requires_grad for one in result.model.parameters())


def test_what_does_not_train_stays_so() -> None:
    layer = parametrizations.weight_norm(nn.Linear(6, 6)).requires_grad_(requires_grad=False)
    result = transform(nn.Sequential(layer).eval(), (torch.randn(ROWS),))
    assert not any(one.requires_grad for one in result.model.parameters())


@pytest.mark.parametrize(
    "wrap", [parametrizations.weight_norm, parametrizations.spectral_norm, pruned]
)
def test_it_stays_what_it_is_while_the_model_trains(wrap: Wrap) -> None:
    model, x = convs(wrap).train(), torch.randn(IMAGE)
    before = snapshot(model)
    result = transform(model, (x,), copy=False)
    assert_untouched(model, before)
    assert not result.fused
    assert all("eval()" in one.reason for one in result.left)
    assert_same_eval(model, result, (x,))


def test_a_pruned_recurrent_layer_gets_its_weights_too() -> None:
    model = nn.LSTM(4, 4).eval()
    prune.l1_unstructured(model, "weight_hh_l0", amount=0.5)
    x = torch.randn(2, 3, 4)
    result = transform(model, (x,))
    names = {name for name, _ in result.model.named_parameters()}
    assert names == {name for name, _ in nn.LSTM(4, 4).named_parameters()}
    assert_same_eval(model, result, (x,))


def test_a_recurrent_layer_gets_its_weights_too() -> None:
    model = parametrizations.weight_norm(nn.LSTM(4, 4), "weight_hh_l0").eval()
    x = torch.randn(2, 3, 4)
    model(x)
    with torch.no_grad():
        model.parametrizations.weight_hh_l0.original0.mul_(3)
    result = transform(model, (x,))
    assert sorted(dict(result.model.named_parameters())) == sorted(
        dict(nn.LSTM(4, 4).named_parameters())
    )
    assert_same_eval(model, result, (x,))


class Pool(nn.Module):
    """The attention pooling of CLIP's ResNets: separate projections, another size at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(16, 16) for _ in range(3))
        self.c_proj = nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(2).permute(2, 0, 1)
        x = torch.cat((x.mean(0, keepdim=True), x))
        bias = torch.cat((self.q_proj.bias, self.k_proj.bias, self.v_proj.bias))
        pooled, _ = F.multi_head_attention_forward(
            x[:1],
            x,
            x,
            embed_dim_to_check=x.shape[-1],
            num_heads=4,
            in_proj_weight=None,
            in_proj_bias=bias,
            bias_k=None,
            bias_v=None,
            add_zero_attn=False,
            dropout_p=0.0,
            out_proj_weight=self.c_proj.weight,
            out_proj_bias=self.c_proj.bias,
            training=self.training,
            need_weights=False,
            use_separate_proj_weight=True,
            q_proj_weight=self.q_proj.weight,
            k_proj_weight=self.k_proj.weight,
            v_proj_weight=self.v_proj.weight,
        )
        return pooled.squeeze(0)


class Packed(nn.Module):
    """A call with the parameters of an attention layer."""

    def __init__(self, *, bias: bool = True, extra: bool = False, **options: object) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 4, bias=bias, add_bias_kv=extra)
        self.options = options

    def forward(self, x: Tensor) -> Tensor:
        one = self.attention
        output, _ = F.multi_head_attention_forward(
            *(x, x, x, 16, 4, one.in_proj_weight, one.in_proj_bias, one.bias_k, one.bias_v),
            *(False, 0.0, one.out_proj.weight, one.out_proj.bias, self.training),
            **self.options,  # type: ignore[arg-type]
        )
        return output


CALLS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "separate": (Pool, (2, 16, 3, 3)),
    "packed": (Packed, (5, 2, 16)),
    "without batch": (lambda: Packed(need_weights=False), (5, 16)),
    "without bias": (lambda: Packed(bias=False), (5, 2, 16)),
    "causal": (
        lambda: Packed(attn_mask=torch.full((5, 5), -torch.inf).triu(1), is_causal=True),
        (5, 2, 16),
    ),
    "padding": (lambda: Packed(key_padding_mask=torch.rand(2, 5) > 0.7), (5, 2, 16)),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_call_of_multi_head_attention_is_its_layer(name: str) -> None:
    make, shape = CALLS[name]
    model, x = make().eval(), torch.randn(shape)
    result = transform(model, (x,))
    attention = {"FusedMHAInProjection": 1, "FusedScaledDotProductAttention": 1, "FusedLinear": 1}
    assert result.fused == attention
    assert_same_eval(model, result, (x,))


def test_a_call_with_more_keys_stays_a_call() -> None:
    model, x = Packed(extra=True).eval(), torch.randn(5, 2, 16)
    result = transform(model, (x,))
    assert not result.fused
    assert "a tensor outside any layer" in result.left[0].reason
    assert_same_eval(model, result, (x,))
