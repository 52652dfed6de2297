"""What was rescaled, and what was left and why."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from embedl_deploy.quantize.correcting.rescale.channels import Channels
from embedl_deploy.quantize.correcting.rescale.classes import ZERO
from embedl_deploy.table import Printed, table


@dataclass(frozen=True)
class RescalingRow:
    """An input of a layer, and what happened to its channels.

    Attributes:
        path: Of the fused module that reads it.
        arguments: Its names there, such as `"input"`, or `"query"`, `"key"` and `"value"`.
        channels: How many of its channels have a factor; 0 where it was left as it is.
        smallest: The smallest factor; the weights that read the channel have the inverse.
        largest: The largest factor.
        reason: Why it was left; empty otherwise.
    """

    path: str
    arguments: tuple[str, ...]
    channels: int
    smallest: float
    largest: float
    reason: str


@dataclass(frozen=True, repr=False)
class Rescaling(Printed):
    """What `smooth` or `equalize` did; prints as a table.

    Attributes:
        rows: One for each quantized input of a layer with weights, and for queries and keys, in
            the order in which they run.
    """

    rows: tuple[RescalingRow, ...]

    @property
    def scaled(self) -> tuple[RescalingRow, ...]:
        """The rows of what was changed."""
        return tuple(row for row in self.rows if row.channels)

    @property
    def left(self) -> tuple[RescalingRow, ...]:
        """The rows of what was left as it is."""
        return tuple(row for row in self.rows if not row.channels)

    def _parts(self) -> Sequence[str]:
        header = ("Layer", "Input", "Channels", "Factors", "Left since")
        return (table(header, [_cells(row) for row in self.rows]),)


def rescaling(channels: Channels, factors: Tensor) -> Rescaling:
    """The report on factors that were put in."""
    return Rescaling(tuple(_rows(channels, factors)))


def _rows(channels: Channels, factors: Tensor) -> Iterator[RescalingRow]:
    for one in channels.readings:
        if not one.quantized or not (one.weighted or one.ranged):
            continue
        labels, reason = one.labels, one.reason
        if labels is not None:
            labels = labels[labels != ZERO]
            reason = channels.classes.reason(labels)
        if reason or labels is None:
            yield RescalingRow(one.path, one.arguments, 0, 1.0, 1.0, reason)
            continue
        own = factors[labels.long()]
        smallest, largest = (float(end) for end in own.aminmax())
        yield RescalingRow(one.path, one.arguments, own.numel(), smallest, largest, "")


def _cells(row: RescalingRow) -> tuple[str, ...]:
    factors = f"{row.smallest:.3g} to {row.largest:.3g}" if row.channels else ""
    return row.path, ", ".join(row.arguments), str(row.channels or ""), factors, row.reason
