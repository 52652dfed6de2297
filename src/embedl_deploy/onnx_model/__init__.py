"""Reading ONNX files: graph, index, shapes and types, for everything that looks at one."""

from embedl_deploy.onnx_model.opening import OnnxFile

__all__ = ["OnnxFile"]
