"""What the demo measures of a deployed model, and how it prints it."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx
from rich import box
from rich.table import Table
from torch import nn

from embedl_deploy import Result
from embedl_deploy.export import OnnxModel, Parity
from examples.digits.data import Digits
from examples.digits.train import accuracy

ALLOWED_LOSS = 0.01
"""One point of accuracy."""

NOTES = """
accuracy INT8       of the INT8 file, run by ONNX Runtime; float is the trained model in PyTorch
file size           of two ONNX files of the same fused model, before and after quantization
largest difference  between the outputs of that file and of its simulation in PyTorch, in
                    steps of 1/127 of the largest; one differing integer changes all after it
integers differing  share of the integers at Q/DQ pairs that the file rounds otherwise than the
                    simulation does, from the same integers at the pairs before
"""
"""Below the table."""


@dataclass(frozen=True)
class Row:
    """The figures of one model. Accuracies are shares of the test images, sizes are in bytes.

    Attributes:
        int8_accuracy: Of the INT8 file, run by ONNX Runtime.
        float_size: Of the ONNX file of the same model before quantization.
        fused: How many fused modules the model became.
        pairs: `QuantizeLinear`/`DequantizeLinear` pairs, counted in the INT8 file.
        parity: How the INT8 file compares with the simulation in PyTorch, on the test images.
    """

    float_accuracy: float
    int8_accuracy: float
    float_size: int
    int8_size: int
    fused: int
    pairs: int
    parity: Parity


def measured(
    model: nn.Module, result: Result, parity: Parity, data: Digits, float_path: Path, path: Path
) -> Row:
    """The figures of a trained model and of the two files that were made of it."""
    runtime = OnnxModel(path)
    return Row(
        accuracy(model, data.test_images, data.test_labels),
        accuracy(lambda images: runtime(images)["output"], data.test_images, data.test_labels),
        float_path.stat().st_size,
        path.stat().st_size,
        result.fused.total(),
        qdq_pairs(path),
        parity,
    )


def qdq_pairs(path: Path) -> int:
    """How many `QuantizeLinear` nodes of a file give their output to a `DequantizeLinear`."""
    nodes = onnx.load(path).graph.node
    dequantized = {node.input[0] for node in nodes if node.op_type == "DequantizeLinear"}
    return sum(node.op_type == "QuantizeLinear" and node.output[0] in dequantized for node in nodes)


def table(rows: Mapping[str, Row], images: int) -> Table:
    """One line for each model."""
    made = Table(
        title=f"\nINT8 files on {images} images held out from training",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        collapse_padding=True,
    )
    made.add_column("\nmodel")
    for header in (
        "accuracy\nfloat",
        "accuracy\nINT8",
        "file size\nfloat32",
        "file size\nINT8",
        "fused\nmodules",
        "Q/DQ\npairs",
        "largest\ndifference",
        "integers\ndiffering",
    ):
        made.add_column(header, justify="right")
    for name, row in rows.items():
        made.add_row(
            name,
            f"{row.float_accuracy:.2%}",
            f"{row.int8_accuracy:.2%}",
            f"{row.float_size / 1000:,.0f} kB",
            f"{row.int8_size / 1000:,.0f} kB",
            str(row.fused),
            str(row.pairs),
            f"{row.parity.largest_step_difference:.2f} steps",
            f"{row.parity.tie_share:.1e}",
        )
    return made


def verdict(rows: Mapping[str, Row]) -> int:
    """0 if every file is as accurate as its model and computes what was simulated; else 1."""
    failures = [f"{name}: {failure}" for name, row in rows.items() for failure in failures_of(row)]
    for failure in failures:
        print(failure, file=sys.stderr)
    if failures:
        return 1
    print("INT8 is within one point of float, and the files differ from their simulations by")
    print("rounding ties alone.")
    return 0


def failures_of(row: Row) -> Iterator[str]:
    """What is wrong with a file, in a line each."""
    if row.float_accuracy - row.int8_accuracy > ALLOWED_LOSS:
        yield (
            f"INT8 accuracy is {row.int8_accuracy:.2%}, more than one point below "
            f"float ({row.float_accuracy:.2%})"
        )
    if not row.parity.only_ties:
        yield f"the file does not compute what was simulated: {row.parity}"
