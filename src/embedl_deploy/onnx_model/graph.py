"""A file as nodes and values that know each other; made once, read by all rules."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedl_deploy.errors import CheckError
from embedl_deploy.onnx_model.soundness import subgraphs
from embedl_deploy.onnx_model.tensors import Tensor

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto, TypeProto, ValueInfoProto

Shape = tuple[int | None, ...]


class Value:
    """What a node makes, an input or a constant.

    Attributes:
        name: Its name.
        producer: The node that makes it; None for inputs and initializers.
        uses: Nodes that read it, with the index of their input.
        tensor: The constant, where it is an initializer.
        dtype: Such as FLOAT16; empty where it is not known.
        shape: Sizes, None for one that is not fixed; None where not even the rank is known.
        is_input: Whether it is an input of the file.
        is_output: Whether it leaves its graph.
    """

    __slots__ = ("dtype", "is_input", "is_output", "name", "producer", "shape", "tensor", "uses")

    def __init__(self, name: str) -> None:
        self.name = name
        self.producer: Node | None = None
        self.uses: list[tuple[Node, int]] = []
        self.tensor: Tensor | None = None
        self.dtype, self.shape = "", None  # type: tuple[str, Shape | None]
        self.is_input = self.is_output = False

    @property
    def single(self) -> bool:
        """Whether exactly one node reads it, once."""
        return len(self.uses) == 1 and not self.is_output

    @property
    def users(self) -> "list[Node]":
        """The nodes that read it."""
        return [node for node, _ in self.uses]


class Node:
    """An operator at a place.

    Attributes:
        op: Its type.
        domain: Empty for ONNX's own.
        label: Its name, or what it makes.
        inputs: None where an optional one is left out.
        outputs: All of them.
    """

    __slots__ = ("_attributes", "_proto", "domain", "inputs", "label", "op", "outputs")

    def __init__(self, proto: "NodeProto") -> None:
        self._proto = proto
        self._attributes: dict[str, Any] | None = None
        self.op: str = proto.op_type
        self.domain: str = "" if proto.domain == "ai.onnx" else proto.domain
        self.label: str = proto.name or next(filter(None, proto.output), proto.op_type)
        self.inputs: list[Value | None] = []
        self.outputs: list[Value] = []

    @property
    def attributes(self) -> Mapping[str, Any]:
        """By name."""
        if self._attributes is None:
            from onnx.helper import get_attribute_value

            entries = self._proto.attribute
            self._attributes = {one.name: get_attribute_value(one) for one in entries}
        return self._attributes

    def number(self, name: str, default: int) -> int:
        """An attribute that is an integer.

        Raises:
            CheckError: It is something else.
        """
        value = self.attributes.get(name, default)
        if not isinstance(value, int):
            raise CheckError(f"the attribute '{name}' of {self.op} '{self.label}' is no integer")
        return value

    def input(self, index: int) -> Value | None:
        """An input; None where it is left out."""
        return self.inputs[index] if index < len(self.inputs) else None

    @property
    def first(self) -> Value:
        """The input that it computes on."""
        found = self.inputs[0] if self.inputs else None
        return found or Value("")

    @property
    def output(self) -> Value:
        """Its first output."""
        return self.outputs[0] if self.outputs else Value("")


class Graph:
    """All nodes of a file in order, those of inner graphs after the node that has them.

    Args:
        model: With inferred shapes.
        folder: Where external data lies.

    Attributes:
        nodes: All of them.
        outputs: Of the file.
        opset: Version of ONNX's own operators; 0 where none is imported.
    """

    def __init__(self, model: "ModelProto", folder: Path) -> None:
        from onnx import TensorProto

        self._folder = folder
        self._dtypes = {one.number: one.name for one in TensorProto.DataType.DESCRIPTOR.values}
        self.nodes: list[Node] = []
        imports = (one for one in model.opset_import if one.domain in {"", "ai.onnx"})
        self.opset = max((one.version for one in imports), default=0)
        self.initializers: list[Value] = []
        scope = self._add(model.graph, {})
        for one in model.graph.input:
            scope[one.name].is_input = scope[one.name].tensor is None
        self.outputs = [scope[one.name] for one in model.graph.output]

    def _add(self, graph: "GraphProto", outer: Mapping[str, Value]) -> dict[str, Value]:
        scope = dict(outer)
        for constant in graph.initializer:
            value = scope[constant.name] = Value(constant.name)
            value.dtype = self._dtypes.get(constant.data_type, "")
            value.tensor = Tensor(constant, self._folder, value.dtype)
            value.shape = value.tensor.shape
            self.initializers.append(value)
        for sparse in graph.sparse_initializer:
            scope[sparse.values.name] = Value(sparse.values.name)
        for entry in graph.input:
            scope.setdefault(entry.name, Value(entry.name))
        for proto in graph.node:
            self._add_node(proto, scope)
        for said in (*graph.input, *graph.value_info, *graph.output):
            self._say(scope.get(said.name), said)
        for one in graph.output:
            scope[one.name].is_output = True
        return scope

    def _add_node(self, proto: "NodeProto", scope: dict[str, Value]) -> None:
        node = Node(proto)
        self.nodes.append(node)
        for index, name in enumerate(proto.input):
            value = scope[name] if name else None
            node.inputs.append(value)
            if value is not None:
                value.uses.append((node, index))
        for name in proto.output:
            value = Value(name)
            value.producer = node
            node.outputs.append(value)
            scope[name] = value
        if node.op == "Constant":
            self._add_constant(node)
        for inner in subgraphs(proto):
            self._add(inner, scope)

    def _add_constant(self, node: Node) -> None:
        from onnx import TensorProto

        said = node.attributes.get("value")
        proto = said if isinstance(said, TensorProto) else _written_out(node)
        if proto is not None and node.outputs:
            value, dtype = node.output, self._dtypes.get(proto.data_type, "")
            value.dtype, value.tensor = dtype, Tensor(proto, self._folder, dtype)
            value.shape = value.tensor.shape

    def _say(self, value: Value | None, said: "ValueInfoProto") -> None:
        if value is None or value.tensor is not None:
            return
        kind: TypeProto.Tensor = said.type.tensor_type
        value.dtype = self._dtypes.get(kind.elem_type, "") if kind.elem_type else ""
        if kind.HasField("shape"):
            sizes = kind.shape.dim
            value.shape = tuple(
                one.dim_value if one.HasField("dim_value") else None for one in sizes
            )

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes)


def _written_out(node: Node) -> "TensorProto | None":
    """The constant of a node that writes it as plain numbers."""
    import numpy as np
    from onnx import numpy_helper

    for name, kind in (("float", np.float32), ("int", np.int64)):
        for key in (f"value_{name}", f"value_{name}s"):
            if key in node.attributes:
                return numpy_helper.from_array(np.array(node.attributes[key], kind))
    return None
