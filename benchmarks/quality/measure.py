"""What a file computes, beside the untouched model: its noise, and what runs in INT8."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import GraphProto, numpy_helper

from embedl_deploy.export import OnnxModel
from embedl_deploy.tensorrt import explain_onnx


def figures(path: Path, folder: Path) -> dict[str, Any]:
    """All that is measured of a file of any tool; see `Row` for what the names say."""
    explanation = explain_onnx(path)
    points = zero_points(onnx.load(path, load_external_data=False).graph)
    got = outputs(path, np.load(folder / "held_out.npy"))
    return {
        "held_out": round(sqnr(np.load(folder / "reference.npy"), got), 3),
        "share": explanation.shares.get("INT8", 0.0),
        "refused": len(explanation.refusals),
        "pairs": len(points),
        "unsigned": sum(point.dtype == np.uint8 for point in points),
        "shifted": sum(bool(point.any()) for point in points),
    }


def sqnr(want: NDArray[Any], got: NDArray[Any]) -> float:
    """Signal to quantization noise in decibels, over all outputs of all images."""
    signal = np.square(want.astype(np.float64)).sum()
    noise = np.square(got.astype(np.float64) - want).sum()
    return 10 * math.log10(signal / noise) if noise else math.inf


def outputs(path: Path, images: NDArray[np.float32]) -> NDArray[Any]:
    """What ONNX Runtime computes, operator by operator as the file says, image by image."""
    model = OnnxModel(path, threads=1)
    rows = torch.from_numpy(images).split(1)
    return np.concatenate([next(iter(model(row).values())).numpy() for row in rows])


def zero_points(graph: GraphProto) -> list[NDArray[Any]]:
    """Of each `QuantizeLinear` of an activation; without one it is an unsigned 0, as ONNX says."""
    constants = {one.name: numpy_helper.to_array(one) for one in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            constants[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
    return [
        constants[node.input[2]] if len(node.input) > 2 else np.zeros((), np.uint8)
        for node in graph.node
        if node.op_type == "QuantizeLinear" and node.input[0] not in constants
    ]
