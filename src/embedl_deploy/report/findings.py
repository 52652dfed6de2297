"""The findings of the rule checker for the terminal."""

import re
from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from embedl_deploy.report.blocks import groups, hanging
from embedl_deploy.table import counted
from embedl_deploy.tensorrt import Finding, Report, Severity

_MOST = 4
"""Other things that a rule says which are shown."""

_VARYING = re.compile(r"'[^']*'|[\d.]+(e[-+]\d+)?")
_NOTES = {
    Severity.ERROR: ("Errors", "TensorRT refuses the file, or computes something else", "red"),
    Severity.WARNING: ("Warnings", "it runs slower than it could", "yellow"),
    Severity.INFO: ("Notes", "worth knowing, or contested", "cyan"),
}


def report_tables(report: Report, *, every: bool = False) -> Iterator[RenderableType]:
    """What was found, by severity; one entry for each rule, or with `every` for each place.

    Args:
        report: From `check_onnx`.
        every: Whether to list each place by itself.
    """
    for severity, (title, note, style) in _NOTES.items():
        found = [one for one in report.findings if one.severity is severity]
        if found:
            yield Text.assemble((title, f"bold {style}"), (f" – {note}", "dim"))
            for count, first in groups(found, lambda one: one.rule, every=every):
                other = () if every else _others(first, found)
                more = (*other, *_advice(first))
                yield _entry(count, first.rule, first.message, first.nodes, more)
            yield Text()
    if report.unjudged:
        yield Text.assemble(("Not judged", "bold"), (" – the file does not say enough", "dim"))
        key = lambda one: (one.rule, one.reason)  # noqa: E731
        for count, open_ in groups(report.unjudged, key, every=every):
            yield _entry(count, open_.rule, open_.reason, open_.nodes, ())
        yield Text()


def _others(first: Finding, found: Sequence[Finding]) -> Iterator[str]:
    """What else the rule says; what differs in names and numbers alone is the same."""
    of_rule = [one for one in found if one.rule == first.rule]
    kinds = groups(of_rule, lambda one: _VARYING.sub("", one.message), every=False)
    rest = kinds[1:]
    for count, one in rest[:_MOST]:
        yield f"also: {one.message}{_where(count, one.nodes)}"
    if len(rest) > _MOST:
        yield f"and {counted(len(rest) - _MOST, 'other kind')} (--all)"


def _advice(finding: Finding) -> tuple[str, ...]:
    return f"{finding.why} [{finding.source}]", finding.remedy


def _entry(
    count: int, rule: str, what: str, nodes: Sequence[str], more: Sequence[str]
) -> RenderableType:
    head = Text.assemble(what, (_where(count, nodes), "dim"))
    start = Text.assemble(f"{count:>5}  ", (rule, "bold"))
    return hanging(start, Group(head, *(Text(text) for text in more)))


def _where(count: int, nodes: Sequence[str]) -> str:
    place = nodes[0] if nodes else "the file"
    return f" at {place}" if count == 1 else f", first at {place}"
