"""Writing the ONNX file."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from embedl_deploy.errors import ExportError
from embedl_deploy.export import naming
from embedl_deploy.export.blocks import pack
from embedl_deploy.export.files import written_beside
from embedl_deploy.export.lower import fold, to_operators
from embedl_deploy.export.manifest import Recipe, settle
from embedl_deploy.export.precision import Keep, Precision, dtype_of, kept_nodes
from embedl_deploy.export.program import DynamicShapes, program, reason
from embedl_deploy.export.runtime import require
from embedl_deploy.export.slim import slim
from embedl_deploy.export.typed import give_types, to_type
from embedl_deploy.quantize.stubs import quantizers_of
from embedl_deploy.rewrite import Result

if TYPE_CHECKING:
    import onnx_ir

OPSET = 21
"""First version whose Q/DQ operators take blocks."""

_FIRST_OPSET: Mapping[Precision, int] = {"float32": 18, "float16": 19, "bfloat16": 22}
"""First version whose operators take the type; those of float16 are the Q/DQ operators."""

ATTENTION_OPSET = 23
"""First version with the operator Attention."""

_FLOAT8_OPSET = 19

StoredAs = Literal["int8", "float"]
"""How a quantized weight is stored."""

_OPSETS = range(18, 25)
"""What both `torch.onnx` writes and the parser of TensorRT 11.1 reads."""

_EXTERNAL_BYTES = 2**31 - 2**24
"""Above this the weights go to a second file: protobuf stops at 2 GiB."""

_logger = logging.getLogger(__name__)


def export_onnx(  # noqa: PLR0913 - each is one choice
    model: Result | fx.GraphModule,
    args: Sequence[Any] | Tensor,
    path: str | Path,
    *,
    precision: Precision = "float32",
    quantized_weights: StoredAs = "int8",
    keep_float32: Sequence[Keep] = (),
    float32_io: bool = False,
    attention_op: bool = False,
    dynamic_batch: bool = False,
    dynamic_shapes: DynamicShapes | None = None,
    opset: int | None = None,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
) -> Path:
    """Write a transformed, perhaps quantized model as ONNX.

    Weights that are quantized are stored as int8 or FP8 behind `DequantizeLinear`; stubs become
    `QuantizeLinear`/`DequantizeLinear` pairs with zero-points of that type; batch norms are folded,
    exactly. Nodes are named by module paths. The model is left as it is, and the same model gives
    the same bytes.

    Args:
        model: A transform result or its model, or what `quantize` made of it.
        args: Example inputs; a single tensor may stand by itself.
        path: The file. A model above 2 GiB puts its weights into `path` + `.data`.
        precision: Of all that is not an integer: constants, scales, and what is computed.
        quantized_weights: `"int8"` stores the integers, or the FP8 or INT4 numbers that the config
            asks for; `"float"` stores floating-point numbers behind a pair of their own, which
            round to the same.
        keep_float32: What stays in float32 in a half-precision file: patterns for module paths
            such as `"*.softmax"`, or types such as `nn.LayerNorm`. Layers whose weights or
            calibrated ranges half precision can not hold stay as well.
        float32_io: Whether the inputs and outputs of a half-precision file are float32. The inputs
            are where half precision can not hold the calibrated range of one.
        attention_op: Whether attention is the one operator `Attention`, of opset 23, and not
            multiplication, softmax and multiplication; where its probabilities are not quantized.
        dynamic_batch: Whether the first dimension of every input may vary.
        dynamic_shapes: Which dimensions may vary, in the form of `torch.export`; instead of
            `dynamic_batch`.
        opset: Version of the operators, 18 to 24; by default 21, or 22 for bfloat16.
        input_names: Names of the inputs; by default those of the model's `forward`.
        output_names: Names of the outputs; by default `output`, or `output_0`, … (with a `_`
            behind it where an input has that name).

    Returns:
        The path.

    Raises:
        ExportError: A stub is not calibrated, the exporter can not express the model, names or
            choices do not fit, or the file can not be written. A file that was there stays whole.
        MissingExtraError: The packages of the `onnx` extra are not installed.
    """
    target = Path(path)
    for package in ("onnx", "onnxscript", "onnx_ir"):
        require(package, "ONNX export")
    graph_module = model.model if isinstance(model, Result) else model
    if not isinstance(graph_module, fx.GraphModule):
        raise ExportError(f"export_onnx takes a transformed model, not a {type(model).__name__}")
    dtype = dtype_of(precision)
    opset = max(OPSET, _FIRST_OPSET[precision]) if opset is None else opset
    _check_choices(opset, precision, quantized_weights, attention_op=attention_op)
    if dynamic_batch and dynamic_shapes is not None:
        raise ExportError("dynamic_batch and dynamic_shapes exclude each other; give one of them")
    inputs = (args,) if isinstance(args, Tensor) else tuple(args)
    _check_formats(graph_module, opset, quantized_weights)
    folded = fold(graph_module)
    recipe = Recipe(precision, kept_nodes(folded, dtype, keep_float32), attention_op)
    with written_beside(target) as beside:
        lowered, edge = _typed(folded, inputs, recipe, quantized_weights, float32_io=float32_io)
        typed = pytree.tree_map(lambda one: to_type(one, edge), inputs)
        proto = program(lowered, typed, opset, dynamic_shapes, dynamic_batch=dynamic_batch)
        entries = naming.given(input_names, "input") or naming.input_names(
            graph_module, inputs, proto.graph
        )
        results = naming.given(output_names, "output") or naming.output_names(proto.graph, entries)
        naming.name_values(proto.graph, entries, results)
        naming.name_nodes(proto, naming.weight_paths(lowered))
        pack(proto)
        slim(proto)
        recipe.write(proto)
        _save(proto, beside)
        _check(beside)
    return target


def _check_choices(
    opset: int, precision: Precision, quantized_weights: str, *, attention_op: bool
) -> None:
    if opset not in _OPSETS:
        raise ExportError(
            f"opset {opset} is not between {_OPSETS[0]} and {_OPSETS[-1]}, which torch.onnx writes "
            "and TensorRT reads"
        )
    if opset < _FIRST_OPSET[precision]:
        raise ExportError(f"{precision} needs opset {_FIRST_OPSET[precision]}, not {opset}")
    if attention_op and opset < ATTENTION_OPSET:
        raise ExportError(f"the operator Attention needs opset {ATTENTION_OPSET}, not {opset}")
    if quantized_weights not in get_args(StoredAs):
        raise ExportError(f"quantized_weights is {quantized_weights!r}; choose 'int8' or 'float'")


def _check_formats(model: fx.GraphModule, opset: int, quantized_weights: str) -> None:
    configs = [one.config for one in quantizers_of(model)]
    if opset < _FLOAT8_OPSET and any(one.format == "float8_e4m3" for one in configs):
        raise ExportError(f"FP8 needs opset {_FLOAT8_OPSET}, not {opset}")
    if not any(one.block_size for one in configs):
        return
    if opset < OPSET:
        raise ExportError(f"weights in blocks need opset {OPSET}, not {opset}")
    if quantized_weights == "float":
        raise ExportError("weights in blocks are stored as numbers, not in floating point")


def _typed(
    folded: fx.GraphModule,
    args: tuple[Any, ...],
    recipe: Recipe,
    quantized_weights: str,
    *,
    float32_io: bool,
) -> tuple[fx.GraphModule, torch.dtype]:
    """The model in operators and types of the file, and the type of its inputs."""
    settle(folded, args, {}, recipe)
    to_operators(
        folded, attention_op=recipe.attention_op, float_weights=quantized_weights == "float"
    )
    dtype = dtype_of(recipe.precision)
    inputs = {node.name for node in folded.graph.nodes if node.op == "placeholder"}
    outputs = {node.name for node in folded.graph.nodes if node.op == "output"}
    wide = float32_io or not inputs.isdisjoint(recipe.float32)
    ends = {*(inputs if wide else ()), *(outputs if float32_io else ())}
    give_types(folded, dtype, {*recipe.float32, *ends})
    return folded, torch.float32 if wide else dtype


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
        raise ExportError(f"the exported file is not valid ONNX: {reason(error)}") from error
