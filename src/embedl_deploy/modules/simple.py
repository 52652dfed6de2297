"""Fused modules of one operation without weights to quantize."""

from torch import Tensor, nn

from embedl_deploy.modules.base import FusedModule


class FusedLayerNorm(FusedModule):
    """A layer norm, kept in floating point."""

    def __init__(self, layer_norm: nn.LayerNorm) -> None:
        super().__init__()
        self.layer_norm = layer_norm

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name for it
        """Apply. Shapes: (…, *normalized_shape), unchanged."""
        output: Tensor = self.layer_norm(input)
        return output


class FusedGroupNorm(FusedModule):
    """A group norm, kept in floating point."""

    def __init__(self, group_norm: nn.GroupNorm) -> None:
        super().__init__()
        self.group_norm = group_norm

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name for it
        """Apply. Shapes: (N, C, …), unchanged."""
        output: Tensor = self.group_norm(input)
        return output


class FusedInstanceNorm(FusedModule):
    """An instance norm, kept in floating point."""

    def __init__(self, instance_norm: nn.Module) -> None:
        super().__init__()
        self.instance_norm = instance_norm

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name for it
        """Apply. Shapes: (N, C, …), unchanged."""
        output: Tensor = self.instance_norm(input)
        return output


class FusedRMSNorm(FusedModule):
    """A root-mean-square norm, kept in floating point."""

    def __init__(self, rms_norm: nn.RMSNorm) -> None:
        super().__init__()
        self.rms_norm = rms_norm

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name for it
        """Apply. Shapes: (…, *normalized_shape), unchanged."""
        output: Tensor = self.rms_norm(input)
        return output


class FusedAdaptiveAvgPool2d(FusedModule):
    """An adaptive average pooling."""

    def __init__(self, pool: nn.AdaptiveAvgPool2d) -> None:
        super().__init__()
        self.pool = pool

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name for it
        """Apply. Shapes: (N, C, H, W) to (N, C, *output_size)."""
        output: Tensor = self.pool(input)
        return output
