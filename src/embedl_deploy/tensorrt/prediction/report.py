"""What is expected of a file, in figures."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from embedl_deploy.table import Printed, amount, counted, percent, table
from embedl_deploy.tensorrt.prediction.rule import Basis
from embedl_deploy.tensorrt.rules.report import Finding


@dataclass(frozen=True)
class Kernel:
    """Operators that are expected to run as one kernel.

    Attributes:
        kind: Such as convolution.
        rules: Ids of the rules that say so, that of the kernel first.
        nodes: Names of its operators, in the order of the file.
        folded: Names of the Q/DQ among them, which take no kernel.
        dtype: What it computes in, such as INT8 or FP16; empty where that is not known.
        macs: Its multiply-accumulates; None where sizes are not known.
        basis: How well the prediction is founded.
        reason: What there is to say of this one.
        head: The operator that the first rule is about.
    """

    kind: str
    rules: tuple[str, ...]
    nodes: tuple[str, ...]
    folded: tuple[str, ...]
    dtype: str
    macs: int | None
    basis: Basis
    reason: str
    head: str


@dataclass(frozen=True)
class Aside:
    """Operators for which nothing is expected to be launched.

    Attributes:
        kind: Such as constant or view.
        rule: Id of the rule that says so.
        nodes: Names of the operators, in the order of the file.
        basis: How well that is founded.
    """

    kind: str
    rule: str
    nodes: tuple[str, ...]
    basis: Basis


@dataclass(frozen=True, repr=False)
class Explanation(Printed):
    """The outcome of `explain_onnx`; prints as tables.

    Attributes:
        path: The file.
        version: Of TensorRT.
        opset: Of the file.
        kernels: In the order of the file.
        asides: What takes no kernel.
        uncounted: Names of operators that multiply, and whose sizes are not known.
        assumed: Sizes that the file leaves open, in words.
        refusals: Why TensorRT refuses the file as it is: errors by the rules of `check_onnx`.
    """

    path: Path
    version: str
    opset: int
    kernels: tuple[Kernel, ...]
    asides: tuple[Aside, ...]
    uncounted: tuple[str, ...]
    assumed: tuple[str, ...]
    refusals: tuple[Finding, ...]

    @property
    def counts(self) -> Mapping[str, int]:
        """How many kernels of each kind there are, most frequent first."""
        return dict(Counter(one.kind for one in self.kernels).most_common())

    @property
    def macs(self) -> Mapping[str, int]:
        """Multiply-accumulates by the type that they are computed in, the most first."""
        found: Counter[str] = Counter()
        for one in self.kernels:
            found[one.dtype or "unknown"] += one.macs or 0
        return {dtype: count for dtype, count in found.most_common() if count}

    @property
    def shares(self) -> Mapping[str, float]:
        """The share of each type in those multiply-accumulates that are known."""
        total = sum(self.macs.values())
        return {dtype: count / total for dtype, count in self.macs.items()}

    @property
    def summary(self) -> str:
        """All in one line."""
        nodes = sum(len(one.nodes) for one in self.kernels)
        nodes += sum(len(one.nodes) for one in self.asides)
        bases = Counter(one.basis for one in self.kernels)
        founded = ", ".join(f"{bases[basis]} {basis}" for basis in Basis if bases[basis])
        founded = f" ({founded})" if founded else ""
        kernels = counted(len(self.kernels), "kernel")
        return f"{kernels}{founded} for {counted(nodes, 'operator')}; {self.arithmetic}"

    @property
    def arithmetic(self) -> str:
        """The types of the multiply-accumulates in words."""
        total = sum(self.macs.values())
        said = ", ".join(f"{percent(share)} in {dtype}" for dtype, share in self.shares.items())
        left = f"{counted(len(self.uncounted), 'operator')} not counted" if self.uncounted else ""
        if not said:
            return f"multiply-accumulates are not known; {left}" if left else "nothing multiplies"
        of = "of those that are known, " if left else ""
        text = f"{amount(total)} multiply-accumulates: {of}{said}"
        return f"{text}; {left}, such as '{self.uncounted[0]}'" if left else text

    def to_dict(self) -> dict[str, Any]:
        """All of it for JSON."""
        return {
            "path": str(self.path),
            "version": self.version,
            "opset": self.opset,
            "counts": self.counts,
            "macs": self.macs,
            "shares": self.shares,
            "kernels": [asdict(one) for one in self.kernels],
            "asides": [asdict(one) for one in self.asides],
            "uncounted": list(self.uncounted),
            "assumed": list(self.assumed),
            "refusals": [asdict(one) for one in self.refusals],
        }

    def _parts(self) -> Sequence[str]:
        total = sum(self.macs.values())
        rows = [
            (*key, str(len(found)), share_of(found, total), found[0].basis.value, found[0].head)
            for key, found in grouped(self.kernels)
        ]
        free: dict[tuple[str, str], list[Aside]] = {}
        for one in self.asides:
            free.setdefault((one.rule, one.kind), []).append(one)
        others = [
            (*key, str(sum(len(one.nodes) for one in found)), found[0].basis.value)
            for key, found in free.items()
        ]
        share = "Arithmetic known" if self.uncounted else "Arithmetic"
        header = ("Rule", "Kernel", "Type", "Count", share, "Basis", "First at")
        return (
            table(header, rows),
            table(("Rule", "No kernel", "Operators", "Basis"), others),
            "\n".join((*self.notes, self.summary)),
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """What has to be known of the figures: sizes that were assumed, and that the file fails."""
        count = len(self.refusals)
        refused = f"TensorRT refuses the file as it is: {counted(count, 'error')} by check_onnx"
        return (*self.assumed, *([refused] if count else []))


def grouped(kernels: Iterable[Kernel]) -> list[tuple[tuple[str, str, str], Sequence[Kernel]]]:
    """Kernels of one rule, kind, type and basis together, after the first three of them."""
    found: dict[tuple[str, str, str, Basis], list[Kernel]] = {}
    for one in kernels:
        key = (one.rules[0], one.kind, one.dtype or "unknown", one.basis)
        found.setdefault(key, []).append(one)
    return [(key[:3], group) for key, group in found.items()]


def share_of(kernels: Iterable[Kernel], total: int) -> str:
    """What some kernels have of all multiply-accumulates; empty where that is nothing."""
    macs = sum(one.macs or 0 for one in kernels)
    return percent(macs / total) if macs else ""
