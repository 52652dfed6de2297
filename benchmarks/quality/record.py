"""What is known of one file after it was measured; all of them are kept in one JSON file."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Row:
    """One model, quantized with one setting of one tool.

    Attributes:
        model: Of torchvision.
        setting: `TOOL-SETTING`.
        version: Package and version.
        held_out: SQNR in decibels on images that were not seen.
        share: Of the multiply-accumulates, those whose operands are 8 bits wide.
        pairs: `QuantizeLinear` nodes for activations.
        unsigned: Of them those to unsigned integers.
        shifted: Of them those whose zero-point is not 0.
        refused: Errors by the rules of `check_onnx`: what TensorRT refuses.
        seconds: On the clock, on a shared machine.
        error: What stopped it.
    """

    model: str
    setting: str
    version: str = ""
    held_out: float = 0.0
    share: float = 0.0
    pairs: int = 0
    unsigned: int = 0
    shifted: int = 0
    refused: int = 0
    seconds: float = 0.0
    error: str = ""

    @property
    def ours(self) -> bool:
        """Whether this library made the file."""
        return self.setting.startswith("embedl_deploy-")

    @property
    def symmetric(self) -> bool:
        """Whether all integers have a sign and all zero-points are 0, as TensorRT asks."""
        return not self.error and not self.unsigned and not self.shifted


@dataclass(frozen=True)
class Trained:
    """One trained model, quantized in one way.

    Attributes:
        model: Of `examples.digits`.
        way: Bits and method.
        before: Share of the test images that the model in floating point is right about.
        after: The same of the quantized file.
        loss: The difference in points.
        allowed: Points that it may lose.
    """

    model: str
    way: str
    before: float = 0.0
    after: float = 0.0
    loss: float = 0.0
    allowed: float = 0.0

    @property
    def met(self) -> bool:
        """Whether the bar is met; a hundredth of a point is rounding of the shares."""
        return self.loss <= self.allowed + 0.01


class Results:
    """The file; of several runs the last one counts."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: dict[tuple[str, str], Row] = {}
        self.trained: dict[tuple[str, str], Trained] = {}
        self.read()

    def read(self) -> None:
        """Take in what the file has."""
        if not self.path.is_file():
            return
        known = json.loads(self.path.read_text(encoding="utf-8"))
        self.rows = {(one["model"], one["setting"]): Row(**one) for one in known["files"]}
        trained = (Trained(**one) for one in known["trained"])
        self.trained = {(one.model, one.way): one for one in trained}

    def best_peer(self, model: str) -> Row | None:
        """The symmetric file of another tool with the least noise."""
        peers = [row for row in self.rows.values() if row.model == model and not row.ours]
        known = [row for row in peers if row.symmetric]
        return max(known, key=lambda row: row.held_out, default=None)

    @property
    def met(self) -> bool:
        """Whether no symmetric file of another tool is better, and all trained bars are met."""
        for model in {model for model, _ in self.rows}:
            own = [row.held_out for row in self.rows.values() if row.ours and row.model == model]
            best = self.best_peer(model)
            if best is not None and max(own, default=0.0) < best.held_out:
                return False
        return all(one.met for one in self.trained.values())

    def missing(self, model: str, ways: Iterable[str]) -> list[str]:
        """In which ways a trained model has not been measured."""
        return [way for way in ways if (model, way) not in self.trained]

    def add(self, row: Row) -> None:
        """Take in a file's figures, and write; others may have written meanwhile."""
        self.read()
        self.rows[row.model, row.setting] = row
        self.write()

    def add_trained(self, rows: Iterable[Trained]) -> None:
        """Take in trained models, and write; others may have written meanwhile."""
        self.read()
        self.trained |= {(one.model, one.way): one for one in rows}
        self.write()

    def write(self) -> None:
        """Beside its place, then renamed."""
        found = {
            "files": [asdict(self.rows[key]) for key in sorted(self.rows)],
            "trained": [asdict(one) for one in self.trained.values()],
        }
        partial = self.path.with_name(f"{self.path.name}.part")
        partial.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        partial.rename(self.path)
