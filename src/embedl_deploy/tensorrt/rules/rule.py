"""What a rule is, and what one finds."""

import enum
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase

from embedl_deploy.onnx_model.graph import Graph, Node
from embedl_deploy.onnx_model.view import View
from embedl_deploy.tensorrt.version import Version


class Subject(View):
    """A graph that is judged for a version of TensorRT.

    Args:
        graph: With types.
        version: Of TensorRT.
        kept: Names, patterns for names, or types of nodes that are meant to stay in float32.

    Attributes:
        version: As given.
        kept: As given.
    """

    def __init__(self, graph: Graph, version: Version, kept: frozenset[str] = frozenset()) -> None:
        super().__init__(graph)
        self.version, self.kept = version, kept

    def keeps(self, node: Node) -> bool:
        """Whether a node is meant to stay in float32."""
        return node.op in self.kept or any(fnmatchcase(node.label, one) for one in self.kept)


class Severity(enum.StrEnum):
    """How bad it is: the file fails or computes something else, is slower, or is worth knowing."""

    ERROR = "error"
    WARNING = "warning"
    INFO = "info"


@dataclass(frozen=True)
class Fault:
    """A rule that is broken at some nodes; another severity than the rule's where it is given."""

    what: str
    nodes: tuple[Node, ...] = ()
    severity: Severity | None = None


@dataclass(frozen=True)
class Unknown:
    """A place that a rule could not judge, and why."""

    why: str
    nodes: tuple[Node, ...] = ()


Outcome = Fault | Unknown


@dataclass(frozen=True)
class Rule:
    """One rule of TensorRT.

    Attributes:
        id: Such as F01; F is for the format, T for types, P for placement.
        severity: Of its faults, where a fault does not say otherwise.
        title: What has to hold.
        why: What happens otherwise.
        source: Where that is written.
        remedy: What to do.
        check: Finds the places where it is broken.
    """

    id: str
    severity: Severity
    title: str
    why: str
    source: str
    remedy: str
    check: Callable[[Subject], Iterator[Outcome]]
