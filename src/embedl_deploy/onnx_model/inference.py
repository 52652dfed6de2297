"""Shapes of all values, also where ONNX's own inference stops."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from embedl_deploy.onnx_model.soundness import subgraphs

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto, TypeProto

_SAME = {"": {"GroupNormalization"}} | {
    "com.microsoft": {"Gelu", "FastGelu", "BiasGelu", "QuickGelu", "SkipLayerNormalization"}
}
"""By domain, operators whose first output has the type and shape of the first input, and which
inference (of onnx 1.22) does not know."""

_SIZES = frozenset(
    {"Gather", "Slice", "Concat", "Unsqueeze", "Squeeze", "Reshape", "Cast"}
    | {"Add", "Sub", "Mul", "Div", "Neg", "Min", "Max", "ReduceProd", "Identity"}
)
"""Operators that sizes are computed with."""

_SMALL, _ROUNDS = 64, 8
"""Values that a tensor of sizes has at most, and how often sizes are computed anew."""


def with_shapes(model: "ModelProto") -> "ModelProto":
    """A copy with the shapes that follow from its inputs; as it is where inference fails."""
    from onnx import ModelProto, shape_inference

    copy = ModelProto()
    copy.CopyFrom(model)
    changed = _simplify(copy.graph)
    try:
        for _ in range(_ROUNDS):
            copy = shape_inference.infer_shapes(copy, data_prop=True)
            if _complete(copy.graph) or not _settle_sizes(copy, changed):
                break
    except Exception:  # noqa: BLE001 - it raises what it likes, and rules say what they miss
        return model
    for node, original in zip(_nodes(copy.graph), _nodes(model.graph), strict=True):
        if node.output and node.output[0] in changed:
            node.CopyFrom(original)
    return copy


def _nodes(graph: "GraphProto") -> "Iterator[NodeProto]":
    for node in graph.node:
        yield node
        for inner in subgraphs(node):
            yield from _nodes(inner)


def _simplify(graph: "GraphProto") -> set[str]:
    """Make what keeps a shape an `Identity`; returns the names of what it gives."""
    changed = set()
    for node in _nodes(graph):
        if node.op_type in _SAME.get(node.domain, ()):
            changed.add(node.output[0])
            first = node.input[0]
            node.op_type, node.domain = "Identity", ""
            del node.attribute[:], node.input[:], node.output[1:]
            node.input.append(first)
    return changed


def _complete(graph: "GraphProto") -> bool:
    """Whether every size is known."""
    known = {one.name for one in (*graph.value_info, *graph.output) if _sizes(one.type) is not None}
    return all(name in known for node in graph.node for name in node.output if name)


def _settle_sizes(model: "ModelProto", changed: set[str]) -> bool:
    """Make constants of sizes that can be computed; returns whether there are new ones."""
    import numpy as np
    from onnx import numpy_helper

    graph = model.graph
    shapes = {one.name: _sizes(one.type) for one in (*graph.input, *graph.value_info)}
    known = {one.name: numpy_helper.to_array(one) for one in graph.initializer if _is_small(one)}
    fresh = False
    for node in graph.node:
        name = node.output[0] if node.output else ""
        if node.op_type == "Constant":
            said = next((one.t for one in node.attribute if one.name == "value"), None)
            if said is not None and _is_small(said):
                known[name] = numpy_helper.to_array(said)
        elif (sizes := _asked(node, shapes)) is not None:
            known[name] = np.array(sizes, np.int64)
        elif node.op_type in _SIZES and all(one in known for one in node.input):
            known[name] = _computed(model, node, known)
        else:
            continue
        if node.op_type != "Constant":
            fresh = True
            changed.add(name)
            _become(node, known[name])
    return fresh


def _asked(
    node: "NodeProto", shapes: Mapping[str, tuple[int, ...] | None]
) -> tuple[int, ...] | None:
    """The sizes that a `Shape` gives."""
    if node.op_type != "Shape" or node.attribute:
        return None
    return shapes.get(node.input[0])


def _sizes(kind: "TypeProto") -> tuple[int, ...] | None:
    """A shape that is known whole."""
    sizes = kind.tensor_type.shape.dim
    whole = kind.tensor_type.HasField("shape") and all(one.HasField("dim_value") for one in sizes)
    return tuple(one.dim_value for one in sizes) if whole else None


def _is_small(tensor: "TensorProto") -> bool:
    from onnx import TensorProto

    count = 1
    for size in tensor.dims:
        count *= size
    plain = tensor.data_location != TensorProto.EXTERNAL
    return plain and count <= _SMALL and tensor.data_type in {TensorProto.INT64, TensorProto.INT32}


def _computed(model: "ModelProto", node: "NodeProto", known: dict[str, Any]) -> Any:
    from onnx import ValueInfoProto, helper
    from onnx.reference import ReferenceEvaluator

    feeds = {str(name): known[str(name)] for name in node.input}
    entries = [ValueInfoProto(name=name) for name in feeds]
    graph = helper.make_graph([node], "sizes", entries, [ValueInfoProto(name=node.output[0])])
    opsets = {one.domain: one.version for one in model.opset_import}
    results: Any = ReferenceEvaluator(graph, opsets=opsets).run(None, feeds)
    return results[0]


def _become(node: "NodeProto", value: Any) -> None:
    """The node gives a constant."""
    from onnx import helper, numpy_helper

    del node.attribute[:], node.input[:]
    node.op_type = "Constant"
    node.attribute.append(helper.make_attribute("value", numpy_helper.from_array(value)))
