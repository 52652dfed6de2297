"""Train the detector, deploy it to INT8, and compare its mAP before and after."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch

from embedl_deploy import Result, transform
from embedl_deploy.export import Evaluation, Parity, evaluate_onnx, export_onnx, verify_onnx
from embedl_deploy.quantize import quantize
from examples.detector.data import Shapes, shapes
from examples.detector.evaluate import mean_average_precision
from examples.detector.model import Detector
from examples.detector.train import Recipe, trained

OUTPUT = Path("demo-output")


def deploy(
    model: Detector, path: Path, calibration: Shapes, test: Shapes
) -> tuple[Result, Evaluation, Parity]:
    """Write an INT8 file of a trained detector, and compare it with the model and the simulation.

    Args:
        model: Trained.
        path: The file to write.
        calibration: What gives the ranges of the quantizers.
        test: What mAP is computed on.
    """
    example = (calibration.images[:1],)

    result = transform(model, example)
    quantized = quantize(result, calibration.images.split(32))
    export_onnx(quantized, example, path, dynamic_batch=True)
    parity = verify_onnx(path, quantized, [test.images[:32]])
    evaluation = evaluate_onnx(path, model, partial(mean_average_precision, data=test))

    return result, evaluation, parity


def main(arguments: Sequence[str] | None = None) -> None:
    """Train it, deploy it, and print what INT8 costs."""
    parser = argparse.ArgumentParser(prog="python -m examples.detector", description=__doc__)
    parser.add_argument("--output", type=Path, default=OUTPUT, help="folder for the ONNX file")
    folder = parser.parse_args(arguments).output
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)  # for a model this small a second thread waits more than it works

    def said(epoch: int, epochs: int, loss: float) -> None:
        print(f"epoch {epoch} of {epochs}: loss {loss:.3f}", flush=True)

    model, path = trained(Recipe(), said), folder / "detector-int8.onnx"
    result, evaluation, parity = deploy(model, path, shapes(128, seed=1000), shapes(300, seed=2000))
    print(result)
    print(f"INT8 against float: {evaluation}")
    print(f"file against simulation: {parity}")
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
