"""Models that both ways take: the same matches and the same results, whichever way they came in."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from embedl_deploy import transform
from tests.helpers import net, run, tensors, warm

IMAGE = (2, 3, 32, 32)
SERIES = (2, 5, 16)


def timm_model(name: str, **options: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        timm = pytest.importorskip("timm")
        model: nn.Module = timm.create_model(name, pretrained=False, num_classes=4, **options)
        return model

    return make


def torchvision_model(name: str, **options: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        models = pytest.importorskip("torchvision.models")
        model: nn.Module = getattr(models, name)(weights=None, num_classes=4, **options)
        return model

    return make


def conv(inputs: int, outputs: int, **options: Any) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, **options), nn.BatchNorm2d(outputs), nn.ReLU6()
    )


def functional(m: Any, x: Tensor) -> Tensor:
    x = F.relu(m.norm(F.conv2d(x, m.conv.weight, padding="same")))
    x = F.max_pool2d(x, 2) + F.interpolate(F.avg_pool2d(x, 4), scale_factor=2, mode="bilinear")
    return F.linear(F.adaptive_avg_pool2d(x, 1).flatten(1), m.head.weight, m.head.bias)


def hand_written_attention(m: Any, x: Tensor) -> Tensor:
    qkv = m.qkv(m.norm(x)).reshape(2, 5, 3, 4, 4).permute(2, 0, 3, 1, 4)
    q, k, v = qkv.unbind(0)
    attention = (q @ k.transpose(-2, -1) * 0.5).softmax(dim=-1)
    return x + m.out((attention @ v).transpose(1, 2).reshape(2, 5, 16))


def hand_written_norms(m: Any, x: Tensor) -> Tensor:
    mean = x.mean(-1, keepdim=True)
    variance = x.var(-1, keepdim=True, unbiased=False)
    x = (x - mean) / torch.sqrt(variance + 1e-5) * m.norm.weight + m.norm.bias
    x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)
    x = m.up(x)
    return m.down(x * torch.sigmoid(x))


def gelu_by_hand(m: Any, x: Tensor) -> Tensor:
    x = m.up(x)
    return m.down(0.5 * x * (1.0 + torch.erf(x / 2**0.5)))


def gated(m: Any, x: Tensor) -> Tensor:
    gate, value = m.up(x).chunk(2, dim=-1)
    first, second = value.split([4, 12], -1)
    return m.last(F.silu(gate) * torch.cat([second, first], -1)[..., :16])


def squeezed(m: Any, x: Tensor) -> Tensor:
    y = m.stem(x)
    gate = y.mean((2, 3), keepdim=True)
    y = y * m.excite(F.relu(m.squeeze(gate))).sigmoid()
    return m.head(y.mean([-2, -1]))


def normed(m: Any, x: Tensor) -> Tensor:
    x = m.stem(x)
    x = F.group_norm(x, 2, m.norm.weight[:8], m.norm.bias[:8]) if m.training else m.group(x)
    return F.mish(F.instance_norm(x)) + F.leaky_relu(x, 0.1)


def transposed(m: Any, x: Tensor) -> Tensor:
    return (
        m.upscale(F.relu(m.stem(x))[:, :, ::2, ::2])
        - F.pixel_shuffle(m.wide(x), 2)[:, :3, :32, :32]
    )


def shared(m: Any, x: Tensor) -> Tensor:
    x = m.first(x)
    y = m.stem2(m.stem2(x)) + x
    return F.relu(y + y)


def recurrent(m: Any, x: Tensor) -> Tensor:
    y, _ = m.gru(m.norm(x))
    return m.out(y[:, -1])


WIDE = {"norm": nn.LayerNorm(16), "up": nn.Linear(16, 32), "down": nn.Linear(32, 16)}
MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "functional": (
        lambda: net(
            functional, conv=nn.Conv2d(3, 8, 3), norm=nn.BatchNorm2d(8), head=nn.Linear(8, 4)
        ),
        IMAGE,
    ),
    "attention": (
        lambda: net(
            hand_written_attention,
            qkv=nn.Linear(16, 48),
            out=nn.Linear(16, 16),
            norm=nn.LayerNorm(16),
        ),
        SERIES,
    ),
    "norms": (lambda: net(hand_written_norms, **WIDE), SERIES),
    "gelu": (lambda: net(gelu_by_hand, **WIDE), SERIES),
    "gated": (lambda: net(gated, up=nn.Linear(16, 32), last=nn.Linear(16, 16)), SERIES),
    "squeezed": (
        lambda: net(
            squeezed,
            stem=conv(3, 8),
            squeeze=nn.Conv2d(8, 4, 1),
            excite=nn.Conv2d(4, 8, 1),
            head=nn.Linear(8, 4),
        ),
        IMAGE,
    ),
    "normed": (
        lambda: net(normed, stem=conv(3, 8), norm=nn.LayerNorm(8), group=nn.GroupNorm(2, 8)),
        IMAGE,
    ),
    "transposed": (
        lambda: net(
            transposed,
            stem=nn.Conv2d(3, 8, 3, padding=1),
            upscale=nn.ConvTranspose2d(8, 3, 2, 2),
            wide=nn.Conv2d(3, 12, 1),
        ),
        IMAGE,
    ),
    "shared": (lambda: net(shared, first=conv(3, 8), stem2=conv(8, 8, bias=False)), IMAGE),
    "recurrent": (
        lambda: net(
            recurrent,
            gru=nn.GRU(16, 8, batch_first=True),
            norm=nn.LayerNorm(16),
            out=nn.Linear(8, 4),
        ),
        SERIES,
    ),
    "encoder": (
        lambda: net(
            lambda m, x: m.mlp(m.mha(x, x, x, need_weights=False)[0]),
            mha=nn.MultiheadAttention(16, 4, batch_first=True),
            mlp=nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 16)),
        ),
        SERIES,
    ),
    "resnet": (
        torchvision_model("resnet18"),
        IMAGE,
    ),
    "mobilenet": (torchvision_model("mobilenet_v3_small"), IMAGE),
    "shufflenet": (torchvision_model("shufflenet_v2_x0_5"), IMAGE),
    "squeezenet": (torchvision_model("squeezenet1_1"), IMAGE),
    "mnasnet": (torchvision_model("mnasnet0_5"), IMAGE),
    "vit": (
        timm_model(
            "vit_tiny_patch16_224",
            img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=2, dynamic_img_size=False,
        ),
        IMAGE,
    ),
    "inverted": (timm_model("mobilenetv2_035"), IMAGE),
    "convnext": (
        timm_model("convnext_atto", depths=(1, 1, 1, 1), dims=(8, 8, 16, 16)),
        IMAGE,
    ),
    "repvgg": (timm_model("repvgg_a0"), IMAGE),
}  # fmt: skip


OF_TRACING_ALONE = {"RemoveAssertionPattern", "RemoveCopyPattern"}
"""They remove what torch.export has not in its graph."""


@pytest.mark.parametrize("name", MODELS)
def test_both_ways_find_the_same(name: str) -> None:
    make, shape = MODELS[name]
    model = warm(make()).eval()
    x = torch.randn(shape)
    found = []
    for method in ("trace", "export"):
        result = transform(model, (x,), method=method)
        matches = [(match.pattern.name, match.path) for match in result.matches]
        found.append([match for match in matches if match[0] not in OF_TRACING_ALONE])
        for one, other in zip(
            tensors(run(result.model, (x,))), tensors(run(model, (x,))), strict=True
        ):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5 * float(other.abs().max()))
    assert found[0]
    assert found[0] == found[1]
