"""Batch norms whose statistics no training changes."""

from typing import Self

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from embedl_deploy.modules.base import LeafModule


class FrozenBatchNorm(LeafModule, _BatchNorm):
    """Stays in eval mode, so that it takes its running statistics and leaves them."""

    def train(self, mode: bool = True) -> Self:  # noqa: FBT001, FBT002 - torch's signature
        return super().train(mode=False)


class FrozenBatchNorm1d(FrozenBatchNorm, nn.BatchNorm1d):
    """A batch norm whose statistics no training changes."""


class FrozenBatchNorm2d(FrozenBatchNorm, nn.BatchNorm2d):
    """A batch norm whose statistics no training changes."""


class FrozenBatchNorm3d(FrozenBatchNorm, nn.BatchNorm3d):
    """A batch norm whose statistics no training changes."""


class FrozenSyncBatchNorm(FrozenBatchNorm, nn.SyncBatchNorm):
    """A batch norm whose statistics no training changes."""


FROZEN: dict[type[nn.Module], type[FrozenBatchNorm]] = {
    nn.BatchNorm1d: FrozenBatchNorm1d,
    nn.BatchNorm2d: FrozenBatchNorm2d,
    nn.BatchNorm3d: FrozenBatchNorm3d,
    nn.SyncBatchNorm: FrozenSyncBatchNorm,
}
