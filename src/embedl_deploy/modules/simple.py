"""Fused modules of one operation without weights to quantize."""

from typing import ClassVar

from embedl_deploy.modules.kernel import Kernel


class FusedLayerNorm(Kernel):
    """A layer norm, kept in floating point."""

    steps: ClassVar[tuple[str, ...]] = ("layer_norm",)


class FusedGroupNorm(Kernel):
    """A group norm, kept in floating point."""

    steps: ClassVar[tuple[str, ...]] = ("group_norm",)


class FusedInstanceNorm(Kernel):
    """An instance norm, kept in floating point."""

    steps: ClassVar[tuple[str, ...]] = ("instance_norm",)


class FusedRMSNorm(Kernel):
    """A root-mean-square norm, kept in floating point."""

    steps: ClassVar[tuple[str, ...]] = ("rms_norm",)


class FusedAdaptiveAvgPool2d(Kernel):
    """An adaptive average pooling: (N, C, H, W) to (N, C, *output_size)."""

    steps: ClassVar[tuple[str, ...]] = ("pool",)
