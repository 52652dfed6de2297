"""What the demo says of a deployed model, and how it prints it."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from rich import box
from rich.table import Table

from embedl_deploy.export import Parity
from embedl_deploy.tensorrt import Compilation

ALLOWED_LOSS = 0.01
"""One point of accuracy."""

NOTES = """
score       on data held out from training: accuracy, of the detector mAP at an
            overlap of 0.5; float is the model in PyTorch, INT8 the file in ONNX
            Runtime
size        of two ONNX files of the same fused model, before and after
            quantization
difference  the largest between the outputs of the file and of its simulation in
            PyTorch, in steps of 1/127 of the largest; one differing integer
            changes all after it
integers    the share at Q/DQ pairs that the file rounds otherwise than the
            simulation does, from the same integers at the pairs before
compiled    how many of the convolutions and matrix products NVIDIA's compiler
            computes in INT8 (TensorRT for RTX, for an RTX 4090; nothing is run)
"""
"""Below the table."""


@dataclass(frozen=True)
class Row:
    """The figures of one model. Scores are shares, sizes are in bytes.

    Attributes:
        int8_score: Of the INT8 file, run by ONNX Runtime.
        float_size: Of the ONNX file of the same model before quantization.
        parity: How the INT8 file compares with the simulation in PyTorch, on data held out.
        compilation: None where the compiler is not installed.
    """

    float_score: float
    int8_score: float
    float_size: int
    int8_size: int
    parity: Parity
    compilation: Compilation | None = None

    @property
    def compiled(self) -> str:
        """How many products are computed in INT8."""
        if self.compilation is None:
            return "not here"
        if not self.compilation.built:
            return "refused"
        products = self.compilation.products
        return f"{sum(one.computed == 'INT8' for one in products)} of {len(products)}"

    def figures(self) -> list[tuple[str, str]]:
        """For the page."""
        return [
            ("Score in float", f"{self.float_score:.2%}"),
            ("Score of the INT8 file", f"{self.int8_score:.2%}"),
            ("Size in float32", f"{self.float_size / 1000:,.0f} kB"),
            ("Size in INT8", f"{self.int8_size / 1000:,.0f} kB"),
        ]


def table(rows: Mapping[str, Row]) -> Table:
    """One line for each model."""
    made = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    made.add_column("\nmodel")
    for header in (
        "score\nfloat",
        "score\nINT8",
        "size, kB\nfloat32",
        "size\nINT8",
        "difference\nin steps",
        "integers\ndiffering",
        "compiled\nin INT8",
    ):
        made.add_column(header, justify="right")
    for name, row in rows.items():
        made.add_row(
            name,
            f"{row.float_score:.2%}",
            f"{row.int8_score:.2%}",
            f"{row.float_size / 1000:,.0f}",
            f"{row.int8_size / 1000:,.0f}",
            f"{row.parity.largest_step_difference:.2f}",
            f"{row.parity.tie_share:.1e}",
            row.compiled,
        )
    return made


def verdict(rows: Mapping[str, Row]) -> int:
    """0 if every file is as good as its model and computes what was simulated; else 1."""
    failures = [f"{name}: {failure}" for name, row in rows.items() for failure in failures_of(row)]
    for failure in failures:
        print(failure, file=sys.stderr)
    if failures:
        return 1
    print("INT8 is within one point of float, and the files differ from their simulations")
    print("by rounding ties alone.")
    return 0


def failures_of(row: Row) -> Iterator[str]:
    """What is wrong with a file, in a line each."""
    if row.float_score - row.int8_score > ALLOWED_LOSS:
        yield (
            f"the INT8 score is {row.int8_score:.2%}, more than one point below "
            f"float ({row.float_score:.2%})"
        )
    if not row.parity.only_ties:
        yield f"the file does not compute what was simulated: {row.parity}"
    if row.compilation is not None and not row.compilation.built:
        yield f"the compiler refuses the file: {row.compilation.summary}"
