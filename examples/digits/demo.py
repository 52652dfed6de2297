"""From trained models to checked INT8 files: `python -m examples.digits.demo`.

`deploy` is the whole way, as you would write it for a model of your own.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor, nn

from embedl_deploy import Result, transform
from embedl_deploy.export import Parity, export_onnx, verify_onnx
from embedl_deploy.quantize import quantize
from examples.digits.bars import progress_bars, step, trained_with_bar
from examples.digits.data import Digits, calibration_batches, digits
from examples.digits.figures import NOTES, Row, measured, table, verdict
from examples.digits.models import MODELS

OUTPUT = Path("demo-output")


def deploy(
    model: nn.Module,
    path: Path,
    calibration: Sequence[Tensor],
    test: Sequence[Tensor],
    bars: Progress,
) -> tuple[Result, Parity]:
    """Make an INT8 ONNX file of a trained model, and compare it with what was simulated."""
    example = (calibration[0][:1],)

    result = transform(model, example)
    quantized = quantize(result, bars.track(calibration, description="calibrate"))
    with step(bars, "export int8"):
        export_onnx(quantized, example, path, dynamic_batch=True)
    parity = verify_onnx(path, quantized, bars.track(test, description="verify"))

    return result, parity


def deployed(model: nn.Module, name: str, data: Digits, folder: Path, bars: Progress) -> Row:
    """Deploy a model with training images, and measure it with test images.

    Writes `NAME-int8.onnx`, and `NAME-float32.onnx` to compare with.
    """
    float_path, int8_path = folder / f"{name}-float32.onnx", folder / f"{name}-int8.onnx"
    test = data.test_images.split(90)
    result, parity = deploy(model, int8_path, calibration_batches(data), test, bars)
    with step(bars, "export float32"):
        export_onnx(result.model, (test[0][:1],), float_path, dynamic_batch=True)
    return measured(model, result, parity, data, float_path, int8_path)


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, deploy and measure each model; gives the exit status."""
    parser = argparse.ArgumentParser(prog="python -m examples.digits.demo", description=__doc__)
    parser.add_argument("--output", type=Path, default=OUTPUT, help="folder for the ONNX files")
    parser.add_argument("--fresh", action="store_true", help="train anew, even where cached")
    options = parser.parse_args(arguments)
    if options.output.is_file():
        parser.error(f"--output takes a folder, and '{options.output}' is a file")
    options.output.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)  # for models this small a second thread waits more than it works

    console, data, rows = Console(), digits(), dict[str, Row]()
    for name in MODELS:
        console.print(f"[bold]{name}")
        with progress_bars(console) as bars:
            model = trained_with_bar(name, bars, fresh=options.fresh)
            rows[name] = deployed(model, name, data, options.output, bars)
    console.print(table(rows, len(data.test_images)))
    console.print(NOTES, highlight=False)
    print(f"The ONNX files are in {options.output}/")
    return verdict(rows)


if __name__ == "__main__":
    sys.exit(main())
