"""Building an engine, and holding what TensorRT says of it against the prediction."""

from embedl_deploy.tensorrt.engine.build import Built, build_engine
from embedl_deploy.tensorrt.engine.compare import Comparison, Held, Outcome, compare_layers
from embedl_deploy.tensorrt.engine.layers import Layer, read_layers
from embedl_deploy.tensorrt.engine.ranges import ShapeRange
from embedl_deploy.tensorrt.engine.trtexec import trtexec_command

__all__ = [
    "Built",
    "Comparison",
    "Held",
    "Layer",
    "Outcome",
    "ShapeRange",
    "build_engine",
    "compare_layers",
    "read_layers",
    "trtexec_command",
]
