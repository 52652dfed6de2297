"""What a check found."""

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from embedl_deploy.table import Printed, counted, table
from embedl_deploy.tensorrt.rules.rule import Rule, Severity


@dataclass(frozen=True)
class Finding:
    """A rule that is broken at a place.

    Attributes:
        rule: Its id.
        severity: How bad it is.
        message: What is wrong.
        nodes: Names of the nodes at fault; of one without a name, what it makes.
        why: What happens otherwise.
        source: Where that is written.
        remedy: What to do.
    """

    rule: str
    severity: Severity
    message: str
    nodes: tuple[str, ...]
    why: str
    source: str
    remedy: str


@dataclass(frozen=True)
class Unjudged:
    """Where a rule could not tell.

    Attributes:
        rule: Its id.
        reason: Why.
        nodes: Names of the nodes.
    """

    rule: str
    reason: str
    nodes: tuple[str, ...]


@dataclass(frozen=True, repr=False)
class Report(Printed):
    """The outcome of `check_onnx`; prints as tables.

    Attributes:
        path: The file.
        version: Of TensorRT.
        opset: Of the file.
        findings: Errors first, then by rule and in the order of the graph.
        unjudged: What is not known.
        rules: Ids of the rules that were run.
        ignored: Ids of those that were left out as asked for.
    """

    path: Path
    version: str
    opset: int
    findings: tuple[Finding, ...]
    unjudged: tuple[Unjudged, ...]
    rules: tuple[str, ...]
    ignored: tuple[str, ...]

    @property
    def errors(self) -> tuple[Finding, ...]:
        """With these the file is refused, or computes something else than it says."""
        return self._of(Severity.ERROR)

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """These cost speed."""
        return self._of(Severity.WARNING)

    @property
    def infos(self) -> tuple[Finding, ...]:
        """These are worth knowing, or contested."""
        return self._of(Severity.INFO)

    @property
    def ok(self) -> bool:
        """Whether there are no errors."""
        return not self.errors

    @property
    def summary(self) -> str:
        """All in one line."""
        counts = (
            (self.errors, "error"),
            (self.warnings, "warning"),
            (self.infos, "note"),
        )
        said = ", ".join(counted(len(found), word) for found, word in counts)
        open_ = len({one.rule for one in self.unjudged})
        unknown = f"; {counted(open_, 'rule')} could not judge every place" if open_ else ""
        rules = counted(len(self.rules), "rule")
        return f"{said} by {rules} for TensorRT {self.version}{unknown}"

    def to_dict(self) -> dict[str, Any]:
        """All of it for JSON."""
        return {
            "path": str(self.path),
            "version": self.version,
            "opset": self.opset,
            "ok": self.ok,
            "errors": len(self.errors),
            "warnings": len(self.warnings),
            "infos": len(self.infos),
            "findings": [asdict(one) for one in self.findings],
            "unjudged": [asdict(one) for one in self.unjudged],
            "rules": list(self.rules),
            "ignored": list(self.ignored),
        }

    def _parts(self) -> Sequence[str]:
        found = [
            (rule, severity.value, str(count), place, message)
            for (rule, severity), count, place, message in _grouped(
                ((one.rule, one.severity), one.nodes, one.message) for one in self.findings
            )
        ]
        unknown = [
            (rule, str(count), place, reason)
            for (rule, _), count, place, reason in _grouped(
                ((one.rule, one.reason), one.nodes, one.reason) for one in self.unjudged
            )
        ]
        return (
            table(("Rule", "Severity", "Count", "First at", "What the first is"), found),
            table(("Not judged", "Count", "First at", "Why"), unknown),
            self.summary,
        )

    def _of(self, severity: Severity) -> tuple[Finding, ...]:
        return tuple(one for one in self.findings if one.severity is severity)


def _grouped(
    entries: "Iterable[tuple[Any, tuple[str, ...], str]]",
) -> list[tuple[Any, int, str, str]]:
    """By key how many there are, and place and text of the first."""
    groups: dict[Hashable, list[tuple[str, str]]] = {}
    for key, nodes, text in entries:
        groups.setdefault(key, []).append((nodes[0] if nodes else "the file", text))
    return [(key, len(found), *found[0]) for key, found in groups.items()]


def finding(
    rule: Rule, message: str, nodes: tuple[str, ...], severity: Severity | None = None
) -> Finding:
    """What a rule says of a place."""
    return Finding(
        rule.id, severity or rule.severity, message, nodes, rule.why, rule.source, rule.remedy
    )
