"""ONNX models in a few words.

A model is lines such as `y = Conv(x, w)`. Besides ONNX's own text there are two abbreviations:

    a = QDQ(b, s)          a pair with the scale `s`
    w = DQ(W_16x16x3x3)    an int8 weight with scales per channel along axis 0

Names that nothing makes become constants by their form: `W_…` int8, `B_…` float32, `H_…` float16,
each with a shape; `I_2_3` the integers 2 and 3; `s`, `s1`, … scales; `h`, `h1`, … half-precision
scales; `z` an int8 zero-point.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper, parser

IMAGE = (1, 16, 8, 8)

SCALES = {"s": 0.05, "s1": 0.07, "s2": 0.09, "h": 0.0625, "h1": 0.125}


@dataclass(frozen=True)
class Text:
    """A model.

    Attributes:
        lines: Its nodes; what the last one makes is the output.
        inputs: Shapes by name.
        dtype: Of inputs and output.
        opset: Of ONNX's own operators.
        arrays: Constants by name, before those that are made by form.
        outputs: By name, if not what the last node makes.
    """

    lines: str
    inputs: Sequence[tuple[str, tuple[int | None, ...]]] = (("x", IMAGE),)
    dtype: int = TensorProto.FLOAT
    opset: int = 21
    arrays: Sequence[tuple[str, NDArray[np.generic]]] = ()
    outputs: Sequence[str] = ()

    def proto(self) -> onnx.ModelProto:
        """As ONNX."""
        nodes = [node for line in self.lines.strip().splitlines() for node in _nodes(line.strip())]
        made = {name for node in nodes for name in node.output} | {name for name, _ in self.inputs}
        given = dict(self.arrays)
        read = dict.fromkeys(name for node in nodes for name in node.input if name)
        constants = [
            numpy_helper.from_array(given[name], name) if name in given else _constant(name)
            for name in read
            if name not in made
        ]
        outputs = self.outputs or (nodes[-1].output[0],)
        graph = helper.make_graph(
            nodes,
            "graph",
            [helper.make_tensor_value_info(name, self.dtype, one) for name, one in self.inputs],
            [helper.make_tensor_value_info(name, self.dtype, None) for name in outputs],
            constants,
        )
        domains = {"": self.opset} | {node.domain: 1 for node in nodes if node.domain}
        imports = [helper.make_opsetid(domain, version) for domain, version in domains.items()]
        return helper.make_model(graph, opset_imports=imports, ir_version=10)

    def save(self, folder: Path) -> Path:
        """As a file."""
        path = folder / "model.onnx"
        onnx.save(self.proto(), path)
        return path


def _nodes(line: str) -> Iterator[NodeProto]:
    pair = re.fullmatch(r"(\w+) = QDQ\s?\((\w+), (\w+)\)", line)
    weight = re.fullmatch(r"(\w+) = DQ\s?\((\w)_(\d+)(\S*)\)", line)
    if pair:
        name, source, scale = pair.groups()
        yield from _nodes(f"{name}_q = QuantizeLinear({source}, {scale}, z)")
        yield from _nodes(f"{name} = DequantizeLinear({name}_q, {scale}, z)")
    elif weight:
        name, kind, size, rest = weight.groups()
        data, scale = f"{kind}_{size}{rest}", f"B_{size}"
        yield from _nodes(f"{name} = DequantizeLinear<axis=0>({data}, {scale}, W0_{size})")
    else:
        node = parser.parse_node(line)
        node.name = f"{node.op_type}_{node.output[0]}"
        yield node


def _constant(name: str) -> TensorProto:
    kind, _, rest = name.partition("_")
    if name == "z":
        array: NDArray[np.generic] = np.array(0, np.int8)
    elif name in SCALES:
        array = np.array(SCALES[name], np.float16 if name[0] == "h" else np.float32)
    elif kind == "I":
        array = np.array([int(one) for one in rest.split("_")], np.int64)
    else:
        shape = [int(one) for one in rest.split("x")]
        types = {"W": np.int8, "B": np.float32, "H": np.float16, "W0": np.int8}
        array = np.full(shape, 0 if kind == "W0" else 1, types[kind])
    return numpy_helper.from_array(array, name)
