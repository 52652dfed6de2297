"""Capture by `torch.export`: for models whose Python code depends on shapes or values."""

import inspect
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from operator import attrgetter
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.fx.experimental.symbolic_shapes import is_concrete_int
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._sympy.numbers import int_oo

from embedl_deploy.batches import device_of, moved
from embedl_deploy.errors import CaptureError
from embedl_deploy.graph.known import KnownValues
from embedl_deploy.graph.leaves import Leaves, dropout
from embedl_deploy.graph.reader import SAME_VALUE, Reader
from embedl_deploy.graph.respell import spelling_of
from embedl_deploy.graph.state import State, taken_back
from embedl_deploy.graph.stops import stopped
from embedl_deploy.graph.tracer import Tracer

_OPENED = (nn.Identity, nn.Flatten)
"""Leaves of symbolic tracing that compute nothing a module is needed for."""


@dataclass(frozen=True)
class Inputs:
    """Example inputs, and which of their dimensions may vary.

    Attributes:
        args: Positional inputs.
        kwargs: Inputs by name.
        dynamic_shapes: As `torch.export.export` takes it; `None` lets the first dimension of
            every tensor vary where the model's code allows it.
        whole: Functions that `torch.fx.wrap` hides, or their names, that are to stay so.
        every_batch: Whether a program that holds for some sizes of a batch alone is refused.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    dynamic_shapes: Any = None
    whole: Collection[Any] = ()
    every_batch: bool = False


def export(model: nn.Module, stage: nn.Module, inputs: Inputs) -> tuple[fx.Graph, list[str]]:
    """The graph of `model`, as `torch.export` sees it, with modules kept whole.

    Args:
        model: The model; constants that its code makes become buffers of it.
        stage: A copy of it, whose code runs.
        inputs: Example inputs.

    Returns:
        The graph, and the paths of what the code writes to the model besides its tensors.

    Raises:
        CaptureError: `torch.export` cannot take the model.
    """
    leaves = Leaves()
    with leaves.kept(_leaf_modules(stage)), _watched(stage) as written:
        program = _program(stage, inputs)
    return raised(model, program, leaves), written


def raised(model: nn.Module, program: torch.export.ExportedProgram, leaves: Leaves) -> fx.Graph:
    """The graph of an exported program of `model` in the spelling of the operations table.

    Args:
        model: The model; constants that its code makes become its buffers.
        program: The program.
        leaves: The modules that were kept whole in it.
    """
    graph = Reader(leaves, program).read()
    _adopt_constants(model, program.constants, graph)
    return graph


def _program(model: nn.Module, inputs: Inputs) -> torch.export.ExportedProgram:
    program = _any_batch(model, inputs) if inputs.dynamic_shapes is None else None
    if inputs.every_batch and not (program and _is_general(program)):
        raise CaptureError(f"what {type(model).__name__} computes depends on the size of the batch")
    if program is not None:
        return program
    try:
        return _functional(_export(model, inputs))
    except Exception as error:  # torch raises what it likes
        how = f"torch.export cannot take {type(model).__name__}"
        advice = (
            "capture a submodule without this line, other example inputs, or dynamic_shapes that "
            "the model's code allows"
        )
        raise stopped(model, how, error, advice) from error


def _functional(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """The program without in-place operations that the operations table does not have.

    Writes to parts of a tensor, above all: what else has that memory is known to torch alone.
    """
    writes = [node for node in program.graph.nodes if _writes(node)]
    return program.run_decompositions({}) if writes else program


def _writes(node: fx.Node) -> bool:
    if not isinstance(node.target, torch._ops.OpOverload):  # noqa: SLF001 - has no public name
        return False
    known = node.target in SAME_VALUE or spelling_of(node.target) is not None
    return node.target._schema.is_mutable and not known  # noqa: SLF001 - the only way to ask


def _export(model: nn.Module, inputs: Inputs) -> torch.export.ExportedProgram:
    args, kwargs = moved((inputs.args, inputs.kwargs), device_of(model))
    dynamic_shapes = inputs.dynamic_shapes
    return torch.export.export(model, args, kwargs, dynamic_shapes=dynamic_shapes, strict=False)


@contextmanager
def _watched(model: nn.Module) -> Iterator[list[str]]:
    """The modes of an export around the model's own code alone, since they see each call of torch.

    Gives a list, which after a run has the paths of what the code wrote to the model.
    """
    own, forward = vars(model).get("forward"), model.forward
    known = KnownValues(model)
    written: list[str] = []

    @wraps(forward)
    def run(*args: Any, **kwargs: Any) -> Any:
        known.start(model)
        with taken_back(model):
            state = State(model)
            with _SeparateDropouts(), known:
                result = forward(*args, **kwargs)
            written[:] = state.written(model)
        return result

    model.forward = run
    try:
        yield written
    finally:
        del model.forward
        if own is not None:
            model.forward = own


class _SeparateDropouts(TorchFunctionMode):
    """Keeps what a dropout gives apart from what it takes.

    In eval mode the two are one tensor; torch.export then takes the one for the other wherever
    it is used, and in training the model would be another one.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func not in _DROPOUTS or kwargs.get("inplace") or len(args) > 3:
            return func(*args, **kwargs)
        kind, trains, rank = _DROPOUTS[func]
        named = dict(zip(("input", "p", "training"), args, strict=False)) | kwargs
        given, p = named["input"], named.get("p", 0.5)
        if rank not in {None, given.dim()} or not given.is_floating_point():
            return func(given.clone(), *args[1:], **kwargs) if args else func(**kwargs)
        train = named.get("training", named.get("train", trains))
        return dropout(kind, given, p, train=bool(train))


