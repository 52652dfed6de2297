"""Findings and kernels of one kind together."""

from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any

Entry = Mapping[str, Any]


def grouped_findings(page: Entry) -> list[dict[str, Any]]:
    """Findings by rule and severity, in the order given; those of a prediction count once."""
    said = (page["check"] or {}).get("findings") or (page["explanation"] or {}).get("refusals", ())
    return [
        {**found[0], "places": found}
        for found in _groups(said, lambda one: (one["rule"], one["severity"]))
    ]


def grouped_kernels(kernels: Iterable[Entry]) -> list[dict[str, Any]]:
    """Kernels of one rule, kind, type and basis."""
    key = lambda one: (one["rules"][0], one["kind"], one["dtype"], one["basis"])  # noqa: E731
    return [
        {
            **found[0],
            "rule": found[0]["rules"][0],
            "count": len(found),
            "macs": sum(one["macs"] or 0 for one in found),
            "first": found[0]["head"],
        }
        for found in _groups(kernels, key)
    ]


def grouped_reasons(kernels: Iterable[Entry]) -> list[dict[str, Any]]:
    """What there is to say of kernels, once for each rule and reason without names."""
    key = lambda one: (one["rules"][0], "'".join(one["reason"].split("'")[::2]))  # noqa: E731
    return [
        {
            **found[0],
            "rule": found[0]["rules"][0],
            "count": len(found),
            "first": found[0]["head"],
        }
        for found in _groups((one for one in kernels if one["reason"]), key)
    ]


def _groups(items: Iterable[Entry], key: Callable[[Entry], Hashable]) -> Iterable[list[Entry]]:
    found: dict[Hashable, list[Entry]] = {}
    for one in items:
        found.setdefault(key(one), []).append(one)
    return found.values()
