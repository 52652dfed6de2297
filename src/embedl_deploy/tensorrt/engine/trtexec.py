"""The command that builds the same elsewhere."""

import shlex
from collections.abc import Mapping
from pathlib import Path

from embedl_deploy.tensorrt.engine.ranges import ShapeRange
from embedl_deploy.tensorrt.version import Version


def trtexec_command(
    path: str | Path,
    output: str | Path,
    version: str = "11.x",
    *,
    ranges: Mapping[str, ShapeRange] | None = None,
    workspace: int | None = None,
    timing_cache: str | Path | None = None,
) -> str:
    """The line that builds an engine with `trtexec`, and writes its layers for `read_layers`.

    Args:
        path: The ONNX file.
        output: The engine. Its layers are written beside it, under its name and `.layers.json`.
        version: Of TensorRT. Strong typing is an option of 10.x, and all there is in 11.x.
        ranges: Of inputs whose sizes are open, by name.
        workspace: MiB that kernels may use beside their tensors.
        timing_cache: A file that remembers what was measured.

    Raises:
        CheckError: The version is unknown.
    """
    typed = Version.parse(version).major == 10
    shapes = (ranges or {}).items()
    words = [
        "trtexec",
        f"--onnx={path}",
        f"--saveEngine={output}",
        *(["--stronglyTyped"] if typed else []),
        *_shapes("min", {name: one.smallest for name, one in shapes}),
        *_shapes("opt", {name: one.best for name, one in shapes}),
        *_shapes("max", {name: one.largest for name, one in shapes}),
        *([f"--memPoolSize=workspace:{workspace}M"] if workspace is not None else []),
        *([f"--timingCacheFile={timing_cache}"] if timing_cache is not None else []),
        "--profilingVerbosity=detailed",
        f"--exportLayerInfo={layers_file(output)}",
    ]
    return shlex.join(words)


def layers_file(output: str | Path) -> Path:
    """Where the layers of an engine are written."""
    return Path(f"{output}.layers.json")


def _shapes(end: str, sizes: Mapping[str, tuple[int, ...]]) -> list[str]:
    said = ",".join(f"{name}:{'x'.join(map(str, one))}" for name, one in sizes.items())
    return [f"--{end}Shapes={said}"] if said else []
