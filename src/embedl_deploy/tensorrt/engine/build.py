"""Building an engine of an ONNX file."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from embedl_deploy.errors import BuildError
from embedl_deploy.onnx_model.loading import read_onnx
from embedl_deploy.tensorrt.engine.builder import build_plan, find_tensorrt, version_of
from embedl_deploy.tensorrt.engine.compare import Comparison, compare_layers
from embedl_deploy.tensorrt.engine.layers import Layer, parse_layers
from embedl_deploy.tensorrt.engine.ranges import ShapeRange, settled
from embedl_deploy.tensorrt.engine.trtexec import layers_file, trtexec_command
from embedl_deploy.tensorrt.prediction import Explanation, explain_onnx


@dataclass(frozen=True)
class Built:
    """An engine that was built.

    Attributes:
        path: The engine.
        report: What its inspector says, beside it.
        version: Of TensorRT.
        layers: In that report.
        explanation: What was predicted.
        comparison: The two against each other.
    """

    path: Path
    report: Path
    version: str
    layers: tuple[Layer, ...]
    explanation: Explanation
    comparison: Comparison


def build_engine(
    path: str | Path,
    output: str | Path,
    version: str = "11.x",
    *,
    ranges: Mapping[str, ShapeRange] | None = None,
    workspace: int | None = None,
    timing_cache: str | Path | None = None,
) -> Built:
    """Build a strongly typed engine with the TensorRT that is installed, 10.12 or newer.

    Args:
        path: The ONNX file.
        output: The engine. Its layers are written beside it, under its name and `.layers.json`.
        version: Of the TensorRT elsewhere that the error speaks of, where none is installed here.
        ranges: Of inputs whose sizes are open, by name; of the only input under an empty name.
        workspace: MiB that kernels may use beside their tensors; all of the GPU's by default.
        timing_cache: A file that remembers what was measured; it is made where it is not there.

    Raises:
        BuildError: TensorRT is not installed, which says how to build elsewhere, or is too old; it
            does not take the file; a range is missing; or the engine can not be written.
        CheckError: The file can not be read.
    """
    file, target = Path(path), Path(output)
    cache = None if timing_cache is None else Path(timing_cache)
    wanted = settled(read_onnx(file).graph, ranges or {})
    trt = find_tensorrt()
    if trt is None:
        line = trtexec_command(
            file, target, version, ranges=wanted, workspace=workspace, timing_cache=cache
        )
        raise BuildError(
            "TensorRT is not installed here: pip install tensorrt where there is an NVIDIA GPU, or "
            f"run this on a machine that has it:\n  {line}\n"
            "and give the layers that it writes to --report (read_layers in Python)"
        )
    installed = version_of(trt)
    shapes = {name: one.best for name, one in wanted.items()}
    explanation = explain_onnx(file, installed, shapes=shapes)
    plan, text = build_plan(trt, file, wanted, workspace, cache)
    layers = parse_layers(text)
    report = layers_file(target)
    _write(target, plan)
    _write(report, text.encode())
    comparison = compare_layers(explanation, layers)
    return Built(target, report, installed, layers, explanation, comparison)


def _write(path: Path, content: bytes) -> None:
    """All of a file or nothing.

    Raises:
        BuildError: It can not be written.
    """
    try:
        with tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as folder:
            draft = Path(folder) / path.name
            draft.write_bytes(content)
            draft.replace(path)
    except OSError as error:
        raise BuildError(f"can not write '{path}': {error.strerror or error}") from None
