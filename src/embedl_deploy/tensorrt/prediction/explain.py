"""Predicting the kernels of a file."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from embedl_deploy.onnx_model import OnnxFile
from embedl_deploy.onnx_model.graph import Node
from embedl_deploy.onnx_model.view import View
from embedl_deploy.tensorrt.prediction.catalog import FUSIONS
from embedl_deploy.tensorrt.prediction.macs import multiplies, multiply_accumulates
from embedl_deploy.tensorrt.prediction.plan import Plan
from embedl_deploy.tensorrt.prediction.report import Aside, Explanation, Kernel
from embedl_deploy.tensorrt.prediction.rule import Group
from embedl_deploy.tensorrt.rules.catalog import RULES
from embedl_deploy.tensorrt.rules.check import found
from embedl_deploy.tensorrt.rules.rule import Severity, Subject
from embedl_deploy.tensorrt.version import Version

_REFUSING = tuple(rule for rule in RULES if rule.severity is Severity.ERROR)


def explain_onnx(
    path: str | Path | OnnxFile,
    version: str = "11.x",
    *,
    shapes: Mapping[str, Sequence[int]] | None = None,
) -> Explanation:
    """Which kernels TensorRT is expected to run for an ONNX file of any tool, and in which types.

    The file alone is read: TensorRT is not needed. Each prediction names the rule that it follows
    and how well that is founded; every operator is in exactly one kernel, or in what takes none.

    Args:
        path: The file, or one that is open, which `check_onnx` may take too.
        version: Of TensorRT: 10.x, 11.x, or an exact one such as 10.12.
        shapes: Shapes of inputs by name, where the file leaves sizes open; of the only input under
            an empty name. An open first size is taken as 1.

    Raises:
        CheckError: The file cannot be read, is no sound graph, the version is unknown, or a shape
            does not fit.
        MissingExtraError: The packages of the `onnx` extra are not installed.
    """
    wanted, file = Version.parse(version), OnnxFile.open(path).with_shapes(shapes or {})
    view = Subject(file.view.graph, wanted)
    with file.judged():
        refusals, _ = found(_REFUSING, view)
        plan = predict(view)
    groups = _in_order(plan)
    counted = [node for node in view.graph if multiplies(node) and plan.group_runs(node)]
    return Explanation(
        path=file.path,
        version=str(wanted),
        opset=view.graph.opset,
        kernels=tuple(_kernel(group) for group in groups if group.rule.runs),
        asides=tuple(_aside(group) for group in groups if not group.rule.runs),
        uncounted=tuple(one.label for one in counted if multiply_accumulates(one) is None),
        assumed=file.assumed,
        refusals=tuple(one for one in refusals if one.severity is Severity.ERROR),
    )


def _in_order(plan: Plan) -> list[Group]:
    """Groups and their operators in the order of the file."""
    for group in plan.groups:
        group.nodes.sort(key=plan.place)
    return sorted(plan.groups, key=lambda group: plan.place(group.nodes[0]))


def predict(view: View) -> Plan:
    """Every node of a graph in a group, by the rules in their order."""
    plan = Plan(view)
    for rule in FUSIONS:
        for one in rule.find(plan):
            plan.take(rule, one)
    return plan


def _kernel(group: Group) -> Kernel:
    counts = [multiply_accumulates(node) for node in group.nodes if multiplies(node)]
    known = [count for count in counts if count is not None]
    return Kernel(
        kind=group.rule.kind,
        rules=tuple(rule.id for rule in group.rules),
        nodes=_labels(group.nodes),
        folded=_labels(group.folded),
        dtype=group.dtype,
        macs=sum(known) if len(known) == len(counts) else None,
        basis=group.basis,
        reason="; ".join(dict.fromkeys(group.reasons)),
        head=(group.head or group.nodes[0]).label,
    )


def _aside(group: Group) -> Aside:
    return Aside(group.rule.kind, group.rule.id, _labels(group.nodes), group.basis)


def _labels(nodes: Iterable[Node]) -> tuple[str, ...]:
    return tuple(node.label for node in nodes)
