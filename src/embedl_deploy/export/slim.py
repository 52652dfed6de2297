"""What a file need not say: types that every reader infers, defaults, long names inside."""

import itertools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_ir

_SPELLED_OUT = frozenset({"QuantizeLinear", "DequantizeLinear"})
"""Their defaults are written: parsers have read a missing axis in different ways."""


def slim(model: "onnx_ir.Model") -> None:
    """Leave out what changes nothing; of a small quantized model, a thirtieth of the file."""
    graph = model.graph
    ends = {id(value) for value in (*graph.inputs, *graph.outputs)}
    taken = {value.name for value in (*graph.inputs, *graph.outputs, *graph.initializers.values())}
    free = (name for name in map(str, itertools.count()) if name not in taken)
    for value in graph.initializers.values():
        if id(value) not in ends:
            value.type = value.shape = None
    for node in graph:
        if node.op_type not in _SPELLED_OUT and not node.domain:
            _drop_defaults(node, model.opset_imports[""])
        for value in node.outputs:
            if id(value) not in ends:
                value.name, value.type, value.shape = next(free), None, None


def _drop_defaults(node: "onnx_ir.Node", opset: int) -> None:
    from onnx import defs
    from onnx_ir import serde

    known = defs.get_schema(node.op_type, opset).attributes
    for name, attribute in list(node.attributes.items()):
        default = known[name].default_value
        if serde.serialize_attribute(attribute) == default:
            del node.attributes[name]
