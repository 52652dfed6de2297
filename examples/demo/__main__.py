"""From trained models to checked INT8 files, each with a page that shows what became of it.

`deploy` is the whole way, as you would write it for a model of your own.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor, nn

from embedl_deploy import Result, transform
from embedl_deploy.errors import BuildError
from embedl_deploy.export import (
    Parity,
    compare_onnx,
    evaluate_onnx,
    export_onnx,
    verify_onnx,
)
from embedl_deploy.quantize import quantize
from embedl_deploy.report import report
from embedl_deploy.report.summary import summarize
from embedl_deploy.tensorrt import Compilation, ShapeRange, check_onnx, compile_onnx, explain_onnx
from examples.demo.bars import progress_bars, step
from examples.demo.figures import NOTES, Row, table, verdict
from examples.demo.subjects import Subject, subjects

OUTPUT = Path("demo-output")
SHOWN = "detector"
"""Whose page the demo ends with."""


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


def deployed(name: str, subject: Subject, folder: Path, bars: Progress, *, fresh: bool) -> Row:
    """Train a model, deploy it, and measure it with data held out.

    Writes `NAME-int8.onnx`, `NAME-float32.onnx` to compare with, and `NAME.html`.
    """
    model = _trained(subject, bars, fresh=fresh)
    float_path, int8_path = folder / f"{name}-float32.onnx", folder / f"{name}-int8.onnx"
    result, parity = deploy(model, int8_path, subject.calibration, subject.test, bars)
    with step(bars, "export float32"):
        example = (subject.test[0][:1],)
        export_onnx(result.model, example, float_path, dynamic_batch=True)
    with step(bars, "judge"):
        judged = evaluate_onnx(int8_path, model, subject.score)
    with step(bars, "compile"):
        compilation = compiled(int8_path, example[0])
    row = Row(
        judged.model["score"],
        judged.file["score"],
        float_path.stat().st_size,
        int8_path.stat().st_size,
        parity,
        compilation,
    )
    with step(bars, "page"):
        report(
            folder / f"{name}.html",
            file=int8_path,
            summary=summarize(result),
            check=check_onnx(int8_path),
            explanation=explain_onnx(int8_path),
            compilations=[] if compilation is None else [compilation],
            answers=compare_onnx(int8_path, result.model, subject.test),
            parity=parity,
            figures=row.figures(),
        )
    return row


def _trained(subject: Subject, bars: Progress, *, fresh: bool) -> nn.Module:
    """The trained model, with a bar over its epochs; full at once where weights are cached."""
    task = bars.add_task("train", total=subject.epochs)
    model = subject.train(lambda epoch, *_: bars.update(task, completed=epoch), fresh)
    bars.update(task, completed=subject.epochs)
    return model


def compiled(path: Path, example: Tensor) -> Compilation | None:
    """What NVIDIA's compiler makes of a file for one sample; None where it is not installed."""
    try:
        return compile_onnx(
            path, "rtx4090", compiler="rtx", ranges={"": ShapeRange.exactly(example.shape)}
        )
    except BuildError:
        return None


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, deploy and measure each model; gives the exit status."""
    parser = argparse.ArgumentParser(prog="python -m examples.demo", description=__doc__)
    parser.add_argument("--output", type=Path, default=OUTPUT, help="folder for files and pages")
    parser.add_argument("--fresh", action="store_true", help="train anew, even where cached")
    options = parser.parse_args(arguments)
    if options.output.is_file():
        parser.error(f"--output takes a folder, and '{options.output}' is a file")
    options.output.mkdir(parents=True, exist_ok=True)

    console, rows = Console(), dict[str, Row]()
    for name, subject in subjects().items():
        console.print(f"[bold]{name}")
        with progress_bars(console) as bars:
            rows[name] = deployed(name, subject, options.output, bars, fresh=options.fresh)
    console.print(table(rows))
    console.print(NOTES, highlight=False)
    status = verdict(rows)
    print(f"A page for each model is in {options.output}/; open")
    print(options.output / f"{SHOWN}.html")
    return status


if __name__ == "__main__":
    logging.getLogger("embedl_deploy").setLevel(logging.ERROR)  # float32 files are meant
    torch.set_num_threads(1)  # for models this small a second thread waits more than it works
    sys.exit(main())
