"""Compiling a file, and holding what the compiler says against the file and the prediction."""

from embedl_deploy.tensorrt.engine.compare import Comparison, Held, Outcome, compare_layers
from embedl_deploy.tensorrt.engine.compilation import Compilation, Remark
from embedl_deploy.tensorrt.engine.compile import compile_onnx
from embedl_deploy.tensorrt.engine.cost import Estimate
from embedl_deploy.tensorrt.engine.gpus import GPUS, Gpu
from embedl_deploy.tensorrt.engine.latency import Latency, TrtexecLatency
from embedl_deploy.tensorrt.engine.layers import Layer, LayerTensor, read_layers
from embedl_deploy.tensorrt.engine.products import CompiledAttention, Fate, Product
from embedl_deploy.tensorrt.engine.ranges import ShapeRange
from embedl_deploy.tensorrt.engine.trtexec import trtexec_command

__all__ = [
    "GPUS",
    "Comparison",
    "Compilation",
    "CompiledAttention",
    "Estimate",
    "Fate",
    "Gpu",
    "Held",
    "Latency",
    "Layer",
    "LayerTensor",
    "Outcome",
    "Product",
    "Remark",
    "ShapeRange",
    "TrtexecLatency",
    "compare_layers",
    "compile_onnx",
    "read_layers",
    "trtexec_command",
]
