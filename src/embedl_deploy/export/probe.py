"""Copies of a file that show what its stubs do, and that compute in float32 what it says."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from embedl_deploy.batches import first_line
from embedl_deploy.errors import VerificationError
from embedl_deploy.export.runtime import OnnxModel, require

if TYPE_CHECKING:
    import onnx_ir

_NUMBERS, _VALUES = "/numbers", "/values"
"""End the names of the outputs that are added to see what a stub rounds, and to what."""


@dataclass(frozen=True)
class Seen:
    """What a stub of the file did.

    Attributes:
        numbers: What it gave, before it is multiplied by the scale; in float32.
        values: What it took, where the file shows it.
    """

    numbers: Tensor
    values: Tensor | None


def load(path: Path) -> "onnx_ir.Model":
    """Read a file.

    Raises:
        VerificationError: There is none, or it is no ONNX file.
        MissingExtraError: The packages of the `onnx` extra are not installed.
    """
    if not path.is_file():
        raise VerificationError(f"there is no file '{path}'")
    require("onnx_ir", "verification")
    import onnx_ir

    try:
        return onnx_ir.load(path)
    except Exception as error:  # protobuf raises what it likes
        raise VerificationError(f"'{path}' is not an ONNX file: {first_line(error)}") from error


class Probe:
    """A copy of a file with all stubs visible, and with half precision computed in float32.

    Constants keep their values, so what is computed is what the file says, except for the rounding
    of results to half precision, which every runtime does at places of its own choice.

    Args:
        model: The file, from `load`; changed.
        folder: Where to put the copy.

    Attributes:
        runtime: The copy.

    Raises:
        VerificationError: ONNX Runtime cannot load it.
    """

    def __init__(self, model: "onnx_ir.Model", folder: Path) -> None:
        import onnx_ir

        types = (_half(value.dtype) for value in model.graph.inputs)
        self._input_type = next(filter(None, types), torch.float32)
        _show_stubs(model)
        _lift(model)
        copy = folder / "probe.onnx"
        onnx_ir.save(model, copy, external_data=f"{copy.name}.data")
        self.runtime = OnnxModel(copy)

    def as_given(self, inputs: Any) -> Any:
        """Inputs with the values that they have in the file's type, in float32."""
        given = lambda one: one.to(self._input_type).float() if one.is_floating_point() else one  # noqa: E731
        return pytree.tree_map_only(Tensor, given, inputs)

    def pop(self, outputs: dict[str, Tensor]) -> dict[str, Seen]:
        """Take out what the stubs did; by stub, in the file's order."""
        numbers, values = (_pop(outputs, mark) for mark in (_NUMBERS, _VALUES))
        return {stub: Seen(one, values.get(stub)) for stub, one in numbers.items()}


def _show_stubs(model: "onnx_ir.Model") -> None:
    import onnx_ir

    ends = {id(value) for value in (*model.graph.inputs, *model.graph.outputs)}
    for node in list(model.graph):
        if node.op_type != "QuantizeLinear" or not node.name or _of_constant(node):
            continue
        stub = node.name.removesuffix("/QuantizeLinear")
        numbers = onnx_ir.node("Cast", node.outputs, {"to": onnx_ir.DataType.FLOAT})
        numbers.outputs[0].name = stub + _NUMBERS
        numbers.outputs[0].dtype = onnx_ir.DataType.FLOAT
        model.graph.append(numbers)
        model.graph.outputs.append(numbers.outputs[0])
        values = node.inputs[0]
        if values is not None and id(values) not in ends:
            ends.add(id(values))
            values.name, values.dtype = stub + _VALUES, onnx_ir.DataType.FLOAT
            model.graph.outputs.append(values)


def _of_constant(node: "onnx_ir.Node") -> bool:
    """Whether it quantizes a stored weight."""
    return node.inputs[0] is not None and node.inputs[0].is_initializer()


def _pop(outputs: dict[str, Tensor], mark: str) -> dict[str, Tensor]:
    names = [name for name in outputs if name.endswith(mark)]
    return {name.removesuffix(mark): outputs.pop(name) for name in names}


def _half(dtype: "onnx_ir.DataType | None") -> torch.dtype | None:
    return {"FLOAT16": torch.float16, "BFLOAT16": torch.bfloat16}.get(dtype.name if dtype else "")


def _lift(model: "onnx_ir.Model") -> None:
    """Make all that is half precision float32, with the same values."""
    import onnx_ir

    for value in _values(model):
        if not _is_half(value.dtype):
            continue
        value.dtype = onnx_ir.DataType.FLOAT
        if value.const_value is not None:
            value.const_value = _lifted(value.const_value)
    for node in model.graph.all_nodes():
        for name, attribute in node.attributes.items():
            if name in {"to", "dtype"} and _is_half(onnx_ir.DataType(attribute.as_int())):
                node.attributes[name] = onnx_ir.AttrInt64(name, onnx_ir.DataType.FLOAT.value)
            elif attribute.type == onnx_ir.AttributeType.TENSOR:
                tensor = attribute.as_tensor()
                if _is_half(tensor.dtype):
                    node.attributes[name] = onnx_ir.AttrTensor(name, _lifted(tensor))


def _values(model: "onnx_ir.Model") -> Iterator["onnx_ir.Value"]:
    yield from model.graph.inputs
    yield from model.graph.initializers.values()
    for node in model.graph.all_nodes():
        yield from node.outputs


def _is_half(dtype: "onnx_ir.DataType | None") -> bool:
    return _half(dtype) is not None


def _lifted(tensor: Any) -> "onnx_ir.TensorProtocol":
    import numpy as np
    import onnx_ir

    return onnx_ir.Tensor(tensor.numpy().astype(np.float32), name=tensor.name)
