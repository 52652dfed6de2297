"""A file that is being broken."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, helper, numpy_helper

Array = NDArray[Any]
Step = tuple[str, Sequence[str], dict[str, Any]]


class Draft:
    """A copy of a file; what is added stands at the end, and is put in order when it is read."""

    def __init__(self, proto: ModelProto) -> None:
        self.proto = ModelProto()
        self.proto.CopyFrom(proto)
        self.graph = self.proto.graph
        del self.graph.value_info[:]
        self._added = 0

    def nodes(self, *ops: str) -> list[NodeProto]:
        return [node for node in self.graph.node if node.op_type in ops]

    def maker(self, name: str) -> NodeProto | None:
        return next((node for node in self.graph.node if name in node.output), None)

    def makes(self, name: str, op: str) -> NodeProto | None:
        node = self.maker(name)
        return node if node is not None and node.op_type == op else None

    def readers(self, name: str) -> list[NodeProto]:
        return [node for node in self.graph.node if name in node.input]

    # --- constants ---

    def array(self, name: str) -> Array | None:
        found = (one for one in self.graph.initializer if one.name == name)
        return next((numpy_helper.to_array(one) for one in found), None)

    def known(self, name: str) -> Array:
        array = self.array(name)
        assert array is not None
        return array

    def constant(self, values: Any, dtype: Any = np.float32) -> str:
        self._added += 1
        name = f"added_{self._added}"
        array = np.asarray(values).astype(dtype)
        self.graph.initializer.append(numpy_helper.from_array(array, name))
        return name

    # --- nodes ---

    def add(self, op: str, inputs: Sequence[str], **attributes: Any) -> str:
        """A node; gives the name of what it makes."""
        self._added += 1
        name = f"made_{self._added}"
        node = helper.make_node(op, inputs, [name], f"{op}_{self._added}", **attributes)
        self.graph.node.append(node)
        return name

    def pair(self, source: str, scale: float = 0.1, zero_point: Any = np.int8) -> str:
        by = self.constant(scale), self.constant(0, zero_point)
        return self.add("DequantizeLinear", [self.add("QuantizeLinear", [source, *by]), *by])

    def weight(self, *shape: int, dtype: Any = np.int8) -> str:
        """A quantized weight of ones, with scales along its first axis."""
        size = shape[0]
        values = self.constant(np.ones(shape), dtype)
        by = self.constant(np.full(size, 0.1)), self.constant(np.zeros(size), dtype)
        return self.add("DequantizeLinear", [values, *by], axis=0)

    # --- pairs ---

    def pairs(self) -> Iterator[tuple[NodeProto, NodeProto]]:
        for dequantize in self.nodes("DequantizeLinear"):
            quantize = self.makes(dequantize.input[0], "QuantizeLinear")
            if quantize is not None:
                yield quantize, dequantize

    def weights(self) -> list[NodeProto]:
        """DQ of weights."""
        found = self.nodes("DequantizeLinear")
        return [node for node in found if self.array(node.input[0]) is not None]

    def source(self, name: str) -> str:
        """A value before its pair; itself without one."""
        dequantize = self.makes(name, "DequantizeLinear")
        quantize = self.makes(dequantize.input[0], "QuantizeLinear") if dequantize else None
        return quantize.input[0] if quantize else name

    def quantized(self, *ops: str) -> list[NodeProto]:
        """Weighted operators after a pair."""
        return [node for node in self.nodes(*ops) if self.source(node.input[0]) != node.input[0]]

    def weight_of(self, node: NodeProto) -> NodeProto | None:
        """The DQ of a weight."""
        maker = self.maker(node.input[1])
        if maker is not None and maker.op_type == "Transpose":
            maker = self.maker(maker.input[0])
        constant = maker is not None and self.array(maker.input[0]) is not None
        return maker if constant and maker and maker.op_type == "DequantizeLinear" else None

    def reshape_weight(self, node: NodeProto, values: Array, **attributes: Any) -> None:
        """Another weight, quantized per channel; the operator gets attributes."""
        old = self.weight_of(node)
        assert old is not None
        scale = self.constant(np.full(len(values), 0.1))
        zero_point = self.constant(np.zeros(len(values)), np.int8)
        old.input[:] = [self.constant(values, np.int8), scale, zero_point]
        for name, value in attributes.items():
            self.set(node, name, value)

    @staticmethod
    def set(node: NodeProto, name: str, value: Any) -> None:
        """Give an attribute a value; None takes it away."""
        kept = [one for one in node.attribute if one.name != name]
        del node.attribute[:]
        node.attribute.extend(kept)
        if value is not None:
            node.attribute.append(helper.make_attribute(name, value))
