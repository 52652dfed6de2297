"""What is known of a model after its run, kept as one line of JSON each."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

RELATIVE = 1e-5
RELATIVE_DEEP = 1e-4
DEEP = 100
EXACT = 1e-9
COVERED = 0.99
COVERED_ATTENTION = 0.95


@dataclass
class File:
    """What came of a model's INT8 file, the rest in float16.

    Attributes:
        errors: Rules that `check_onnx` calls broken.
        only_ties: Whether it computes what was simulated except for the rounding of sums.
        parity: The same in words.
        built: Whether TensorRT for RTX makes an engine of it; `None` where it is not installed.
        refusal: Why not.
        lost: Products that the engine computes in a wider type than was simulated.
        error: What stopped the run.
    """

    errors: list[str] = field(default_factory=list)
    only_ties: bool = False
    parity: str = ""
    built: bool | None = None
    refusal: str = ""
    lost: int = 0
    error: str = ""

    @property
    def good(self) -> bool:
        """Whether nothing falls short."""
        return self.only_ties and self.built is not False and not self.errors and not self.error

    @property
    def fault(self) -> str:
        """The first thing that falls short."""
        return self.error or ", ".join(self.errors) or self.refusal or self.parity


@dataclass
class Record:
    """One model's run.

    Attributes:
        name: `source:model`.
        group: Family, or kind of task.
        parameters: How many.
        size: Shapes of the inputs, in words.
        way: `trace` or `export`.
        seconds: Processor time of `transform`.
        nodes: Of the transformed graph.
        fused: Fused modules by kind.
        left: Operations with parameters in no fused module, by kind.
        coverage: Share of the multiply-accumulates in fused modules, as torch counts them.
        library_coverage: The same, as the library counts it.
        attends: Whether values are multiplied with each other.
        rest: What is in no fused module: path, kind, share, reason.
        used: Layers that the source calls, by kind.
        lost: Layers in no fused module.
        twice: Layers in too many.
        functional: Layers never called whose weights the graph reads.
        difference: Largest relative difference of an output.
        difference64: The same in float64, where float32 showed more than rounding may.
        weak: Why the comparison says little.
        mebibytes: Peak of resident memory.
        error: Why the run ended, in full.
        file: What came of its INT8 file, where one was made.
    """

    name: str
    group: str
    parameters: int = 0
    size: str = ""
    way: str = ""
    seconds: float = 0.0
    nodes: int = 0
    fused: dict[str, int] = field(default_factory=dict)
    left: dict[str, int] = field(default_factory=dict)
    coverage: float | None = None
    library_coverage: float | None = None
    attends: bool = False
    rest: list[tuple[str, str, float, str]] = field(default_factory=list)
    used: dict[str, int] = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)
    twice: list[str] = field(default_factory=list)
    functional: list[str] = field(default_factory=list)
    difference: float | None = None
    difference64: float | None = None
    weak: str | None = None
    mebibytes: float = 0.0
    error: str | None = None
    file: File | None = None

    @classmethod
    def of(cls, line: str) -> Self:
        """The record that `line` is."""
        values: dict[str, Any] = json.loads(line)
        rest = [tuple(one) for one in values.pop("rest")]
        file = values.pop("file", None)
        return cls(**values, rest=rest, file=file and File(**file))

    def line(self) -> str:
        """The record as JSON."""
        return json.dumps(asdict(self))

    @property
    def deep(self) -> bool:
        """Whether rounding may add up over more layers than the strict tolerance is for."""
        return sum(self.used.values()) > DEEP

    @property
    def tolerance(self) -> float:
        """What the outputs may differ by."""
        return RELATIVE_DEEP if self.deep else RELATIVE

    @property
    def rounding(self) -> bool:
        """Whether a difference above the tolerance is rounding: it is gone in float64."""
        return self.difference64 is not None and self.difference64 <= EXACT

    @property
    def equivalent(self) -> bool:
        """Whether the transformed model computes what the model does."""
        if self.difference is None or self.weak or self.error:
            return False
        return self.difference <= self.tolerance or self.rounding

    @property
    def conserving(self) -> bool:
        """Whether each layer is in exactly one fused module."""
        return not self.error and not self.lost and not self.twice

    @property
    def bar(self) -> float:
        """The share of the arithmetic that has to be fused."""
        return COVERED_ATTENTION if self.attends else COVERED

    @property
    def covered(self) -> bool:
        """Whether it is."""
        return not self.error and self.coverage is not None and self.coverage >= self.bar

    @property
    def good(self) -> bool:
        """Whether nothing falls short."""
        sound = self.file is None or self.file.good
        return self.equivalent and self.conserving and self.covered and sound


class Results:
    """A file with one line per run; of several runs of a model the last one counts."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> dict[str, Record]:
        """The last record of each model."""
        if not self.path.exists():
            return {}
        lines = self.path.read_text(encoding="utf-8").splitlines()
        return {one.name: one for one in map(Record.of, lines)}

    def add(self, record: Record) -> None:
        """Append a run."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(record.line() + "\n")


def short(records: Iterable[Record]) -> list[Record]:
    """Those that fail or fall short of a bar."""
    return [record for record in records if not record.good]
