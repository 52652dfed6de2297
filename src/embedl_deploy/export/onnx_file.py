"""Writing the ONNX file."""

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from embedl_deploy.batches import holds_arrays, moved, remedy
from embedl_deploy.default import target_for
from embedl_deploy.errors import CaptureError, ExportError
from embedl_deploy.export import naming
from embedl_deploy.export.blocks import pack
from embedl_deploy.export.even import add_biases
from embedl_deploy.export.extremes import spell_out, warn_of_limited
from embedl_deploy.export.files import written_beside
from embedl_deploy.export.host import HOST
from embedl_deploy.export.integers import cast_integers
from embedl_deploy.export.lower import drop_rounded, fold, to_operators
from embedl_deploy.export.manifest import Manifest, settle
from embedl_deploy.export.numbers import check_numbers
from embedl_deploy.export.options import ExportOptions
from embedl_deploy.export.positions import constants, store
from embedl_deploy.export.precision import Keep, Precision, kept_nodes
from embedl_deploy.export.program import DynamicShapes, program, reason
from embedl_deploy.export.rows import as_rows
from embedl_deploy.export.runtime import require
from embedl_deploy.export.slim import slim
from embedl_deploy.export.typed import give_types, to_type
from embedl_deploy.graph.shapes import propagate
from embedl_deploy.onnx_model.loading import path_of
from embedl_deploy.quantize.stubs import quantizers_of
from embedl_deploy.rewrite import Result
from embedl_deploy.target import StoredAs, Target

if TYPE_CHECKING:
    import onnx_ir

_EXTERNAL_BYTES = 2**31 - 2**24
"""Above this the weights go to a second file: protobuf stops at 2 GiB."""

_logger = logging.getLogger(__name__)


def export_onnx(  # noqa: PLR0913 - each is one choice
    model: Result | fx.GraphModule,
    args: Sequence[Any] | Tensor,
    path: str | Path,
    *,
    target: Target | None = None,
    precision: Precision = "float32",
    quantized_weights: StoredAs | None = None,
    keep_float32: Sequence[Keep] = (),
    float32_io: bool = False,
    attention_op: bool = False,
    dynamic_batch: bool = False,
    dynamic_shapes: DynamicShapes | None = None,
    opset: int | None = None,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    deployment: Mapping[str, Any] | None = None,
) -> Path:
    """Write a transformed, perhaps quantized model as ONNX.

    Weights that are quantized are stored as int8 or FP8 after `DequantizeLinear`; stubs become
    `QuantizeLinear`/`DequantizeLinear` pairs with zero-points of that type; batch norms are folded,
    exactly. Nodes are named by module paths. The model is left as it is, and the same model gives
    the same bytes.

    Args:
        model: A transform result or its model, or what `quantize` made of it.
        args: Example inputs; a single tensor may stand by itself.
        path: The file. A model above 2 GiB puts its weights into `path` + `.data`.
        target: The compiler that reads the file; by default the model's, and TensorRT for a graph
            that `transform` did not make.
        precision: Of all that is not an integer: constants, scales, and what is computed.
        quantized_weights: `"int8"` stores the integers, or the FP8 or INT4 numbers that the config
            asks for; `"float"` stores floating-point numbers after a pair of their own, which
            round to the same.
        keep_float32: What stays in float32 in a half-precision file: patterns for module paths
            such as `"*.softmax"`, or types such as `nn.LayerNorm`. Layers whose weights or
            calibrated ranges half precision cannot hold stay as well.
        float32_io: Whether the inputs and outputs of a half-precision file are float32. The inputs
            are where half precision cannot hold the calibrated range of one.
        attention_op: Whether attention is the one operator `Attention`, of opset 23, and not
            multiplication, softmax and multiplication; where its probabilities are not quantized.
        dynamic_batch: Whether the first dimension of every input may vary.
        dynamic_shapes: Which dimensions may vary, in the form of `torch.export`; instead of
            `dynamic_batch`.
        opset: Version of the operators, for TensorRT 18 to 24. By default the target's, 21, or the
            first that has what is asked for: 22 for bfloat16, 23 for `attention_op`.
        input_names: Names of the inputs; by default those of the model's `forward`.
        output_names: Names of the outputs; by default `output`, or `output_0`, … (with a `_`
            after it where an input has that name).
        deployment: What to note in the file's manifest of how the model was made, as plain data
            for JSON.

    Returns:
        The path.

    Raises:
        ExportError: A stub is not calibrated, the exporter cannot express the model, the target
            does not take its numbers, names or choices do not fit, or the file cannot be written. A
            file that was there stays whole.
        MissingExtraError: The packages of the `onnx` extra are not installed.
    """
    for package in ("onnx", "onnxscript", "onnx_ir"):
        require(package, "ONNX export")
    graph_module = model.model if isinstance(model, Result) else model
    if not isinstance(graph_module, fx.GraphModule):
        raise ExportError(f"export_onnx takes a transformed model, not a {type(model).__name__}")
    options = ExportOptions(
        target=target_for(graph_module, target),
        precision=precision,
        quantized_weights=quantized_weights,
        keep_float32=keep_float32,
        float32_io=float32_io,
        attention_op=attention_op,
        dynamic_batch=dynamic_batch,
        dynamic_shapes=dynamic_shapes,
        opset=opset,
        input_names=input_names,
        output_names=output_names,
        deployment=deployment or {},
    )
    check_numbers(graph_module, options)
    inputs, file = _examples(args), path_of(path, ExportError)
    if precision == "float32" and not quantizers_of(graph_module):
        _logger.warning(
            "nothing in the model is quantized, and the file is float32 throughout; quantize() is "
            "for INT8, precision='float16' for a file to compare with"
        )
    with written_beside(file) as beside:
        proto = _proto(graph_module, inputs, options)
        save(proto, beside)
        for one in proto.graph.initializers.values():
            one.const_value = None  # the rules of onnxscript keep the last graph they saw
        _check(beside, inputs)
    return file


