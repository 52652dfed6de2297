"""ONNX out, and proof that the file computes what was simulated."""

from embedl_deploy.export.difference import Difference, OrderParity
from embedl_deploy.export.onnx_file import export_onnx
from embedl_deploy.export.parity import Parity, StubParity
from embedl_deploy.export.runtime import OnnxModel
from embedl_deploy.export.verify import verify_onnx

__all__ = [
    "Difference",
    "OnnxModel",
    "OrderParity",
    "Parity",
    "StubParity",
    "export_onnx",
    "verify_onnx",
]
