"""Which kernels TensorRT is expected to run for an ONNX file: one rule, one function, one id."""

from embedl_deploy.tensorrt.prediction.explain import explain_onnx
from embedl_deploy.tensorrt.prediction.report import Aside, Explanation, Kernel
from embedl_deploy.tensorrt.prediction.rule import Basis

__all__ = ["Aside", "Basis", "Explanation", "Kernel", "explain_onnx"]
