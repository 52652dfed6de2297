"""Labels of values: which channel each value of a tensor belongs to.

A tensor of labels broadcasts against the tensor that it describes, from the last dimension on:
(C, 1, 1) for the channels of a convolution, (C) for those of a linear layer. A dimension along
which all labels are the same has size 1.
"""

from collections.abc import Sequence

from torch import Tensor

from embedl_deploy.quantize.correcting.rescale.classes import ZERO


def channels_last(tensor: Tensor, axes: Sequence[int]) -> Tensor:
    """The tensor with its channels in the last dimension; those of several axes become one."""
    ends = range(-len(axes), 0)
    return tensor.movedim([*axes], [*ends]).flatten(-len(axes))


def along(labels: Tensor, axes: Sequence[int], sizes: Sequence[int]) -> Tensor | None:
    """One label for each channel; `None` where the values of a channel have several.

    Zeros have any.

    Args:
        labels: Of a tensor.
        axes: Its channels' dimensions, counted from the last.
        sizes: Their sizes.
    """
    labels = ranked(labels, max(-axis for axis in axes) + 1)
    shape = [*labels.shape]
    for axis, size in zip(axes, sizes, strict=True):
        if shape[axis] not in (1, size):
            return None
        shape[axis] = size
    rows = channels_last(labels.expand(shape), axes).flatten(0, -2)
    found = rows.amax(0)
    return found if bool(((rows == found) | (rows == ZERO)).all()) else None


def ranked(labels: Tensor, rank: int) -> Tensor:
    """Labels with at least that many dimensions."""
    return labels[(None,) * (rank - labels.dim())] if labels.dim() < rank else labels


def collapsed(labels: Tensor) -> Tensor:
    """Labels with size 1 along every dimension along which they are the same."""
    for dim in range(labels.dim()):
        if labels.shape[dim] > 1:
            first = labels.narrow(dim, 0, 1)
            labels = first if bool((labels == first).all()) else labels
    return labels
