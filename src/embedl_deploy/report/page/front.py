"""The chart of placements: cost to the right, signal to noise upwards."""

from collections.abc import Mapping, Sequence
from typing import Any

WIDTH, HEIGHT = 720, 320
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 24, 16, 44
_TICKS = 4
_UNITS = {"time": "µs", "bytes": "MB"}


def front_chart(tuning: Mapping[str, Any]) -> dict[str, Any]:
    """Where the points of the front and the line of half precision are, in units of the drawing.

    Args:
        tuning: From `Tuning.to_dict`.
    """
    unit = _UNITS[tuning["unit"]] if tuning["compiler"] else ""
    half = tuning["half"]["value"]
    known = [one for one in tuning["front"] if one["accuracy"]["sqnr_db"] is not None]
    costs = _span([half, *(one["cost"]["value"] for one in known)])
    sqnrs = _span([one["accuracy"]["sqnr_db"] for one in known] or [0.0])
    x, y = _scale(costs, _LEFT, WIDTH - _RIGHT), _scale(sqnrs, HEIGHT - _BOTTOM, _TOP)
    points = [
        {
            "x": x(one["cost"]["value"]),
            "y": y(one["accuracy"]["sqnr_db"]),
            "best": one == tuning["best"],
            "text": f"{one['cost']['value']:.1f} {unit} at {one['accuracy']['sqnr_db']:.1f} dB",
        }
        for one in known
    ]
    return {
        "width": WIDTH,
        "height": HEIGHT,
        "points": points,
        "path": " ".join(f"{one['x']},{one['y']}" for one in points),
        "half": {
            "x": x(half),
            "text": f"{tuning['precision']}, {half:.1f} {unit}",
            "before": x(half) > WIDTH / 2,
        },
        "across": [{"x": x(one), "text": f"{one:.4g}"} for one in _ticks(costs)],
        "up": [{"y": y(one), "text": f"{one:.0f} dB"} for one in _ticks(sqnrs)],
        "left": _LEFT,
        "right": WIDTH - _RIGHT,
        "top": _TOP,
        "bottom": HEIGHT - _BOTTOM,
        "unit": unit,
    }


def _span(values: Sequence[float]) -> tuple[float, float]:
    """The least and the largest value, with some room."""
    low, high = min(values), max(values)
    room = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    return low - room, high + room


def _scale(span: tuple[float, float], start: float, end: float) -> Any:
    """Gives the place of a value between two places."""
    low, high = span
    return lambda value: round(start + (value - low) / (high - low) * (end - start), 1)


def _ticks(span: tuple[float, float]) -> list[float]:
    low, high = span
    return [low + (high - low) * (index + 0.5) / _TICKS for index in range(_TICKS)]
