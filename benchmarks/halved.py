"""Turns what is float32 in an ONNX file into float16, scales of quantized tensors too."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from onnx import GraphProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

_FROM, _TO = TensorProto.FLOAT, TensorProto.FLOAT16
_FLOAT32 = {"Resize": {1, 2}, "Upsample": {1}}
"""Inputs of operators that float32 alone is allowed for."""


def halve(path: Path, target: Path) -> None:
    """Write a file that computes in float16 what another computes in float32, types alone changed.

    The integers of quantized tensors stay. Numbers beyond float16 become its largest, and those
    that are not zero stay so: a compiler refuses a scale of zero.
    """
    model = onnx.load(path)
    _halve_graph(model.graph)
    del model.graph.value_info[:]
    onnx.save(model, target)


def _halve_graph(graph: GraphProto) -> None:
    kept = {name for node in graph.node for name in _kept(node)}
    for value in (*graph.input, *graph.output):
        _halve_type(value)
    for tensor in graph.initializer:
        if tensor.name not in kept:
            _halve_tensor(tensor)
    for node in graph.node:
        if not kept.intersection(node.output):
            _halve_node(node)


def _kept(node: NodeProto) -> Iterator[str]:
    places = _FLOAT32.get(node.op_type, set())
    return (name for index, name in enumerate(node.input) if index in places and name)


def _halve_type(value: ValueInfoProto) -> None:
    if value.type.tensor_type.elem_type == _FROM:
        value.type.tensor_type.elem_type = _TO


def _halve_node(node: NodeProto) -> None:
    if node.op_type == "ConstantOfShape" and not node.attribute:  # zeros of float32
        zero = numpy_helper.from_array(np.zeros(1, np.float16))
        node.attribute.append(helper.make_attribute("value", zero))
    as_type = {"Cast": "to", "RandomNormalLike": "dtype", "DequantizeLinear": "output_dtype"}
    for attribute in node.attribute:
        if attribute.name == as_type.get(node.op_type) and attribute.i == _FROM:
            attribute.i = _TO
        if attribute.HasField("t"):
            _halve_tensor(attribute.t)
        if attribute.HasField("g"):
            _halve_graph(attribute.g)


def _halve_tensor(tensor: TensorProto) -> None:
    if tensor.data_type != _FROM:
        return
    values = numpy_helper.to_array(tensor)
    limits = np.finfo(np.float16)
    halves = np.clip(values, limits.min, limits.max).astype(np.float16)
    least = np.copysign(limits.smallest_subnormal, values)
    halves = np.where((halves == 0) & (values != 0), least, halves).astype(np.float16)
    tensor.CopyFrom(numpy_helper.from_array(halves, tensor.name))
