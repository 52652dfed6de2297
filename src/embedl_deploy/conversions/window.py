"""Shifted-window attention (Liu et al., Swin Transformer, 2021, and V2, 2022), taken apart."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from embedl_deploy.conversions.projection import layer
from embedl_deploy.modules import MHAInProjection, ScaledDotProductAttention
from embedl_deploy.patterns import Call, ConversionPattern, Site, Value, op

_FUNCTION = "torchvision.models.swin_transformer.shifted_window_attention"
_ARGUMENTS = (
    "input",
    "qkv_weight",
    "proj_weight",
    "relative_position_bias",
    "window_size",
    "num_heads",
    "shift_size",
    "attention_dropout",
    "dropout",
    "qkv_bias",
    "proj_bias",
    "logit_scale",
    "training",
)


class DecomposeShiftedWindowAttentionPattern(ConversionPattern):
    """torchvision's `shifted_window_attention` becomes projections and attention over windows.

    In the cosine attention of Swin V2 query and key are normalised, the logit scale goes to the
    query, and the attention has scale 1.
    """

    tree = op("windows", _FUNCTION)

    def refuse(self, windows: Call, site: Site) -> str | None:
        a = _arguments(windows)
        if not isinstance(a["qkv_weight"], nn.Parameter) or isinstance(a.get("logit_scale"), Value):
            return "its weights are computed"
        shape = site.input_shape("windows")
        if shape is None or None in shape[1:]:
            return (
                "its input size is not known, and the windows follow from it; pass example inputs"
            )
        return None

    def build(self, windows: Call, site: Site) -> nn.Module:
        shape = site.input_shape("windows")
        assert shape is not None  # noqa: S101 - refuse() says so
        return WindowAttention(_arguments(windows), (shape[1] or 0, shape[2] or 0))


def _arguments(call: Call) -> dict[str, Any]:
    return dict(zip(_ARGUMENTS, call.args, strict=False)) | call.kwargs


class WindowAttention(nn.Module):
    """Attention within windows of a map of one size.

    Args:
        a: Arguments of torchvision's function by name.
        size: Height and width of the map.
    """

    mask: Tensor

    def __init__(self, a: dict[str, Any], size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size
        self.window = tuple(a["window_size"])
        self.padded = tuple(
            -(-have // side) * side for have, side in zip(size, self.window, strict=True)
        )
        fits = zip(self.window, self.padded, a["shift_size"], strict=True)
        self.shift = tuple(0 if side >= have else shift for side, have, shift in fits)
        self.qkv = MHAInProjection(
            a["num_heads"],
            batch_first=True,
            in_proj_weight=a["qkv_weight"],
            in_proj_bias=a.get("qkv_bias"),
            key_bias=a.get("logit_scale") is None,
        )
        self.logit_scale = a.get("logit_scale")
        self.attention = ScaledDotProductAttention(
            dropout=a.get("attention_dropout", 0.0),
            scale=None if self.logit_scale is None else 1.0,
        )
        self.proj = layer(a["proj_weight"], a.get("proj_bias"))
        self.dropout = nn.Dropout(a.get("dropout", 0.0))
        if any(self.shift):
            mask = _shift_mask(self.padded, self.window, self.shift)
            self.register_buffer("mask", mask.to(a["qkv_weight"]))

    def forward(self, input: Tensor, relative_position_bias: Tensor) -> Tensor:  # noqa: A002 - torch's name
        """Attend. Shapes: (N, H, W, C), unchanged; bias (1, heads, L, L), L positions a window."""
        height, width = self.size
        bottom, right = self.padded[0] - height, self.padded[1] - width
        x = F.pad(input, (0, 0, 0, right, 0, bottom)) if bottom or right else input
        if any(self.shift):
            x = torch.roll(x, (-self.shift[0], -self.shift[1]), (1, 2))
        x = self._attend(self._windows(x), relative_position_bias)
        x = self._map(x)
        if any(self.shift):
            x = torch.roll(x, self.shift, (1, 2))
        return x[:, :height, :width, :] if bottom or right else x

    def _attend(self, x: Tensor, bias: Tensor) -> Tensor:
        q, k, v = self.qkv(x, x, x)
        if self.logit_scale is not None:
            scale = torch.clamp(self.logit_scale, max=math.log(100.0)).exp()
            q, k = F.normalize(q, dim=-1) * scale, F.normalize(k, dim=-1)
        if any(self.shift):
            bias = (bias + self.mask).repeat(x.shape[0] // math.prod(self._grid()), 1, 1, 1)
        x = self.attention(q, k, v, bias)
        return self.dropout(self.proj(x.transpose(1, 2).flatten(2)))

    def _windows(self, x: Tensor) -> Tensor:
        """(N, H, W, C) to (N·windows, positions, C)."""
        (rows, columns), (high, wide) = self._grid(), self.window
        x = x.reshape(-1, rows, high, columns, wide, x.shape[-1])
        return x.permute(0, 1, 3, 2, 4, 5).flatten(2, 4).reshape(-1, high * wide, x.shape[-1])

    def _map(self, x: Tensor) -> Tensor:
        """(N·windows, positions, C) to (N, H, W, C)."""
        (rows, columns), (high, wide) = self._grid(), self.window
        x = x.reshape(-1, rows, columns, high, wide, self.proj.out_features)
        return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, *self.padded, self.proj.out_features)

    def _grid(self) -> tuple[int, int]:
        return self.padded[0] // self.window[0], self.padded[1] // self.window[1]


def _shift_mask(padded: tuple[int, ...], window: tuple[int, ...], shift: tuple[int, ...]) -> Tensor:
    """What keeps positions apart that only the cyclic shift brought into one window.

    Shape (windows, 1, positions, positions): 0 within a region, −100 between regions.
    """
    bands = [
        torch.bucketize(torch.arange(have), torch.tensor([have - side, have - move]), right=True)
        for have, side, move in zip(padded, window, shift, strict=True)
    ]
    region = bands[0][:, None] * 3 + bands[1]
    rows, columns = padded[0] // window[0], padded[1] // window[1]
    region = region.view(rows, window[0], columns, window[1]).permute(0, 2, 1, 3)
    region = region.reshape(rows * columns, -1)
    apart = region[:, None, :] != region[:, :, None]
    return apart.float().mul(-100.0)[:, None]
