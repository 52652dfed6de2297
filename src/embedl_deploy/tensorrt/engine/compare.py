"""The layers of an engine against the kernels that were predicted."""

import enum
from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from embedl_deploy.table import Printed, counted, table
from embedl_deploy.tensorrt.engine.layers import Layer
from embedl_deploy.tensorrt.prediction import Basis, Explanation, Kernel


class Outcome(enum.StrEnum):
    """What became of a predicted kernel.

    One layer; one layer together with other kernels; several layers; one layer in another type; or
    no layer that names its operators, which need not mean that it is gone.
    """

    AS_PREDICTED = "as predicted"
    MERGED = "merged"
    SPLIT = "split"
    RETYPED = "other type"
    UNSEEN = "not named"


@dataclass(frozen=True)
class Held:
    """A predicted kernel and the layers that run it.

    Attributes:
        kernel: As predicted.
        outcome: What became of it.
        layers: Names of the layers that name its operators.
        reads: Types that these read.
    """

    kernel: Kernel
    outcome: Outcome
    layers: tuple[str, ...]
    reads: tuple[str, ...]


@dataclass(frozen=True, repr=False)
class Comparison(Printed):
    """How an engine compares with its prediction; prints as tables.

    Attributes:
        held: One for each predicted kernel.
        reformats: Names of layers that only change type or layout.
        others: Names of layers that name no operator of a predicted kernel.
    """

    held: tuple[Held, ...]
    reformats: tuple[str, ...]
    others: tuple[str, ...]

    @property
    def counts(self) -> Mapping[str, int]:
        """How many kernels there are of each outcome."""
        found = Counter(one.outcome for one in self.held)
        return {outcome.value: found[outcome] for outcome in Outcome if found[outcome]}

    @property
    def broken(self) -> tuple[Held, ...]:
        """Documented predictions that do not hold: split, or in another type."""
        fails = {Outcome.SPLIT, Outcome.RETYPED}
        return tuple(
            one
            for one in self.held
            if one.outcome in fails and one.kernel.basis is Basis.DOCUMENTED
        )

    @property
    def summary(self) -> str:
        """All in one line."""
        said = ", ".join(f"{count} {outcome}" for outcome, count in self.counts.items())
        others = counted(len(self.others), "other layer")
        return (
            f"of {counted(len(self.held), 'predicted kernel')}: {said or 'none'}; "
            f"{counted(len(self.reformats), 'reformat')}, {others}"
        )

    def to_dict(self) -> dict[str, Any]:
        """All of it for JSON."""
        return {
            "counts": self.counts,
            "held": [asdict(one) for one in self.held],
            "broken": [one.kernel.head for one in self.broken],
            "reformats": list(self.reformats),
            "others": list(self.others),
        }

    def _parts(self) -> Sequence[str]:
        rows = [
            (one.outcome.value, one.kernel.rules[0], one.kernel.kind, one.kernel.head, _said(one))
            for one in self.held
            if one.outcome is not Outcome.AS_PREDICTED
        ]
        header = ("Outcome", "Rule", "Kernel", "First at", "Layers")
        return table(header, rows), self.summary


def _said(held: Held) -> str:
    return (
        f"{counted(len(held.layers), 'layer')} reading {', '.join(held.reads) or 'unknown types'}"
    )


def compare_layers(explanation: Explanation, layers: Iterable[Layer]) -> Comparison:
    """What became of every kernel that `explain_onnx` predicts.

    Args:
        explanation: Of the file that the engine was built from.
        layers: From `read_layers`, or a `Built`.
    """
    owners = {name: kernel for kernel in explanation.kernels for name in _computing(kernel)}
    known = tuple(replace(one, nodes=_named(one.nodes, owners)) for one in layers)
    by_node: dict[str, list[Layer]] = defaultdict(list)
    for layer in known:
        for name in layer.nodes:
            by_node[name].append(layer)
    held = tuple(_held(kernel, by_node, owners) for kernel in explanation.kernels)
    taken = {name for one in held for name in one.layers}
    left = [one for one in known if one.name not in taken]
    return Comparison(
        held=held,
        reformats=tuple(one.name for one in left if one.is_reformat),
        others=tuple(one.name for one in left if not one.is_reformat),
    )


def _named(nodes: Iterable[str], owners: Container[str]) -> tuple[str, ...]:
    """The parser calls an operator without a name after what it makes, `node_of_…`."""
    return tuple(one if one in owners else one.removeprefix("node_of_") for one in nodes)


def _computing(kernel: Kernel) -> Sequence[str]:
    """Its operators without Q/DQ that others take in."""
    folded = set(kernel.folded)
    return [name for name in kernel.nodes if name not in folded]


def _held(
    kernel: Kernel, by_node: Mapping[str, Sequence[Layer]], owners: Mapping[str, Kernel]
) -> Held:
    naming = [one for name in _computing(kernel) for one in by_node.get(name, ())]
    computing = [one for one in naming if not one.is_reformat]
    if not computing and not kernel.macs:
        computing = naming  # Q by itself may be a reformat
    layers = {one.name: one for one in computing}
    reads = tuple(dict.fromkeys(kind for one in layers.values() for kind in one.reads))
    return Held(
        kernel, _outcome(kernel, list(layers.values()), reads, owners), tuple(layers), reads
    )


def _outcome(
    kernel: Kernel, layers: Sequence[Layer], reads: Sequence[str], owners: Mapping[str, Kernel]
) -> Outcome:
    if not layers:
        return Outcome.UNSEEN
    if len(layers) > 1:
        return Outcome.SPLIT
    if kernel.macs and kernel.dtype and reads and kernel.dtype not in reads:
        return Outcome.RETYPED
    others = [owners[name] for name in layers[0].nodes if name in owners]
    return Outcome.MERGED if any(one is not kernel for one in others) else Outcome.AS_PREDICTED
