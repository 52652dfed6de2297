"""Names of inputs, outputs and nodes."""

import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor, fx

from embedl_deploy.errors import ExportError

if TYPE_CHECKING:
    import onnx_ir


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
    """`output`, or `output_0`, …; with a `_` behind it where an input has that name."""
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


def name_nodes(model: "onnx_ir.Model") -> None:
    """Names from the source; what the exporter noted of this machine goes.

    So do the types of what is inside, a hundredth of a small file, which every reader infers.
    """
    graph = model.graph
    ends = {id(value) for value in graph.outputs}
    seen: dict[str, int] = {}
    for node in graph:
        name = _node_name(node)
        count = seen.get(name, 0)
        seen[name] = count + 1
        node.name = name if count == 0 else f"{name}_{count}"
        node.metadata_props.clear()
        node.doc_string = None
        for value in node.outputs:
            if id(value) not in ends:
                value.type = value.shape = None
    for value in (*graph.inputs, *graph.outputs, *graph.initializers.values()):
        value.metadata_props.clear()
    model.metadata_props.clear()
    graph.metadata_props.clear()
    model.producer_name, model.producer_version = "embedl_deploy", None


def _node_name(node: "onnx_ir.Node") -> str:
    """The path of the innermost module that made a node, and its operator."""
    scopes = node.metadata_props.get("pkg.torch.onnx.name_scopes", "")
    paths = [part.strip(" '\"") for part in scopes.strip("[]").split(",")]
    own = paths[-2] if len(paths) > 1 else ""
    return f"{own}/{node.op_type}" if own else node.op_type
