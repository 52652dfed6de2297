"""Pooling and resampling, all of them modules in the canonical graph."""

from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from embedl_deploy.graph import makers
from embedl_deploy.graph.rows import ModuleRow


def _max(kind: Any, *, indices: bool | None = None) -> makers.Maker:
    def build(a: SimpleNamespace) -> nn.Module:
        wanted = a.return_indices if indices is None else indices
        return kind(a.kernel_size, a.stride, a.padding, a.dilation, wanted, a.ceil_mode)

    return makers.simple(build)


def _avg(kind: Any) -> makers.Maker:
    def build(a: SimpleNamespace) -> nn.Module:
        options = (a.kernel_size, a.stride, a.padding, a.ceil_mode, a.count_include_pad)
        return kind(*options, a.divisor_override)

    return makers.simple(build)


def _adaptive_max(kind: Any, *, indices: bool | None = None) -> makers.Maker:
    def build(a: SimpleNamespace) -> nn.Module:
        return kind(a.output_size, a.return_indices if indices is None else indices)

    return makers.simple(build)


_MAX_ARGUMENTS = (
    "input, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False"
)
_ADAPTIVE_MAX_ARGUMENTS = "input, output_size, return_indices=False"
_AVG_ARGUMENTS = (
    "input, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True, "
    "divisor_override=None"
)

POOLING = (
    ModuleRow(
        "max_pool1d", _MAX_ARGUMENTS, (F.max_pool1d, torch.max_pool1d), make=_max(nn.MaxPool1d)
    ),
    ModuleRow(
        "max_pool2d", _MAX_ARGUMENTS, (F.max_pool2d, torch.max_pool2d), make=_max(nn.MaxPool2d)
    ),
    ModuleRow(
        "max_pool3d", _MAX_ARGUMENTS, (F.max_pool3d, torch.max_pool3d), make=_max(nn.MaxPool3d)
    ),
    *(
        ModuleRow(name, _MAX_ARGUMENTS, (spelling,), make=_max(kind, indices=True))
        for name, spelling, kind in (
            ("max_pool1d_with_indices", F.max_pool1d_with_indices, nn.MaxPool1d),
            ("max_pool2d_with_indices", F.max_pool2d_with_indices, nn.MaxPool2d),
            ("max_pool3d_with_indices", F.max_pool3d_with_indices, nn.MaxPool3d),
        )
    ),
    ModuleRow(
        "avg_pool1d",
        "input, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True",
        (torch.avg_pool1d,),
        make=makers.simple(
            lambda a: nn.AvgPool1d(
                a.kernel_size, a.stride, a.padding, a.ceil_mode, a.count_include_pad
            )
        ),
    ),
    ModuleRow("avg_pool2d", _AVG_ARGUMENTS, (F.avg_pool2d,), make=_avg(nn.AvgPool2d)),
    ModuleRow("avg_pool3d", _AVG_ARGUMENTS, (F.avg_pool3d,), make=_avg(nn.AvgPool3d)),
    *(
        ModuleRow(
            name,
            "input, output_size",
            spellings,
            make=makers.simple(lambda a, kind=kind: kind(a.output_size)),  # type: ignore[misc]
        )
        for name, spellings, kind in (
            ("adaptive_avg_pool1d", (torch.adaptive_avg_pool1d,), nn.AdaptiveAvgPool1d),
            ("adaptive_avg_pool2d", (F.adaptive_avg_pool2d,), nn.AdaptiveAvgPool2d),
            ("adaptive_avg_pool3d", (F.adaptive_avg_pool3d,), nn.AdaptiveAvgPool3d),
        )
    ),
    *(
        ModuleRow(name, _ADAPTIVE_MAX_ARGUMENTS, (spelling,), make=make)
        for name, spelling, make in (
            ("adaptive_max_pool1d", F.adaptive_max_pool1d, _adaptive_max(nn.AdaptiveMaxPool1d)),
            ("adaptive_max_pool2d", F.adaptive_max_pool2d, _adaptive_max(nn.AdaptiveMaxPool2d)),
            ("adaptive_max_pool3d", F.adaptive_max_pool3d, _adaptive_max(nn.AdaptiveMaxPool3d)),
            (
                "adaptive_max_pool1d_with_indices",
                F.adaptive_max_pool1d_with_indices,
                _adaptive_max(nn.AdaptiveMaxPool1d, indices=True),
            ),
            (
                "adaptive_max_pool2d_with_indices",
                F.adaptive_max_pool2d_with_indices,
                _adaptive_max(nn.AdaptiveMaxPool2d, indices=True),
            ),
            (
                "adaptive_max_pool3d_with_indices",
                F.adaptive_max_pool3d_with_indices,
                _adaptive_max(nn.AdaptiveMaxPool3d, indices=True),
            ),
        )
    ),
    *(
        ModuleRow(
            spelling.__name__,
            "input, norm_type, kernel_size, stride=None, ceil_mode=False",
            (spelling,),
            make=makers.simple(
                lambda a, kind=kind: kind(a.norm_type, a.kernel_size, a.stride, a.ceil_mode)  # type: ignore[misc]
            ),
        )
        for spelling, kind in (
            (F.lp_pool1d, nn.LPPool1d),
            (F.lp_pool2d, nn.LPPool2d),
            (F.lp_pool3d, nn.LPPool3d),
        )
    ),
)

RESAMPLING = (
    ModuleRow(
        "pixel_shuffle",
        "input, upscale_factor",
        (torch.pixel_shuffle,),
        make=makers.simple(lambda a: nn.PixelShuffle(a.upscale_factor)),
    ),
    ModuleRow(
        "pixel_unshuffle",
        "input, downscale_factor",
        (torch.pixel_unshuffle,),
        make=makers.simple(lambda a: nn.PixelUnshuffle(a.downscale_factor)),
    ),
    ModuleRow(
        "channel_shuffle",
        "input, groups",
        (torch.channel_shuffle,),
        make=makers.simple(lambda a: nn.ChannelShuffle(a.groups)),
    ),
    ModuleRow(
        "upsample",
        "input, size=None, scale_factor=None, mode='nearest', align_corners=None, "
        "recompute_scale_factor=None, antialias=False",
        (F.interpolate,),
        make=makers.upsample,
    ),
)
