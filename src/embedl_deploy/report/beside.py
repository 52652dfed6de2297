"""Two ONNX files side by side: what each is, and how the second computes what the first does."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embedl_deploy.export import FileParity
from embedl_deploy.onnx_model import OnnxFile
from embedl_deploy.report.parity import difference_dict, output_dict
from embedl_deploy.table import percent
from embedl_deploy.tensorrt import Explanation, Report, check_onnx, explain_onnx


@dataclass(frozen=True)
class Side:
    """What there is to say of one file by itself."""

    file: OnnxFile
    report: Report
    expected: Explanation

    @classmethod
    def of(cls, path: Path, version: str) -> "Side":
        """Read, check and explain a file, for a version of TensorRT."""
        file = OnnxFile.open(path)
        whole = file.with_shapes({})
        return cls(file, check_onnx(file, version), explain_onnx(whole, version))

    @property
    def size(self) -> int:
        """Bytes, with those of its files of weights."""
        folder = self.file.path.parent
        kept = (entry for one in self.file.model.graph.initializer for entry in one.external_data)
        names = {entry.value for entry in kept if entry.key == "location"}
        beside = {folder / name for name in names} | {self.file.path}
        return sum(one.stat().st_size for one in beside if one.exists())

    @property
    def kernels(self) -> Counter[str]:
        """How many there are of each kind and type."""
        kinds = (f"{one.kind} {one.dtype}".strip() for one in self.expected.kernels)
        return Counter(kinds)

    @property
    def rules(self) -> Counter[str]:
        """How many findings there are of each rule."""
        return Counter(f"{one.rule} {one.severity.value}" for one in self.report.findings)

    @property
    def types(self) -> str:
        """Shares of the arithmetic."""
        return ", ".join(f"{percent(share)} {name}" for name, share in self.expected.shares.items())

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "file": str(self.file.path),
            "bytes": self.size,
            "opset": self.report.opset,
            "operators": len(self.file.model.graph.node),
            "shares": self.expected.shares,
            "kernels": dict(self.kernels),
            "findings": dict(self.rules),
        }


@dataclass(frozen=True)
class Beside:
    """Both files, and how they differ.

    Attributes:
        sides: The first and the second.
        found: From `compare_files`.
        source: Of the data; None of random numbers.
    """

    sides: tuple[Side, Side]
    found: FileParity
    source: str | None

    def to_dict(self) -> dict[str, Any]:
        """All of it for JSON."""
        return {
            "files": [one.as_dict() for one in self.sides],
            "data": self.source,
            "samples": self.found.samples,
            "outputs": [output_dict(name, one) for name, one in self.found.outputs.items()],
            "layers": [difference_dict(name, one) for name, one in self.found.layers.items()],
        }
