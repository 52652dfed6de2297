"""What `check_onnx` finds in files of other tools: ONNX Runtime, NNCF and Model Optimizer.

A tiny residual network is quantized by each tool that is installed, with its default settings.
NNCF and Model Optimizer are no dependencies of this project; install them in an environment of
their own, with torch beside: pip install nncf 'nvidia-modelopt[onnx]'. Then, with this library
on PYTHONPATH: python benchmarks/other_tools.py
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

from embedl_deploy.tensorrt import check_onnx

SHAPE = (1, 3, 16, 16)
Batch = dict[str, NDArray[np.float32]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Quantize with each tool, and print what is found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "folder", type=Path, nargs="?", help="where the files are kept (default: nowhere)"
    )
    folder: Path | None = parser.parse_args(arguments).folder
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        return compare(folder)
    with tempfile.TemporaryDirectory() as temporary:
        return compare(Path(temporary))


def compare(folder: Path) -> int:
    """Write a file with each tool and print what is found in it; gives 0."""
    source = folder / "float.onnx"
    onnx.save(residual(), source)
    for name, (module, package, tool) in TOOLS.items():
        if find_spec(module.partition(".")[0]) is None:
            print(f"\n{name} is not installed")
            continue
        path = folder / f"{name}.onnx"
        tool(source, path)
        print(f"\n{name}, {package} {version(package)}\n\n{check_onnx(path)}")
    return 0


def residual(opset: int = 21) -> ModelProto:
    """Two convolutions, a residual addition, pooling and a linear layer."""
    draw = np.random.default_rng(0)
    shapes = {"w1": (16, 3, 3, 3), "b1": (16,), "w2": (16, 16, 3, 3), "b2": (16,)}
    shapes |= {"w3": (16, 16), "b3": (16,)}
    constants = [
        numpy_helper.from_array(draw.normal(size=shape).astype(np.float32) / 8, name)
        for name, shape in shapes.items()
    ]
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], "stem", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"], "stem_relu"),
        helper.make_node("Conv", ["r1", "w2", "b2"], ["c2"], "conv", pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["c2", "r1"], ["a"], "residual"),
        helper.make_node("Relu", ["a"], ["r2"], "relu"),
        helper.make_node("GlobalAveragePool", ["r2"], ["p"], "pool"),
        helper.make_node("Flatten", ["p"], ["f"], "flatten"),
        helper.make_node("Gemm", ["f", "w3", "b3"], ["y"], "head", transB=1),
    ]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("x", SHAPE), ("y", (1, 16)))
    ]
    graph = helper.make_graph(nodes, "residual", ends[:1], ends[1:], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def batches(count: int = 8) -> Iterator[Batch]:
    """Noise."""
    draw = np.random.default_rng(1)
    for _ in range(count):
        yield {"x": draw.normal(size=SHAPE).astype(np.float32)}


def by_onnx_runtime(source: Path, target: Path) -> None:
    """With the defaults of quantize_static."""
    quantization = import_module("onnxruntime.quantization")
    rows = batches()

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc, name-defined]
        def get_next(self) -> Batch | None:
            return next(rows, None)

    quantization.quantize_static(source, target, Reader())


def by_nncf(source: Path, target: Path) -> None:
    """With the defaults of nncf.quantize."""
    nncf = import_module("nncf")
    data = nncf.Dataset(list(batches()))
    onnx.save(nncf.quantize(onnx.load(source), data), target)


def by_model_optimizer(source: Path, target: Path) -> None:
    """With the defaults of modelopt.onnx.quantization.quantize, on the CPU."""
    modelopt = import_module("modelopt.onnx.quantization")
    rows = np.concatenate([batch["x"] for batch in batches(1)])
    modelopt.quantize(
        str(source),
        quantize_mode="int8",
        calibration_data={"x": rows},
        calibration_eps=["cpu"],
        output_path=str(target),
    )


TOOLS: dict[str, tuple[str, str, Callable[[Path, Path], None]]] = {
    "onnxruntime": ("onnxruntime", "onnxruntime", by_onnx_runtime),
    "nncf": ("nncf", "nncf", by_nncf),
    "modelopt": ("modelopt", "nvidia-modelopt", by_model_optimizer),
}

if __name__ == "__main__":
    sys.exit(main())
