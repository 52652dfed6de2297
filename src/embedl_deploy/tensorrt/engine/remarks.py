"""What a compiler says, with the operators that it speaks of."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from embedl_deploy.tensorrt.engine.compilation import Remark
from embedl_deploy.tensorrt.engine.process import Events
from embedl_deploy.tensorrt.rules.rule import Severity

_NO_GPU = "cudaError 35"
"""Said at any error on a machine without a driver; building needs none."""

_SHORTEST = 3


def remarks_of(events: Events, nodes: Iterable[str]) -> tuple[Remark, ...]:
    """Errors first, each once.

    Args:
        events: Of the run.
        nodes: Names of the file's operators.
    """
    known = sorted(nodes, key=len, reverse=True)
    found = Counter(_all(events, known))
    remarks = [Remark(*key, count) for key, count in found.items()]
    return tuple(sorted(remarks, key=lambda one: one.severity is not Severity.ERROR))


def _all(events: Events, known: Sequence[str]) -> Iterator[tuple[Severity, str, str]]:
    if events.failure:
        doing = "read it" if events.parsing else "built the engine"
        message = f"the compiler stopped while it {doing}: {events.failure}"
        yield Severity.ERROR, message, events.parsing
    for message, node in events.refused:
        yield Severity.ERROR, _plain(message), node or _named(message, known)
    errors = [one for one in _said(events, "ERROR") if not events.refused]
    for message in errors:
        severity = Severity.WARNING if events.done else Severity.ERROR
        yield severity, message, _named(message, known)
    if not (events.done or events.failure or events.refused or errors):
        yield Severity.ERROR, "the compiler built nothing and did not say why", ""
    for message in _said(events, "WARNING"):
        yield Severity.WARNING, message, _named(message, known)


def _said(events: Events, level: str) -> list[str]:
    return [
        _plain(message)
        for severity, message in events.said
        if severity.endswith(level) and _NO_GPU not in message
    ]


def _plain(message: str) -> str:
    """Without what repeats the operator, and where in the compiler it was said."""
    lines = [one.strip() for one in message.splitlines()]
    kept = [one for one in lines if _NO_GPU not in one and not one.startswith("Invalid Node - ")]
    text = " ".join(kept or lines)
    return re.sub(r"^\[[^\]]*\.cpp::[^\]]*\] | In \w+ at \S+?:\d+(?=\)|$)", "", text)


def _named(message: str, known: Iterable[str]) -> str:
    """The operator with the longest name in a message."""
    for name in known:
        if len(name) >= _SHORTEST and name in message:
            start = message.index(name)
            around = message[max(0, start - 1) : start] + message[start + len(name) :][:1]
            if not re.search(r"\w", around):
                return name
    return ""
