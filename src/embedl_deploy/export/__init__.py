"""ONNX out, and proof that the file computes what was simulated."""

from embedl_deploy.export.accuracy import Accuracy, Evaluation, evaluate_onnx
from embedl_deploy.export.between import FileParity, compare_files
from embedl_deploy.export.difference import Difference, OrderParity, OutputParity, ProductParity
from embedl_deploy.export.onnx_file import export_onnx
from embedl_deploy.export.parity import Parity, StubParity
from embedl_deploy.export.runtime import OnnxModel
from embedl_deploy.export.verify import compare_onnx, verify_onnx

__all__ = [
    "Accuracy",
    "Difference",
    "Evaluation",
    "FileParity",
    "OnnxModel",
    "OrderParity",
    "OutputParity",
    "Parity",
    "ProductParity",
    "StubParity",
    "compare_files",
    "compare_onnx",
    "evaluate_onnx",
    "export_onnx",
    "verify_onnx",
]
