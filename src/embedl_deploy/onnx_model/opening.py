"""A file's proto as a graph with types and shapes."""

from pathlib import Path
from typing import TYPE_CHECKING

from embedl_deploy.onnx_model.dtypes import infer_types
from embedl_deploy.onnx_model.graph import Graph
from embedl_deploy.onnx_model.soundness import put_in_order

if TYPE_CHECKING:
    from onnx import ModelProto


def graph_of(model: "ModelProto", folder: Path) -> Graph:
    """A file as a graph with types and shapes, functions written out.

    Raises:
        CheckError: It is no sound graph.
    """
    from onnx import inliner

    put_in_order(model.graph)
    if model.functions:
        model = inliner.inline_local_functions(model)
    graph = Graph(_typed(model), folder)
    infer_types(graph)
    return graph


def _typed(model: "ModelProto") -> "ModelProto":
    """With the shapes that ONNX can infer; as it is where inference fails."""
    from onnx import shape_inference

    try:
        return shape_inference.infer_shapes(model, data_prop=True)
    except Exception:  # noqa: BLE001 - it raises what it likes, and rules say what they miss
        return model
