"""What a placement has to keep to, and what says its cost."""

from dataclasses import dataclass
from typing import Annotated, Any

import typer

from embedl_deploy.cli.options import TUNING
from embedl_deploy.tensorrt import TrtexecLatency

_COST = "Of the file at most; the most accurate placement is sought."


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """A bound on accuracy or on cost, and what measures that; the fields are options."""

    min_sqnr: Annotated[
        float | None,
        typer.Option(
            "--min-sqnr",
            metavar="DB",
            rich_help_panel=TUNING,
            help="Signal to noise at the outputs at least.",
        ),
    ] = None
    max_drop: Annotated[
        float | None,
        typer.Option(
            "--max-drop",
            metavar="PERCENT",
            rich_help_panel=TUNING,
            help="Share of samples whose class may change.",
        ),
    ] = None
    max_time: Annotated[
        float | None,
        typer.Option("--max-time", metavar="MICROSECONDS", rich_help_panel=TUNING, help=_COST),
    ] = None
    max_bytes: Annotated[
        float | None,
        typer.Option(
            "--max-bytes",
            metavar="MEGABYTES",
            rich_help_panel=TUNING,
            help=f"{_COST} Bytes moved.",
        ),
    ] = None

    latency: Annotated[
        str | None,
        typer.Option(
            "--latency",
            metavar="COMMAND",
            rich_help_panel=TUNING,
            help="Measure each file on a GPU at hand in place of the estimate, such as by 'trtexec "
            "--stronglyTyped'.",
        ),
    ] = None

    @property
    def bounds(self) -> int:
        """How many there are."""
        each = (self.min_sqnr, self.max_drop, self.max_time, self.max_bytes)
        return sum(one is not None for one in each)

    def check_bounds(self) -> None:
        """Check that there is one at most.

        Raises:
            BadParameter: There are more.
        """
        if self.bounds > 1:
            raise typer.BadParameter(
                "give one of --min-sqnr, --max-drop, --max-time and --max-bytes"
            )
        if self.latency is not None and self.max_bytes is not None:
            raise typer.BadParameter("--latency measures time: give --max-time")

    @property
    def bound(self) -> dict[str, Any]:
        """As `tune` takes it."""
        return {
            "min_sqnr": self.min_sqnr,
            "max_drop": self.max_drop,
            "max_cost": self.max_time if self.max_bytes is None else self.max_bytes,
            "unit": "time" if self.max_bytes is None else "bytes",
            "cost": None if self.latency is None else TrtexecLatency(self.latency),
        }
