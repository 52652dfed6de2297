"""How a file compares with a model, for the terminal and for machines."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from embedl_deploy.export import (
    Accuracy,
    Difference,
    Evaluation,
    OrderParity,
    OutputParity,
    Parity,
    StubParity,
)

if TYPE_CHECKING:
    from rich.table import Table


def parity_dict(parity: Parity) -> dict[str, Any]:
    """The figures for JSON; `None` for what was not measured."""
    measured, stubs = parity.rounding_difference is not None, bool(parity.stubs)
    return {
        "sqnr_db": _finite(parity.sqnr_db),
        "largest_difference": _measured(parity, parity.largest_difference),
        "largest_step_difference": _measured(parity, parity.largest_step_difference),
        "largest_stub_difference": parity.largest_stub_difference if stubs else None,
        "differing_share": parity.tie_share if stubs else None,
        "only_ties": parity.only_ties if measured else None,
        "outputs": [difference_dict(name, one) for name, one in parity.outputs.items()],
        "orders": [order_dict(name, one) for name, one in parity.orders.items()],
    }


def answers_dict(parity: Parity, evaluation: Evaluation | None = None) -> dict[str, Any]:
    """What quantization did to the answers, from `compare_onnx`."""
    return {
        "samples": parity.samples,
        "sqnr_db": _finite(parity.sqnr_db),
        "largest_difference": _measured(parity, parity.largest_difference),
        "outputs": [output_dict(name, one) for name, one in parity.outputs.items()],
        "products": [
            {**difference_dict(name, one), "outputs": list(one.outputs)}
            for name, one in parity.products.items()
        ],
        "orders": [order_dict(name, one) for name, one in parity.orders.items()],
        "accuracy": accuracy_dict(parity.accuracy) if parity.accuracy.samples else None,
        "evaluation": None if evaluation is None else _evaluated(evaluation),
    }


def output_dict(name: str, one: OutputParity) -> dict[str, Any]:
    """One output with the agreement of its answers."""
    return {
        **difference_dict(name, one),
        "largest_relative_difference": _measured(one, one.relative),
        "rows": one.rows,
        "same_top1": one.same_top if one.rows else None,
        "agreement": one.agreement,
    }


def accuracy_dict(one: Accuracy) -> dict[str, Any]:
    """Shares of the samples, and between which the true one of the file's top-1 lies."""
    five = one.classes > 5
    return {
        "samples": one.samples,
        "float_top1": one.model_top1 / one.samples,
        "file_top1": one.file_top1 / one.samples,
        "file_top1_interval": list(one.interval(one.file_top1)),
        "float_top1_interval": list(one.interval(one.model_top1)),
        "float_top5": one.model_top5 / one.samples if five else None,
        "file_top5": one.file_top5 / one.samples if five else None,
    }


def difference_dict(name: str, one: Difference) -> dict[str, Any]:
    """The figures of one output."""
    return {
        "name": name,
        "values": one.values,
        "sqnr_db": _finite(one.sqnr_db),
        "largest_difference": _measured(one, one.largest_difference),
        "largest_magnitude": _measured(one, one.largest_output),
    }


def order_dict(name: str, one: OrderParity) -> dict[str, Any]:
    """The figures of an operator that ranks."""
    return {
        "name": name,
        "outputs": list(one.outputs),
        "followed": one.followed,
        "sound": one.sound,
        "picks": one.picks,
        "same_picks": one.same,
        "scores_sqnr_db": _finite(one.sqnr_db),
    }


def stub_dicts(parity: Parity) -> list[dict[str, Any]]:
    """Every stub for JSON, in the order of the file."""
    return [
        {
            "path": one.path,
            "values": one.values,
            "differing": one.differing,
            "largest": one.largest,
            "distance": _finite(one.distance),
            "diverges": one.diverges,
        }
        for one in parity.stubs.values()
    ]


def stub_table(stubs: Sequence[StubParity]) -> "Table":
    """Stubs in the order given; those that differ by more than rounding are marked."""
    from rich.text import Text

    from embedl_deploy.report.blocks import columns

    numbers = ("Differing", "Largest", "Distance")
    table = columns(*numbers, "Place", right=numbers)
    for one in stubs:
        style = "red" if one.diverges else ""
        figures = (f"{one.share:.1e}", f"{one.largest} steps", f"{one.distance:.1e}")
        table.add_row(*figures, Text(one.path, style))
    return table


def _evaluated(one: Evaluation) -> dict[str, dict[str, float | None]]:
    sides = {"model": one.model, "file": one.file}
    return {
        side: {name: _finite(value) for name, value in found.items()}
        for side, found in sides.items()
    }


def _measured(one: Difference, value: float) -> float | None:
    """Nothing where no values were compared."""
    return _finite(value) if one.values else None


def _finite(value: float) -> float | None:
    """JSON has no infinity, and nothing that is no number."""
    return value if math.isfinite(value) else None
