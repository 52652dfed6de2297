"""What a compiler made of a file."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from embedl_deploy.errors import BuildError
from embedl_deploy.table import Printed, counted, percent, table
from embedl_deploy.tensorrt.engine.cost import Estimate, estimate
from embedl_deploy.tensorrt.engine.gpus import find_gpu
from embedl_deploy.tensorrt.engine.layers import Layer, types_of
from embedl_deploy.tensorrt.engine.products import CompiledAttention, Fate, Product
from embedl_deploy.tensorrt.rules.rule import Severity


@dataclass(frozen=True)
class Remark:
    """What a compiler said of a file.

    Attributes:
        severity: An error stopped it.
        message: Its own words, or how its process ended.
        node: Name of the operator; empty where it names none.
        count: How often it said so.
    """

    severity: Severity
    message: str
    node: str
    count: int = 1


@dataclass(frozen=True, repr=False)
class Compilation(Printed):
    """The outcome of `compile_onnx`; prints as tables.

    Attributes:
        path: The file.
        compiler: Its name and version.
        gpu: The GPU or the compute capability that it was compiled for; empty for the one at hand.
        engine: The engine; None where none was asked for, or built.
        engine_bytes: Its size; 0 where none was built.
        seconds: That the compiler took.
        remarks: What it said, errors first.
        layers: In the order of the engine.
        products: What became of the convolutions and matrix products of the file.
        attentions: What became of its attentions.
        uncounted: Names of its operators that multiply and that no figure of arithmetic has.
    """

    path: Path
    compiler: str
    gpu: str
    engine: Path | None
    engine_bytes: int
    seconds: float
    remarks: tuple[Remark, ...]
    layers: tuple[Layer, ...]
    products: tuple[Product, ...]
    attentions: tuple[CompiledAttention, ...]
    uncounted: tuple[str, ...] = ()

    @property
    def built(self) -> bool:
        """Whether there is an engine; why not is in `errors`."""
        return self.engine_bytes > 0

    @property
    def errors(self) -> tuple[Remark, ...]:
        """What stopped the compiler."""
        return tuple(one for one in self.remarks if one.severity is Severity.ERROR)

    @property
    def kernels(self) -> tuple[Layer, ...]:
        """The layers that do work."""
        return tuple(one for one in self.layers if one.is_kernel)

    @property
    def lost(self) -> tuple[Product, ...]:
        """Products that are computed in a wider type than was simulated."""
        return tuple(one for one in self.products if one.fate is Fate.LOST)

    @property
    def bytes(self) -> int | None:
        """That all kernels read and write; None where a size is open, or nothing was built."""
        sizes = [one.bytes for one in self.kernels]
        known = [one for one in sizes if one is not None]
        return sum(known) if self.built and len(known) == len(sizes) else None

    @property
    def fates(self) -> Mapping[str, int]:
        """How many products there are of each fate."""
        found = Counter(one.fate for one in self.products)
        return {fate.value: found[fate] for fate in Fate if found[fate]}

    @property
    def shares(self) -> Mapping[str, float]:
        """The share of each type in the multiply-accumulates that are known, the most first."""
        found: Counter[str] = Counter()
        for one in self.products:
            found[one.computed or "unknown"] += one.macs or 0
        total = sum(found.values())
        return {dtype: count / total for dtype, count in found.most_common() if count}

    @property
    def attention_kernels(self) -> Mapping[str, int]:
        """How many kernels are a whole attention, by the types that they read."""
        kernels = (one for one in self.layers if one.is_attention)
        return dict(Counter("/".join(one.reads) for one in kernels))

    def estimate(self, gpu: str | None = None) -> Estimate | None:
        """How long the engine may take, by a roofline of its kernels; nothing is run.

        Args:
            gpu: Of the same compute capability; by default that it was compiled for, or the
                GPU in the table that stands for its compute capability.

        Returns:
            None where nothing was built, a size is open, or no peaks are known.

        Raises:
            BuildError: The GPU is unknown, or has another compute capability.
        """
        if not self.gpu and gpu is None:
            return None
        capability, peaks = find_gpu(gpu or self.gpu)
        if self.gpu and capability != find_gpu(self.gpu)[0]:
            raise BuildError(f"the engine was compiled for {self.gpu}, which {gpu} cannot run")
        return estimate(self.layers, peaks) if peaks and self.built else None

    @property
    def summary(self) -> str:
        """All in one line."""
        by = f"{self.compiler}{f' for {self.gpu}' if self.gpu else ''}"
        if not self.built:
            first = self.errors[0]
            where = f" at '{first.node}'" if first.node else ""
            return f"{by} built no engine{where}: {first.message}"
        moved = "" if self.bytes is None else f", {self.bytes / 1e6:.1f} MB moved"
        said = [f"{by}: {counted(len(self.kernels), 'kernel')}{moved}", self._said_products]
        return "; ".join([*said, *self._said_arithmetic, *self._said_attention])

    @property
    def _said_products(self) -> str:
        fates = ", ".join(f"{count} {fate}" for fate, count in self.fates.items())
        return f"of {counted(len(self.products), 'product')} {fates}" if fates else "no products"

    @property
    def _said_arithmetic(self) -> list[str]:
        shares = ", ".join(
            f"{percent(share)} in {'types not known' if dtype == 'unknown' else dtype}"
            for dtype, share in self.shares.items()
        )
        if not self.uncounted:
            return [f"multiply-accumulates: {shares}"] if shares else []
        of = f": of those that are known, {shares}" if shares else " are not known"
        left = counted(len(self.uncounted), "operator")
        return [f"multiply-accumulates{of}", f"{left} not counted, such as '{self.uncounted[0]}'"]

    @property
    def _said_attention(self) -> list[str]:
        whole = [one for one in self.attentions if one.reads]
        if not self.attentions:
            return []
        types = ", ".join("/".join(one) for one in dict.fromkeys(one.reads for one in whole))
        kept = f"{len(whole)} of {counted(len(self.attentions), 'attention')} in one kernel"
        return [f"{kept}, {types}" if types else kept]

    def to_dict(self) -> dict[str, Any]:
        """All of it for JSON; `None` for what there is not without an engine."""
        time = self.estimate() if self.gpu else None
        return {
            "path": str(self.path),
            "compiler": self.compiler,
            "gpu": self.gpu,
            "engine": None if self.engine is None else str(self.engine),
            "engine_bytes": self.engine_bytes or None,
            "built": self.built,
            "seconds": self.seconds,
            "kernels": len(self.kernels) if self.built else None,
            "bytes": self.bytes,
            "fates": self.fates,
            "shares": self.shares,
            "uncounted": self.uncounted,
            "attention_kernels": self.attention_kernels,
            "remarks": [asdict(one) for one in self.remarks],
            "products": [asdict(one) for one in self.products],
            "attentions": [asdict(one) for one in self.attentions],
            "layers": [_described(one) for one in self.layers],
            "estimate": None if time is None else time.to_dict(),
        }

    def _parts(self) -> Sequence[str]:
        return (
            table(("Severity", "Count", "At", "The compiler says"), _remark_rows(self.remarks)),
            table(("Fate", "Simulated", "Computed", "Count", "First at", "Why"), self._rows),
            self.summary,
        )

    @property
    def _rows(self) -> Sequence[tuple[str, ...]]:
        return [
            (*key, str(len(found)), found[0].node, found[0].reason)
            for key, found in grouped_products(self.products).items()
        ]


ProductKey = tuple[str, str, str]
"""Fate, and the types that were simulated and are computed."""


def grouped_products(products: Iterable[Product]) -> dict[ProductKey, list[Product]]:
    """Products of one fate and types together, losses first."""
    order = (Fate.LOST, Fate.UNSEEN, Fate.SPLIT, Fate.MERGED, Fate.KEPT)
    found: dict[ProductKey, list[Product]] = {}
    for one in sorted(products, key=lambda one: order.index(one.fate)):
        key = (one.fate.value, one.simulated, one.computed)
        found.setdefault(key, []).append(one)
    return found


def _remark_rows(remarks: Iterable[Remark]) -> list[tuple[str, ...]]:
    return [
        (one.severity.value, str(one.count), one.node or "the file", one.message.splitlines()[0])
        for one in remarks
    ]


def _described(layer: Layer) -> dict[str, Any]:
    return {
        "name": layer.name,
        "kind": layer.kind,
        "nodes": layer.nodes,
        "reads": layer.reads,
        "constants": types_of(layer.constants),
        "gives": layer.gives,
        "macs": layer.macs,
        "computes": layer.computes,
        "bytes": layer.bytes,
    }
