"""The file of a placement again, with some layers in floating point: no export, so it is quick."""

from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import fx

from embedl_deploy.export.onnx_file import save
from embedl_deploy.modules import FusedModule, QDQPoint
from embedl_deploy.quantize.stubs import QuantStub

if TYPE_CHECKING:
    import onnx_ir

_CHANNELS = {"Conv": 0, "Gemm": 0, "MatMul": -1}
"""Products, and the axis of their weight with the output channels."""


def leave(model: fx.GraphModule, source: Path, output: Path, left: Collection[str]) -> None:
    """Write a file without the pairs of some layers.

    Pairs go where these layers alone read them; they read what is before the others. Their weights
    become numbers, times the factor on the channels of the product. A packed projection that the
    target writes as several products stays so.

    Args:
        model: Quantized.
        source: Its file, from `export_onnx`.
        output: To write.
        left: Paths of the layers.
    """
    import onnx_ir
    from onnx_ir.passes.common import RemoveUnusedNodesPass

    proto = onnx_ir.load(source)
    owner = _owner(path for path, one in model.named_modules() if isinstance(one, FusedModule))
    gone, fixed = _stubs(model, {*left})
    for node in [one for one in proto.graph if one.op_type == "DequantizeLinear"]:
        pair = node.inputs[0].producer() if node.inputs[0] else None
        path = str(pair and pair.name).partition("/")[0]
        if pair is None and owner(node) in left:
            _dequantize(proto.graph, node)
        elif pair is not None and path not in fixed:
            every = path in gone or owner(pair) in left
            uses = [one for one in node.outputs[0].uses() if every or owner(one.node) in left]
            _bypass(uses, pair, node)
    RemoveUnusedNodesPass()(proto)
    save(proto, output)


def _stubs(model: fx.GraphModule, left: set[str]) -> tuple[set[str], set[str]]:
    """Paths of stubs that only some layers ask for, and of those after what another layer gives."""
    gone, fixed = set(), set()
    for path, stub in model.named_modules():
        if isinstance(stub, QuantStub):
            points = [one.rsplit(" ", 1) for one in stub.points]
            if {where for where, _ in points} <= left:
                gone.add(path)
            if {where for where, point in points if point == QDQPoint.OUTPUT.name} - left:
                fixed.add(path)
    return gone, fixed


def _owner(fused: Iterable[str]) -> Callable[["onnx_ir.Node"], str]:
    """Gives the innermost fused module of a node; empty where there is none."""
    known = {*fused}

    def owner(node: "onnx_ir.Node") -> str:
        path = str(node.name).partition("/")[0]
        while path and path not in known:
            path = path.rpartition(".")[0]
        return path

    return owner


def _bypass(uses: Sequence[Any], before: "onnx_ir.Node", after: "onnx_ir.Node") -> None:
    """Let readers of a pair read what is before it."""
    import onnx_ir

    plain, (own, its) = before.inputs[0], (before.inputs[1], after.inputs[1])
    if uses and plain and own and its and its.dtype and own.dtype != its.dtype:
        cast = onnx_ir.node("Cast", [plain], {"to": its.dtype.value})
        after.append(cast)
        plain = cast.outputs[0]
    for use in uses:
        use.node.replace_input_with(use.idx, plain)


def _dequantize(graph: "onnx_ir.Graph", weight: "onnx_ir.Node") -> None:
    """Store a weight as numbers; the factor and the bias after its product join them."""
    numbers, holder = _numbers(weight), weight
    if (turned := _reader(weight)) is not None and turned.op_type == "Transpose":
        perm = turned.attributes.get_ints("perm", range(numbers.ndim)[::-1])
        numbers, holder = numbers.transpose(perm), turned
    product = _reader(holder)
    if product is not None and product.op_type in _CHANNELS and len(product.inputs) == 2:
        axis = _CHANNELS[product.op_type]
        if (factor := _taken(graph, product, "Mul", numbers.shape[axis])) is not None:
            along = [1] * numbers.ndim
            along[axis] = -1
            numbers = numbers * factor.reshape(along)
        if product.op_type != "MatMul":
            bias = _taken(graph, product, "Add", numbers.shape[axis])
            if bias is not None:
                product.resize_inputs(3)
                product.replace_input_with(2, _stored(graph, f"{product.name}.bias", bias))
    kind = _array(weight.inputs[1]).dtype
    stored = _stored(graph, f"{weight.name}.numbers", numbers.astype(kind))
    holder.outputs[0].replace_all_uses_with(stored)


def _reader(node: "onnx_ir.Node") -> "onnx_ir.Node | None":
    """The one node that reads the results of a node; None where there are others."""
    readers = node.successors()
    return readers[0] if len(readers) == 1 else None


def _numbers(weight: "onnx_ir.Node") -> Any:
    """What a weight dequantizes to."""
    values, scale = (_array(one).astype("float32") for one in weight.inputs[:2])
    axis, size = (weight.attributes.get_int(*one) for one in (("axis", 1), ("block_size", 0)))
    if size:
        return values * scale.repeat(size, axis)
    along = [-1 if one == axis % values.ndim else 1 for one in range(values.ndim)]
    return values * (scale.reshape(along) if scale.size > 1 else scale)


def _taken(graph: "onnx_ir.Graph", product: "onnx_ir.Node", operator: str, channels: int) -> Any:
    """Take out what a product meets next, where that is an operator with a number a channel."""
    node = _reader(product)
    stored = _array(node.inputs[1]) if node and node.op_type == operator else None
    if node is None or stored is None or stored.size != channels:
        return None
    result, its = product.outputs[0], node.outputs[0]
    its.replace_all_uses_with(result, replace_graph_outputs=True)
    graph.remove(node, safe=True)
    result.name, result.type, result.shape = its.name, its.type, its.shape
    return stored.reshape(-1)


def _array(value: "onnx_ir.Value | None") -> Any:
    """What a value holds; without a size where it is computed."""
    import numpy as np

    return np.empty(0) if value is None or value.const_value is None else value.const_value.numpy()


def _stored(graph: "onnx_ir.Graph", name: str, numbers: Any) -> "onnx_ir.Value":
    import onnx_ir

    tensor = onnx_ir.tensor(numbers, name=name)
    value = onnx_ir.val(name, const_value=tensor)
    graph.register_initializer(value)
    return value