def _examples(args: Sequence[Any] | Tensor) -> tuple[Any, ...]:
    if not isinstance(args, Tensor | Sequence) or isinstance(args, str):
        raise ExportError(
            f"the example inputs are a {type(args).__name__}; give a tensor, or a tuple of inputs"
        )
    inputs = (args,) if isinstance(args, Tensor) else tuple(args)
    if holds_arrays(inputs):
        raise ExportError(f"the example inputs are of no use{remedy(inputs)}")
    return inputs


def _proto(
    model: fx.GraphModule, inputs: tuple[Any, ...], options: ExportOptions
) -> "onnx_ir.Model":
    """The file, with names and metadata."""
    folded, inputs = fold(model), moved(inputs, HOST)
    known = _constants(folded, inputs, options)
    store(folded, inputs, {}, known)
    if any("val" not in node.meta for node in folded.graph.nodes if node.op != "output"):
        with suppress(CaptureError):  # the exporter says what it cannot take
            propagate(folded, inputs)
    kept = kept_nodes(folded, options.dtype, options.keep_float32)
    manifest = Manifest(
        options.precision,
        kept,
        options.lowering.whole_attention,
        known,
        deployment=options.deployment,
    )
    manifest = replace(manifest, limited=settle(folded, inputs, {}, manifest, options.lowering))
    warn_of_limited(manifest.limited, options.dtype)
    to_operators(folded, options.lowering)
    add_biases(folded, every=options.dtype != torch.float32)
    edge = _give_types(folded, options, kept)
    drop_rounded(folded)
    typed = pytree.tree_map(lambda one: to_type(one, edge), inputs)
    proto = program(
        folded, typed, options.version, options.dynamic_shapes, dynamic_batch=options.dynamic_batch
    )
    if options.lowering.vectors_as_rows:
        as_rows(proto)
    entries = naming.given(options.input_names, "input") or naming.input_names(
        model, inputs, proto.graph
    )
    results = naming.given(options.output_names, "output") or naming.output_names(
        proto.graph, entries
    )
    naming.name_values(proto.graph, entries, results)
    naming.name_nodes(proto, naming.weight_paths(folded))
    pack(proto)
    slim(proto)
    manifest.write(proto)
    return proto


def _constants(
    folded: fx.GraphModule, inputs: tuple[Any, ...], options: ExportOptions
) -> dict[str, int | None]:
    """Nodes that become stored tensors of the file."""
    if options.dynamic_shapes is not None:
        return constants(folded, inputs, "any")
    return constants(folded, inputs, "rows" if options.dynamic_batch else "nothing")


def _give_types(
    lowered: fx.GraphModule, options: ExportOptions, kept: Mapping[str, str]
) -> torch.dtype:
    """Give a lowered model the types of the file; returns that of its inputs."""
    inputs = {node.name for node in lowered.graph.nodes if node.op == "placeholder"}
    outputs = {node.name for node in lowered.graph.nodes if node.op == "output"}
    wide = options.float32_io or not inputs.isdisjoint(kept)
    ends = {*(inputs if wide else ()), *(outputs if options.float32_io else ())}
    give_types(lowered, options.dtype, {*kept, *ends})
    spell_out(lowered, None if options.dtype == torch.float32 else kept)
    cast_integers(lowered)
    return torch.float32 if wide else options.dtype


def save(model: "onnx_ir.Model", path: Path) -> None:
    """Write a file, with its weights beside it where it is too large for one."""
    import onnx_ir

    size = sum(
        one.const_value.nbytes for one in model.graph.initializers.values() if one.const_value
    )
    external = f"{path.name}.data" if size > _EXTERNAL_BYTES else None
    onnx_ir.save(model, path, external_data=external)
    _logger.debug("wrote %s with %d bytes of weights", path.name, size)


def _check(path: Path, inputs: tuple[Any, ...]) -> None:
    import onnx

    try:
        onnx.checker.check_model(str(path), full_check=True)
    except Exception as error:  # the checker raises what it likes
        said = f"the exported file is not valid ONNX: {reason(error)}{remedy(inputs)}"
        raise ExportError(said) from error
