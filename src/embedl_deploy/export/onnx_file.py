"""Writing the ONNX file."""

import itertools
import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from embedl_deploy.errors import ExportError
from embedl_deploy.export.files import written_beside
from embedl_deploy.export.lower import lower
from embedl_deploy.export.runtime import require
from embedl_deploy.quantize.calibrate import first_line

if TYPE_CHECKING:
    import onnx_ir

OPSET = 21
"""First version whose Q/DQ operators take half-precision scales and blocks."""

_EXTERNAL_BYTES = 2**31 - 2**24
"""Above this the weights go to a second file: protobuf stops at 2 GiB."""

_logger = logging.getLogger(__name__)


def export_onnx(
    model: fx.GraphModule,
    args: Sequence[Any] | Tensor,
    path: str | Path,
    *,
    dynamic_batch: bool = False,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
) -> Path:
    """Write a transformed, perhaps quantized model as ONNX.

    Weights that are quantized are stored as int8 behind `DequantizeLinear`; stubs become
    `QuantizeLinear`/`DequantizeLinear` pairs with int8 zero-points; batch norms are folded,
    exactly. Nodes are named by module paths. The model is left as it is.

    Args:
        model: The model of a transform result, or what `quantize` made of it.
        args: Example inputs; a single tensor may stand by itself.
        path: The file. A model above 2 GiB puts its weights into `path` + `.data`.
        dynamic_batch: Whether the first dimension of every input may vary.
        input_names: Names of the inputs; by default those of the model's `forward`.
        output_names: Names of the outputs; by default `output`, or `output_0`, … (with a `_`
            behind it where an input has that name).

    Returns:
        The path.

    Raises:
        ExportError: A stub is not calibrated, the exporter can not express the model, names do
            not fit, or the file can not be written. A file that was there stays whole.
        MissingExtraError: The packages of the `onnx` extra are not installed.
    """
    target = Path(path)
    for package in ("onnx", "onnxscript", "onnx_ir"):
        require(package, "ONNX export")
    if not isinstance(model, fx.GraphModule):
        raise ExportError(f"export_onnx takes a transformed model, not a {type(model).__name__}")
    lowered = lower(model)
    inputs = (args,) if isinstance(args, Tensor) else tuple(args)
    with written_beside(target) as beside:
        proto = _export(lowered, inputs, dynamic_batch=dynamic_batch)
        entries = _given(input_names, "input") or _input_names(model, inputs, proto.graph)
        results = _given(output_names, "output") or _output_names(proto.graph, entries)
        _name_values(proto.graph, entries, results)
        _name_nodes(proto)
        _save(proto, beside)
        _check(beside)
    return target


def _export(model: nn.Module, args: tuple[Any, ...], *, dynamic_batch: bool) -> "onnx_ir.Model":
    dynamic_shapes = None
    if dynamic_batch:
        args = pytree.tree_map_only(Tensor, _two, args)
        batch = torch.export.Dim("batch")
        dynamic_shapes = pytree.tree_map(lambda one: {0: batch} if _has_rows(one) else None, args)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                model,
                args,
                dynamo=True,
                opset_version=OPSET,
                dynamic_shapes=dynamic_shapes,
                verbose=False,
            )
    except Exception as error:  # the exporter raises what it likes
        raise ExportError(f"torch.onnx can not express the model: {_reason(error)}") from error
    assert program is not None  # noqa: S101 - it is one with dynamo=True
    return program.model


def _has_rows(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dim() > 0


def _two(tensor: Tensor) -> Tensor:
    """At least two rows: torch.export takes a size of one for a constant."""
    single = _has_rows(tensor) and tensor.shape[0] == 1
    return tensor.repeat(2, *[1] * (tensor.dim() - 1)) if single else tensor


def _reason(error: BaseException) -> str:
    """The innermost cause in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {first_line(error)}"


def _input_names(
    model: fx.GraphModule, args: Sequence[Any], graph: "onnx_ir.Graph"
) -> tuple[str, ...]:
    """The names in `forward`; torch's own where an argument holds several tensors."""
    placeholders = [node for node in model.graph.nodes if node.op == "placeholder"]
    pairs = zip(placeholders, args, strict=False)
    names = tuple(str(node.target) for node, one in pairs if isinstance(one, Tensor))
    if len(names) == len(graph.inputs):
        return names
    return tuple(str(value.name) for value in graph.inputs)


def _output_names(graph: "onnx_ir.Graph", inputs: Sequence[str]) -> tuple[str, ...]:
    count = len(graph.outputs)
    names = ["output"] if count == 1 else [f"output_{index}" for index in range(count)]
    return tuple(f"{name}_" if name in inputs else name for name in names)


def _given(names: Sequence[str] | None, what: str) -> tuple[str, ...]:
    if isinstance(names, str):
        raise ExportError(f"the {what} names are a text, '{names}'; pass a list of names")
    return tuple(names or ())


def _name_values(graph: "onnx_ir.Graph", inputs: Sequence[str], outputs: Sequence[str]) -> None:
    """Name what goes in and out; what has such a name inside gets another one."""
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


def _name_nodes(model: "onnx_ir.Model") -> None:
    """Names from the source; what the exporter noted of this machine goes."""
    graph = model.graph
    seen: dict[str, int] = {}
    for node in graph:
        name = _node_name(node)
        count = seen.get(name, 0)
        seen[name] = count + 1
        node.name = name if count == 0 else f"{name}_{count}"
        node.metadata_props.clear()
        node.doc_string = None
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


def _save(model: "onnx_ir.Model", path: Path) -> None:
    import onnx_ir

    size = sum(
        one.const_value.nbytes for one in model.graph.initializers.values() if one.const_value
    )
    external = f"{path.name}.data" if size > _EXTERNAL_BYTES else None
    onnx_ir.save(model, path, external_data=external)
    _logger.debug("wrote %s with %d bytes of weights", path.name, size)


def _check(path: Path) -> None:
    import onnx

    try:
        onnx.checker.check_model(str(path), full_check=True)
    except Exception as error:  # the checker raises what it likes
        raise ExportError(f"the exported file is not valid ONNX: {_reason(error)}") from error
