"""What a rule is, and what one finds."""

import enum
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from embedl_deploy.tensorrt.rules.graph import Node
from embedl_deploy.tensorrt.rules.view import View


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
    check: Callable[[View], Iterator[Outcome]]
