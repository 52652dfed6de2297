"""Names of inputs, outputs and nodes."""

import ast
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor, fx

from embedl_deploy.errors import ExportError
from embedl_deploy.modules import FusedModule
from embedl_deploy.modules.base import quantizer_key
from embedl_deploy.onnx_model.view import WEIGHTED

if TYPE_CHECKING:
    import onnx_ir

STORED = "stored"
"""Name of the tensor that is stored for a quantized weight; in the file it has the weight's."""

_VIEWS = frozenset({"Transpose", "Reshape"})


def input_names(
    model: fx.GraphModule, args: Sequence[Any], graph: "onnx_ir.Graph"
) -> tuple[str, ...]:
    """The names in `forward`; torch's own where an argument holds several tensors."""
    placeholders = [node for node in model.graph.nodes if node.op == "placeholder"]
    pairs = zip(placeholders, args, strict=False)
    names = tuple(str(node.target) for node, one in pairs if isinstance(one, Tensor))
    if len(names) == len(graph.inputs):
        return names
    return tuple(str(value.name) for value in graph.inputs)


def output_names(graph: "onnx_ir.Graph", inputs: Sequence[str]) -> tuple[str, ...]:
    """`output`, or `output_0`, …; with a `_` after it where an input has that name."""
    count = len(graph.outputs)
    names = ["output"] if count == 1 else [f"output_{index}" for index in range(count)]
    return tuple(f"{name}_" if name in inputs else name for name in names)


def given(names: Sequence[str] | None, what: str) -> tuple[str, ...]:
    """The names that were given.

    Raises:
        ExportError: They are a text and no list.
    """
    if isinstance(names, str):
        raise ExportError(f"the {what} names are a text, '{names}'; pass a list of names")
    return tuple(names or ())


def name_values(graph: "onnx_ir.Graph", inputs: Sequence[str], outputs: Sequence[str]) -> None:
    """Name what goes in and out; what has such a name inside gets another one.

    Raises:
        ExportError: There are too many or too few names, or two are the same.
    """
    ends = (*graph.inputs, *graph.outputs)
    for values, names, what in (
        (graph.inputs, inputs, "input"),
        (graph.outputs, outputs, "output"),
    ):
        if len(values) != len(names):
            raise ExportError(f"{len(names)} {what} names were given for {len(values)} {what}s")
    names = (*inputs, *outputs)
    if len(set(names)) < len(names):
        raise ExportError(f"inputs and outputs need different names, not {', '.join(names)}")
    inner = [*graph.initializers.values(), *(value for node in graph for value in node.outputs)]
    taken = {value.name for value in inner} | set(names)
    for value in inner:
        if value.name in names and not any(value is end for end in ends):
            value.name = next(name for name in _numbered(value.name) if name not in taken)
            taken.add(value.name)
    for value, name in zip(ends, names, strict=True):
        value.name = name


def _numbered(name: str) -> Iterator[str]:
    return (f"{name}_{index}" for index in itertools.count(1))


def name_nodes(model: "onnx_ir.Model", weights: Mapping[str, str]) -> None:
    """Names from the source; what the exporter noted of this machine goes.

    Args:
        model: Changed in place.
        weights: The paths of quantized weights, by those of their quantizers.
    """
    graph = model.graph
    seen: dict[str, int] = {}
    for node in graph:
        name = _node_name(node, weights)
        count = seen.get(name, 0)
        seen[name] = count + 1
        node.name = name if count == 0 else f"{name}_{count}"
    for node in graph:
        node.metadata_props.clear()
        node.doc_string = None
    for value in (*graph.inputs, *graph.outputs, *graph.initializers.values()):
        value.metadata_props.clear()
    _name_constants(graph, weights)
    model.metadata_props.clear()
    graph.metadata_props.clear()
    model.producer_name, model.producer_version = "embedl_deploy", None


def weight_paths(model: fx.GraphModule) -> dict[str, str]:
    """The paths of a lowered model's quantized weights, by those of their quantizers."""
    return {
        f"{path}.weight_quantizers.{quantizer_key(weight)}": f"{path}.{weight}"
        for path, module in model.named_modules()
        if isinstance(module, FusedModule)
        for weight in module.weights()
    }


def _name_constants(graph: "onnx_ir.Graph", weights: Mapping[str, str]) -> None:
    """By the weight that they belong to; zeros are shared, so they are named by their number."""
    for value in list(graph.initializers.values()):
        owner, _, name = str(value.name).rpartition(".")
        if name == "zero_point":
            wanted = "_".join((name, *(str(size) for size in value.shape or ())))
        elif owner in weights:
            wanted = weights[owner] if name == STORED else f"{weights[owner]}.{name}"
        else:
            continue
        if wanted not in graph.initializers:
            value.name = wanted


def _node_name(node: "onnx_ir.Node", weights: Mapping[str, str]) -> str:
    """The path of the innermost module that made a node, and its operator.

    A product of a quantized weight is made by the fused module; it is named by the layer whose
    weight that is, as in a file in floating point.
    """
    own = _maker(node)
    if own in weights:
        return f"{weights[own]}/{node.op_type}"
    layers = (_weight_of(value, weights).rpartition(".")[0] for value in node.inputs)
    own = next(filter(None, layers), own) if node.op_type in WEIGHTED else own
    return f"{own}/{node.op_type}" if own else node.op_type


def _weight_of(value: "onnx_ir.Value | None", weights: Mapping[str, str]) -> str:
    """The path of the quantized weight that a value is, or is a transpose of."""
    while value is not None and (node := value.producer()) is not None:
        if (own := _maker(node)) in weights:
            return weights[own]
        value = node.inputs[0] if node.op_type in _VIEWS else None
    return ""


def _maker(node: "onnx_ir.Node") -> str:
    """The path of the innermost module that made a node."""
    paths = ast.literal_eval(node.metadata_props.get("pkg.torch.onnx.name_scopes", "[]"))
    return str(paths[-2]) if len(paths) > 1 else ""
