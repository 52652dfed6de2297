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
    """

    def __init__(
        self, source: fx.GraphModule, config: QuantConfig, learned: Sequence[Sequence[Any]]
    ) -> None:
        self.source, self.config, self.learned = source, config, learned

    @cached_property
    def placed(self) -> fx.GraphModule:
        """Without scales, until `calibrated` gives it some."""
        gc.collect()  # graph modules are in circles, and hold the weights of the one before
        return insert_qdq(self.source, self.config)

    @cached_property
    def calibrated(self) -> fx.GraphModule:
        """The same object."""
        return calibrate(self.placed, self.learned)

    def quantizers(self, group: Group) -> set[nn.Module]:
        """Of a group."""
        return quantizers_by_group(self.placed, [group])[group.name]
