"""Does the file compute what was simulated, and how far is it from floating point?

ONNX Runtime answers.
"""

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import nn

from embedl_deploy.batches import check_batches, inferring
from embedl_deploy.errors import VerificationError
from embedl_deploy.export.comparison import Comparison
from embedl_deploy.export.parity import Parity
from embedl_deploy.onnx_model.loading import path_of
from embedl_deploy.quantize.calibrating.calibrate import Progress
from embedl_deploy.target import Target


def verify_onnx(
    path: str | Path,
    model: nn.Module,
    data: Iterable[Any],
    *,
    target: Target | None = None,
    stubs: bool = True,
    progress: Progress | None = None,
) -> Parity:
    """Compare an exported file, run by ONNX Runtime, with the simulated model.

    A half-precision file is compared with the simulation in that precision: every constant has
    the value that the file has. Its stubs are compared with sums in float32, its outputs as ONNX
    Runtime computes them (in bfloat16, for which it has no kernels, in float32 too).

    Args:
        path: The file that `export_onnx` wrote of `model`. Of a file from another tool the
            outputs alone are compared, since its quantizers have no counterpart in the model.
        model: The simulated model; left as it is. For a file from another tool, or without
            `stubs`, any model.
        data: Batches as `calibrate` takes them. Where the file fixes the batch size, batches
            are cut to it, and a last piece that is too small is left out.
        target: The one that the file was exported for; by default the model's.
        stubs: Whether to compare the numbers of every stub as well.
        progress: Called after every batch.

    Raises:
        VerificationError: The file cannot be run, has other stubs or outputs than the model,
            or there is no data that fits it.
        CalibrationError: The data are no batches.
        QuantizationError: The model is not calibrated.
        MissingExtraError: ONNX Runtime is not installed.
    """
    check_batches(data)
    file = path_of(path, VerificationError)
    with tempfile.TemporaryDirectory() as folder, inferring(model):
        comparison = Comparison(model, file, Path(folder), target, stubs=stubs)
        return comparison.over(data, progress)


def compare_onnx(
    path: str | Path,
    model: nn.Module,
    data: Iterable[Any],
    *,
    labelled: bool = False,
    progress: Progress | None = None,
) -> Parity:
    """Compare a file, run by ONNX Runtime, with a model in floating point: what quantization did.

    Args:
        path: The file, of any tool.
        model: In floating point; left as it is. With the model of a transform result there are
            figures of the last fused modules before the outputs too (`Parity.products`).
        data: Batches, as `verify_onnx` takes them; best such that calibration did not see.
        labelled: Whether data are pairs of such a batch and its classes, of shape (N,). The first
            output of shape (N, classes) is then judged (`Parity.accuracy`).
        progress: Called after every batch.

    Raises:
        VerificationError: The file cannot be run, has other outputs than the model, or there is no
            data that fits it.
        CalibrationError: The data are no batches.
        MissingExtraError: ONNX Runtime is not installed.
    """
    check_batches(data)
    file = path_of(path, VerificationError)
    with tempfile.TemporaryDirectory() as folder, inferring(model):
        comparison = Comparison(model, file, Path(folder), free=True)
        return comparison.over(data, progress, labelled=labelled)
