"""The targets by name, and the one where nothing else is said: the one place that names them."""

from torch import nn

from embedl_deploy.target import Target, target_of
from embedl_deploy.tensorrt import TENSORRT, TENSORRT_RTX

DEFAULT = TENSORRT

TARGETS = {"tensorrt": TENSORRT, "rtx": TENSORRT_RTX}
"""By the names of the command line."""


def target_for(model: nn.Module, given: Target | None = None) -> Target:
    """The target that is given, or else that of the model, or else the default."""
    return given or target_of(model) or DEFAULT
