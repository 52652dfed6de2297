"""What a rule of fusion claims, and what one finds."""

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field

from embedl_deploy.onnx_model.graph import Node
from embedl_deploy.onnx_model.view import DEQUANTIZE, QUANTIZE


class Basis(enum.StrEnum):
    """How well a prediction is founded: on TensorRT for RTX, on documentation, reports, a guess."""

    COMPILED = "compiled"
    DOCUMENTED = "documented"
    REPORTED = "reported"
    ASSUMED = "assumed"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Claim:
    """What a rule says that TensorRT runs as one.

    Attributes:
        id: K for kernels and what computes in them, Q for Q/DQ that they fuse, N for what takes
            none.
        kind: Of the kernel, in a word or two; empty for what another kernel fuses.
        title: What is run as one.
        basis: How well that is founded, where a place does not say otherwise.
        source: Where that is written.
        runs: Whether something is launched for it.
    """

    id: str
    kind: str
    title: str
    basis: Basis
    source: str
    runs: bool = field(default=True, kw_only=True)


@dataclass(frozen=True)
class Found:
    """A place where a rule of fusion holds.

    Attributes:
        nodes: Operators in order.
        dtype: What they compute in; empty where that is not known or they compute nothing.
        quantized: Whether they read quantized values.
        into: The group that takes them in; None for a group of their own.
        open: Why no Q can be taken in after them; empty where it can.
        reason: What there is to say of this place.
        basis: If another than the rule's.
    """

    nodes: Sequence[Node]
    dtype: str = ""
    quantized: bool = False
    into: "Group | None" = None
    open: str = ""
    reason: str = ""
    basis: Basis | None = None


@dataclass(eq=False)
class Group:
    """Operators that run as one.

    Attributes:
        rule: By which.
        nodes: All its operators.
        dtype: As found.
        quantized: As found.
        open: As found.
        reasons: As found, also of what was taken in.
        basis: As found, or the rule's.
        rules: The rule, and those by which something was taken in.
        head: The first operator that the rule took, but for Q/DQ.
    """

    rule: Claim
    nodes: list[Node]
    dtype: str
    quantized: bool
    open: str
    reasons: list[str]
    basis: Basis
    rules: list[Claim] = field(default_factory=list)

    head: Node | None = None

    @property
    def folded(self) -> list[Node]:
        """Q/DQ that other operators fuse."""
        pairs = [node for node in self.nodes if is_pair(node)]
        return pairs if len(pairs) < len(self.nodes) else []


def is_pair(node: Node) -> bool:
    """Whether it is Q or DQ."""
    return node.op in {QUANTIZE, DEQUANTIZE} and not node.domain
