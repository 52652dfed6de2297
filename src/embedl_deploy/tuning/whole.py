"""A model with everything quantized in one way."""

import gc
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from torch import fx, nn

from embedl_deploy.quantize import QuantConfig, calibrate, insert_qdq
from embedl_deploy.tuning.groups import Group, quantizers_by_group


class Whole:
    """A model with everything quantized in one way, made when it is first asked for.

    Args:
        source: The transformed model.
        config: How to quantize it.
        learned: Batches that calibrate.
        groups: Of the model.
    """

    def __init__(
        self,
        source: fx.GraphModule,
        config: QuantConfig,
        learned: Sequence[Sequence[Any]],
        groups: Sequence[Group],
    ) -> None:
        self.source, self.config, self.learned, self.groups = source, config, learned, groups

    @cached_property
    def placed(self) -> fx.GraphModule:
        """Without scales, until `calibrated` gives it some."""
        gc.collect()  # graph modules are in circles, and hold the weights of the one before
        return insert_qdq(self.source, self.config)

    @cached_property
    def calibrated(self) -> fx.GraphModule:
        """The same object."""
        return calibrate(self.placed, self.learned)

    @cached_property
    def quantizers(self) -> dict[str, set[nn.Module]]:
        """By name of the group; a group that is not quantized so has none."""
        return quantizers_by_group(self.placed, self.groups)
