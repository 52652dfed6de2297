"""From a lowered model to ONNX, by `torch.onnx`."""

import logging
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.utils import _pytree as pytree

from embedl_deploy.batches import first_line
from embedl_deploy.errors import ExportError
from embedl_deploy.export.constants import fold_constants
from embedl_deploy.export.translations import translations

if TYPE_CHECKING:
    import onnx_ir

DynamicShapes = Mapping[str, Any] | Sequence[Any]
"""Which dimensions may vary, in the form of `torch.export`."""


def program(
    model: nn.Module,
    args: tuple[Any, ...],
    opset: int,
    dynamic_shapes: DynamicShapes | None,
    *,
    dynamic_batch: bool,
) -> "onnx_ir.Model":
    """The model in ONNX.

    Raises:
        ExportError: `torch.onnx` cannot express it.
    """
    if dynamic_batch:
        args = pytree.tree_map_only(Tensor, _two, args)
        batch = Dim("batch")
        dynamic_shapes = pytree.tree_map(lambda one: {0: batch} if _has_rows(one) else None, args)
    with _without_trials():
        written = _exported(model, args, opset, dynamic_shapes)
        fold_constants(written)
    if dynamic_batch:
        _check_rows(written)
    else:
        _check_varies(written, dynamic_shapes)
    return written


def _exported(
    model: nn.Module, args: tuple[Any, ...], opset: int, dynamic_shapes: DynamicShapes | None
) -> "onnx_ir.Model":
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # no code of a user runs here
            exported = torch.onnx.export(
                _of_modules(model),
                args,
                dynamo=True,
                opset_version=opset,
                dynamic_shapes=dynamic_shapes,  # type: ignore[arg-type]
                custom_translation_table=translations(),
                verbose=False,
            )
    except Exception as error:  # the exporter raises what it likes
        raise ExportError(f"torch.onnx cannot express the model: {reason(error)}") from error
    assert exported is not None  # noqa: S101 - it is one with dynamo=True
    return exported.model


def _of_modules(model: nn.Module) -> nn.Module:
    """The model as a module like any other, which shares all that it has.

    Of a graph module, torch 2.8 notes what its nodes say of modules, and not the modules that run.
    """
    kind: Any = type("Exported", (nn.Module,), {"forward": type(model).forward})
    plain: nn.Module = kind.__new__(kind)
    vars(plain).update(vars(model))
    return plain


@contextmanager
def _without_trials() -> Iterator[None]:
    """What onnxscript tried to compute beforehand and leaves to the runtime is not spoken of."""
    logger = logging.getLogger("onnxscript.optimizer._constant_folding")
    tried = lambda record: not record.getMessage().startswith("Evaluation failed")  # noqa: E731
    logger.addFilter(tried)
    try:
        yield
    finally:
        logger.removeFilter(tried)


def _check_rows(model: "onnx_ir.Model") -> None:
    """Refuse a file for one size, which torch.export gives where the code takes it for a number."""
    rows = [one.shape[0] for one in model.graph.inputs if one.shape]
    if rows and all(isinstance(one, int) for one in rows):
        raise ExportError(
            f"the model's code fixes the batch to {rows[0]} (such as torch.linspace(0, 1, "
            "x.shape[0])); write it with the size itself, or export without dynamic_batch"
        )


def _check_varies(model: "onnx_ir.Model", dynamic_shapes: DynamicShapes | None) -> None:
    """Refuse a file with fewer dimensions of any size than were asked for."""
    asked = [one for one in pytree.tree_leaves(dynamic_shapes) if isinstance(one, Dim | str)]
    shapes = [list(one.shape or ()) for one in model.graph.inputs]
    free = sum(not isinstance(size, int) for shape in shapes for size in shape)
    if free < len(asked):
        raise ExportError(
            f"the model's code fixes sizes that dynamic_shapes lets vary: {free} of {len(asked)} "
            f"are free, the inputs are {', '.join(map(str, shapes))}; transform with "
            "dynamic_shapes as well, or leave these sizes out"
        )


def _has_rows(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dim() > 0


def _two(tensor: Tensor) -> Tensor:
    """At least two rows: torch.export takes a size of one for a constant."""
    single = _has_rows(tensor) and tensor.shape[0] == 1
    return tensor.repeat(2, *[1] * (tensor.dim() - 1)) if single else tensor


def reason(error: BaseException) -> str:
    """The innermost cause in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    said = first_line(error)
    if type(error).__name__ == "DispatchError" and (found := re.search(r"op='([\w.]+)'", said)):
        return (
            f"PyTorch has no translation of {found[1]} to ONNX; write it with other operators, or "
            "compute it outside the model"
        )
    return f"{type(error).__name__}: {said}"
