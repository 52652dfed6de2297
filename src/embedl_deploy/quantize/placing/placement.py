"""Where a model is quantized, and why."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import fx

from embedl_deploy.modules import FusedModule, QDQPoint
from embedl_deploy.quantize.stubs import QuantStub, WeightFakeQuantize
from embedl_deploy.table import Printed, table

LEFT = "left_in_floating_point"
"""Where a model's `meta` keeps the declared points that were not quantized."""

_REASONS = {
    QDQPoint.INPUT: "input of a kernel that computes in integers",
    QDQPoint.RESIDUAL_INPUT: "added in the kernel of a convolution",
    QDQPoint.KEY_INPUT: "input of a matrix product",
    QDQPoint.VALUE_INPUT: "input of a matrix product",
    QDQPoint.PROBABILITIES: "input of a matrix product",
    QDQPoint.OUTPUT: "result of a kernel whose inputs are integers",
}


@dataclass(frozen=True)
class Left:
    """Declared points that were not quantized.

    Attributes:
        path: Of the fused module.
        points: Their names; none where it is about weights alone.
        reason: Why.
    """

    path: str
    points: tuple[str, ...]
    reason: str


@dataclass(frozen=True)
class PlacementRow:
    """A quantizer, or declared points without one.

    Attributes:
        what: `"stub"`, `"weight"` or `"none"`.
        path: Of the stub, of the weight, or of the fused module that is left as it is.
        points: The Q/DQ points, such as `"layer1.0.conv1 INPUT"`.
        bits: Width of the integers; 0 where nothing is quantized.
        reason: Why it is there, or why not.
    """

    what: str
    path: str
    points: tuple[str, ...]
    bits: int
    reason: str


@dataclass(frozen=True, repr=False)
class Placement(Printed):
    """Where a model is quantized; prints as a table.

    Attributes:
        rows: Stubs in the order in which they run, then weights, then what is left.
    """

    rows: tuple[PlacementRow, ...]

    def _parts(self) -> Sequence[str]:
        header = ("What", "Path", "Bits", "Q/DQ points", "Reason")
        cells = [
            (row.what, row.path, str(row.bits or ""), ", ".join(row.points), row.reason)
            for row in self.rows
        ]
        return (table(header, cells),)


def placement(model: fx.GraphModule) -> Placement:
    """Where a model from `insert_qdq` or `quantize` has its quantizers, and why.

    Points that a pattern declared and that were not quantized are listed with the reason.
    """
    return Placement((*_stubs(model), *_weights(model), *_left(model)))


def _stubs(model: fx.GraphModule) -> Iterator[PlacementRow]:
    modules = dict(model.named_modules())
    for node in model.graph.nodes:
        if node.op != "call_module":
            continue
        for path, stub in modules[str(node.target)].named_modules(prefix=str(node.target)):
            if isinstance(stub, QuantStub):
                yield PlacementRow("stub", path, stub.points, stub.config.bits, _reason(stub))


def _reason(stub: QuantStub) -> str:
    names = [place.rpartition(" ")[2] for place in stub.points]
    why = "; ".join(dict.fromkeys(_REASONS[QDQPoint[name]] for name in names))
    return f"{why}; one scale with {stub.shares}" if stub.shares else why


def _weights(model: fx.GraphModule) -> Iterator[PlacementRow]:
    for path, module in model.named_modules():
        if not isinstance(module, FusedModule):
            continue
        for weight in module.quantizable_weights():
            quantizer = module.quantizer(weight)
            if isinstance(quantizer, WeightFakeQuantize):
                bits, size = quantizer.config.bits, quantizer.config.block_size
                why = "one scale a channel" if size is None else f"one scale for {size} in a row"
                yield PlacementRow("weight", f"{path}.{weight}", (), bits, why)


def _left(model: fx.GraphModule) -> Iterator[PlacementRow]:
    for left in model.meta.get(LEFT, ()):
        points = tuple(f"{left.path} {name}" for name in left.points)
        yield PlacementRow("none", left.path, points, 0, left.reason)
