"""Checking a file against all rules."""

from collections.abc import Collection, Sequence
from pathlib import Path

from embedl_deploy.errors import CheckError
from embedl_deploy.onnx_model import OnnxFile
from embedl_deploy.tensorrt.rules.catalog import RULES
from embedl_deploy.tensorrt.rules.report import Finding, Report, Unjudged, finding
from embedl_deploy.tensorrt.rules.rule import Fault, Rule, Severity, Subject
from embedl_deploy.tensorrt.version import Version

_ORDER = tuple(Severity)


def check_onnx(
    path: str | Path | OnnxFile,
    version: str = "11.x",
    *,
    ignore: Collection[str] = (),
    keep_float32: Collection[str] = (),
) -> Report:
    """What TensorRT will not take, or run slowly, in an ONNX file of any tool.

    The file alone is read: TensorRT is not needed, and weights are not loaded unless a rule
    needs their values.

    Args:
        path: The file, or one that is open, which `explain_onnx` may take too.
        version: Of TensorRT: 10.x, 11.x, or an exact one such as 10.12.
        ignore: Ids of rules to leave out.
        keep_float32: Names, patterns for names such as `"*.softmax/*"`, or operator types of nodes
            that are meant to stay in float32 in a half-precision file.

    Returns:
        All that was found, and what could not be judged.

    Raises:
        CheckError: The file cannot be read, is no sound graph, or the version or an id is unknown.
        MissingExtraError: The packages of the `onnx` extra are not installed.
    """
    wanted = Version.parse(version)
    unknown = sorted(set(ignore) - {rule.id for rule in RULES})
    if unknown:
        known = ", ".join(rule.id for rule in RULES)
        raise CheckError(f"there is no rule '{unknown[0]}'; the ids are {known}")
    file = OnnxFile.open(path)
    run = [rule for rule in RULES if rule.id not in ignore]
    graph = file.view.graph
    with file.judged():
        findings, unjudged = found(run, Subject(graph, wanted, frozenset(keep_float32)))
    return Report(
        path=file.path,
        version=str(wanted),
        opset=graph.opset,
        findings=tuple(sorted(findings, key=lambda one: _ORDER.index(one.severity))),
        unjudged=tuple(unjudged),
        rules=tuple(rule.id for rule in run),
        ignored=tuple(rule.id for rule in RULES if rule.id in ignore),
    )


def found(rules: Sequence[Rule], subject: Subject) -> tuple[list[Finding], list[Unjudged]]:
    """What rules find in a graph, and what they cannot judge."""
    findings, unjudged = [], []
    for rule in rules:
        for one in rule.check(subject):
            nodes = tuple(node.label for node in one.nodes)
            if isinstance(one, Fault):
                findings.append(finding(rule, one.what, nodes, one.severity))
            else:
                unjudged.append(Unjudged(rule.id, one.why, nodes))
    return findings, unjudged
