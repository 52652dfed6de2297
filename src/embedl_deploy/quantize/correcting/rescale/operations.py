"""What operations do with a factor on a channel of their input."""

from torch import nn

from embedl_deploy.graph.tracer import RANDOM_DEPTH

_DROPOUT = nn.modules.dropout._DropoutNd  # noqa: SLF001 - the base of all dropouts

HOMOGENEOUS = (nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.Identity)
"""Activations for which f(a·x) = a·f(x) for every positive a."""

NORMS = (
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
)
"""What takes no factor but gives one to its result, if it has a weight."""

SPATIAL: dict[type[nn.Module], int] = {
    getattr(nn, f"{kind}{dimensions}d"): dimensions
    for kind in (
        *("AvgPool", "MaxPool", "AdaptiveAvgPool", "AdaptiveMaxPool"),
        *("ReflectionPad", "ReplicationPad", "CircularPad", "ZeroPad"),
    )
    for dimensions in (1, 2, 3)
}
"""What computes each channel of its own, homogeneously, over so many last dimensions."""

REDUCTIONS = frozenset({"mean", "sum", "amax", "amin"})
"""Functions of a tensor, dimensions and whether to keep them, homogeneous in each channel."""

RESAMPLINGS = frozenset(
    {
        *(f"{kind}{n}d" for kind in ("avg_pool", "max_pool") for n in (1, 2, 3)),
        *(f"adaptive_{kind}{n}d" for kind in ("avg_pool", "max_pool") for n in (1, 2, 3)),
        *("interpolate", "upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d"),
        *("upsample_bilinear2d", "upsample_bicubic2d"),
    }
)
"""Functions that do the same over all dimensions but the first two."""

PASSING = frozenset({"abs", "neg", "clone", "detach", "contiguous", "dropout"})
"""Functions of one tensor, homogeneous value by value."""

PRODUCTS = frozenset({"mul", "truediv"})
"""Functions of two that are homogeneous in either, a division in the first alone."""

SUMS = frozenset({"add", "sub"})
"""Functions of two that take a factor where both have it."""

ASKING = frozenset({"size", "dim", "numel"})
"""Methods that ask a tensor for its shape and not for its values."""


def passes(module: nn.Module) -> bool:
    """Whether a factor on a channel of a module's input is one on the same of its result."""
    noise = isinstance(module, _DROPOUT) or type(module).__name__ in RANDOM_DEPTH
    return noise or type(module) in HOMOGENEOUS
