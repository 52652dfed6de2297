"""Train a small BERT, deploy it to INT8, and compare its accuracy before and after."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch

from embedl_deploy import Result, transform
from embedl_deploy.export import Evaluation, Parity, evaluate_onnx, export_onnx, verify_onnx
from embedl_deploy.quantize import quantize
from examples.text.data import Sentences, sentences
from examples.text.model import Grammar, Recipe, judged, trained

OUTPUT = Path("demo-output")


def deploy(
    model: Grammar, path: Path, calibration: Sentences, test: Sentences
) -> tuple[Result, Evaluation, Parity]:
    """Write an INT8 file of a trained model, and compare it with the model and the simulation."""
    batches = list(zip(calibration.tokens.split(32), calibration.mask.split(32), strict=True))
    example = (calibration.tokens[:1], calibration.mask[:1])

    result = transform(model, example)
    quantized = quantize(result, batches)
    export_onnx(quantized, example, path, dynamic_batch=True)
    parity = verify_onnx(path, quantized, [(test.tokens[:64], test.mask[:64])])
    evaluation = evaluate_onnx(path, model, partial(judged, data=test))

    return result, evaluation, parity


def main(arguments: Sequence[str] | None = None) -> None:
    """Train it, deploy it, and print what INT8 costs."""
    parser = argparse.ArgumentParser(prog="python -m examples.text", description=__doc__)
    parser.add_argument("--output", type=Path, default=OUTPUT, help="folder for the ONNX file")
    folder = parser.parse_args(arguments).output
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)  # for a model this small a second thread waits more than it works

    def said(epoch: int, epochs: int, loss: float) -> None:
        print(f"epoch {epoch} of {epochs}: loss {loss:.3f}", flush=True)

    model, path = trained(Recipe(), said), folder / "text-int8.onnx"
    calibration, test = sentences(256, seed=1000), sentences(1000, seed=2000)
    result, evaluation, parity = deploy(model, path, calibration, test)
    print(result)
    print(f"INT8 against float: {evaluation}")
    print(f"file against simulation: {parity}")
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
