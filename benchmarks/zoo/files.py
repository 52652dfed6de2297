"""A model's INT8 file: whether it computes what was simulated, and whether it compiles."""

import contextlib
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.exports import batch
from benchmarks.zoo.entry import Built, Inputs
from benchmarks.zoo.record import File
from embedl_deploy import Result
from embedl_deploy.errors import BuildError
from embedl_deploy.export import export_onnx, verify_onnx
from embedl_deploy.quantize import quantize
from embedl_deploy.tensorrt import check_onnx, compile_onnx


def judged(built: Built, result: Result, inputs: Inputs) -> File:
    """Quantize the result, export it with float16 for the rest, and look at the file."""
    calibrating, held_out = [batch(result.model, *built.draw(1)) for _ in range(2)]
    model = quantize(result, [batch(result.model, *inputs), calibrating])
    with TemporaryDirectory() as folder:
        path = export_onnx(model, held_out, Path(folder) / "model.onnx", precision="float16")
        found = File(errors=sorted({one.rule for one in check_onnx(path).errors}))
        parity = verify_onnx(path, model, [held_out])
        found.only_ties, found.parity = parity.only_ties, str(parity)
        with contextlib.suppress(BuildError):  # there is no compiler for this machine
            made = compile_onnx(path, compiler="rtx")
            found.built = made.built
            found.refusal = made.errors[0].message if made.errors else ""
            found.lost = made.fates.get("lost", 0)
    return found