_ATEN = torch.ops.aten
_DROPOUTS: dict[Any, tuple[Any, bool, int | None]] = {
    F.dropout: (_ATEN.dropout.default, True, None),
    F.dropout1d: (_ATEN.feature_dropout.default, True, 3),
    F.dropout2d: (_ATEN.feature_dropout.default, True, 4),
    F.dropout3d: (_ATEN.feature_dropout.default, True, 5),
    F.alpha_dropout: (_ATEN.alpha_dropout.default, False, None),
    F.feature_alpha_dropout: (_ATEN.feature_alpha_dropout.default, False, None),
    torch.dropout: (_ATEN.dropout.default, True, None),
    torch.feature_dropout: (_ATEN.feature_dropout.default, True, None),
    torch.alpha_dropout: (_ATEN.alpha_dropout.default, True, None),
    torch.feature_alpha_dropout: (_ATEN.feature_alpha_dropout.default, True, None),
}
"""What a function draws, whether it does by default, and for how many dimensions."""


def _any_batch(model: nn.Module, inputs: Inputs) -> torch.export.ExportedProgram | None:
    """The program for batches of any size, or `None` where it has to be exported as it is.

    Where the model's code fixes the size, it is the program for the size that was given.
    """
    tree = (inputs.args, inputs.kwargs)
    tensors = [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]
    sizes = {leaf.shape[0] if leaf.dim() else None for leaf in tensors}
    if len(sizes) != 1 or None in sizes:
        return None
    args, kwargs = pytree.tree_map_only(Tensor, _two_or_more, tree)
    shapes = pytree.tree_map(lambda leaf: _first_varies if isinstance(leaf, Tensor) else None, tree)
    dynamic = (*shapes[0],) if not kwargs else _named(model, shapes)
    try:
        program = _functional(_export(model, Inputs(args, kwargs, dynamic)))
    except Exception:  # noqa: BLE001 - torch raises what it likes; the export with the sizes given says why
        return None
    return program if sizes != {1} or _varies(program) else None


def _varies(program: torch.export.ExportedProgram) -> bool:
    """Whether the first dimension of each tensor that is an input has any size."""
    names = set(program.graph_signature.user_inputs)
    found = [node.meta.get("val") for node in program.graph.nodes if node.name in names]
    values = [value for value in found if isinstance(value, Tensor)]
    return not any(is_concrete_int(value.shape[0]) for value in values)


def _is_general(program: torch.export.ExportedProgram) -> bool:
    """Whether no size has an upper bound, as one that the code compares with a number has."""
    bounds = program.range_constraints.values()
    return _varies(program) and all(one.upper == int_oo for one in bounds)


def _two_or_more(tensor: Tensor) -> Tensor:
    """torch.export takes a size of one for a constant."""
    return tensor if tensor.shape[0] > 1 else tensor.repeat(2, *[1] * (tensor.dim() - 1))


_first_varies = {0: torch.export.Dim.AUTO}


def _named(model: nn.Module, shapes: Any) -> dict[str, Any]:
    names = tuple(inspect.signature(model.forward).parameters)
    return dict(zip(names, shapes[0], strict=False)) | shapes[1]


def _leaf_modules(model: nn.Module) -> dict[str, nn.Module]:
    tracer = Tracer()
    named = model.named_modules()
    return {
        path: module
        for path, module in named
        if path and tracer.is_leaf_module(module, path) and not isinstance(module, _OPENED)
    }


def _adopt_constants(model: nn.Module, constants: Mapping[str, Any], graph: fx.Graph) -> None:
    """Tensors that the code of the model made while it was exported become its own."""
    for node in graph.nodes:
        path = str(node.target)
        if node.op != "get_attr" or _has(model, path):
            continue
        name = path.replace(".", "_")
        model.register_buffer(name, constants[path].detach(), persistent=False)
        node.target = name


def _has(model: nn.Module, path: str) -> bool:
    try:
        attrgetter(path)(model)
    except AttributeError:
        return False
    return True
