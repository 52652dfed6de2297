"""From a model to the canonical graph."""

import copy
import inspect
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, get_args

import torch
from torch import Tensor, fx, nn

from embedl_deploy.errors import CaptureError
from embedl_deploy.graph.canonical import canonicalize
from embedl_deploy.graph.chance import no_chance
from embedl_deploy.graph.exported import Inputs, export
from embedl_deploy.graph.parametrized import settle_weights, stale_weights
from embedl_deploy.graph.paths import keep_name
from embedl_deploy.graph.shapes import propagate
from embedl_deploy.graph.state import State, check_calls_are_alike, no_state
from embedl_deploy.graph.stops import no_way
from embedl_deploy.graph.tracer import trace
from embedl_deploy.graph.wrapped import look_into

Method = Literal["auto", "trace", "export"]

_logger = logging.getLogger(__name__)


def capture(
    model: nn.Module,
    args: Sequence[Any] | None = None,
    kwargs: Mapping[str, Any] | None = None,
    *,
    method: Method = "auto",
    dynamic_shapes: Any = None,
    copy: bool = True,
) -> fx.GraphModule:
    """Capture `model` as a canonical graph; the model itself is never changed.

    The graph calls plain `torch.nn` modules for every operation that has parameters or that a
    pattern may name, and one function each for the others. It keeps train and eval behaviour.

    Args:
        model: The source model.
        args: Example positional inputs; with them every node gets the shape of its value
            (`node.meta["val"]`), computed without running the model. An input that has a
            default and no example takes the default, and the graph does not have it.
        kwargs: Example keyword inputs.
        method: `"trace"` is symbolic tracing with `torch.fx`, which needs no example inputs.
            `"export"` is `torch.export`, which takes models whose code depends on shapes; it
            keeps modules whole all the same. `"auto"` tries the first and falls back to the
            second, and logs that it did.
        dynamic_shapes: For `torch.export`, in its own form: which dimensions may vary. By
            default the first one of every input, where the model's code allows it.
        copy: Whether the graph gets tensors of its own. Without, it shares the model's.

    Raises:
        CaptureError: The model cannot be traced, or the example inputs do not fit it.
    """
    return capture_with(
        model, args, kwargs, method=method, copy=copy, dynamic_shapes=dynamic_shapes
    )


def capture_with(
    model: nn.Module,
    args: Sequence[Any] | None,
    kwargs: Mapping[str, Any] | None,
    *,
    method: Method,
    copy: bool,
    **options: Any,
) -> fx.GraphModule:
    """See `capture`; `options` are fields of `Inputs`."""
    if method not in get_args(Method):
        raise CaptureError(f"capture method {method!r} is not known; use one of {get_args(Method)}")
    if args is not None and not isinstance(args, Sequence):
        raise CaptureError(
            f"args is a {type(args).__name__}; pass the inputs as a tuple: (example,)"
        )
    if not isinstance(model, nn.Module):
        raise CaptureError(
            f"the model is a {type(model).__name__}, not a torch.nn.Module; pass an instance of one"
        )
    own = _copied(model, share=not copy)
    settle_weights(own)
    keep_name(own, model)
    given = args is not None or bool(kwargs)
    example = Inputs(tuple(args or ()), dict(kwargs or {}), **options)
    graph = _captured(own, example if given else None, method)
    if given:
        propagate(graph, tuple(args or ()), dict(kwargs or {}))
    _logger.debug("captured %s: %d nodes", type(model).__name__, len(graph.graph.nodes))
    return graph


@contextmanager
def _no_fast_path() -> Iterator[None]:
    """Let encoders of torch.nn compute what they do in training.

    In inference they call one operator for a whole layer, and give zeros for what is padded.
    """
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)


@_no_fast_path()
def _captured(model: nn.Module, inputs: Inputs | None, method: Method) -> fx.GraphModule:
    """The canonical graph of `model`, whose modules it takes over."""
    if method == "export" or (method == "auto" and inputs and inputs.dynamic_shapes is not None):
        return _exported(model, inputs)
    try:
        return _traced(model, inputs)
    except CaptureError as error:
        if method == "trace" or inputs is None:
            raise
        _logger.info("%s; torch.export is tried", str(error).partition("\n")[0])
        traced = error
    try:
        return _exported(model, inputs)
    except CaptureError as error:
        raise no_way(model, traced, error) from error


def _exported(model: nn.Module, inputs: Inputs | None) -> fx.GraphModule:
    if inputs is None:
        raise CaptureError("capture by torch.export needs example inputs; pass args or kwargs")
    with no_chance():
        graph, written = export(model, _copied(model, share=True), inputs)
    _check_state(model, inputs, written)
    return canonicalize(model, graph)


def _traced(model: nn.Module, inputs: Inputs | None) -> fx.GraphModule:
    """The canonical graph of `model`; its code runs on a copy, which keeps what it writes there."""
    if isinstance(model, fx.GraphModule):
        return canonicalize(model, model.graph)
    stage = _copied(model, share=True)
    state = State(stage)
    with no_chance():
        graph = trace(stage, *(_omitted_and_kinds(model, inputs) if inputs else ()))
        opened = graph
        if inputs:
            opened = look_into(stage, graph, (inputs.args, inputs.kwargs), inputs.whole)
    made = _adopt(model, stage, opened)
    if changed := state.changed():
        raise CaptureError(
            f"the model writes to its own tensor '{changed[0]}' in forward(); keep such state "
            "outside the captured part"
        )
    try:
        canonical = canonicalize(model, opened)
    except CaptureError:  # of a function that may write to parts of tensors while it is hidden
        if opened is graph:
            raise
        canonical = canonicalize(model, graph)
    _check_state(model, inputs, [path for path in state.written(stage) if path not in made])
    return canonical


def _adopt(model: nn.Module, stage: nn.Module, graph: fx.Graph) -> set[str]:
    """Give `model` the constants that its code made on the stage; their paths."""
    read = {str(node.target) for node in graph.nodes if node.op == "get_attr"}
    made = read & (vars(stage).keys() - vars(model).keys())
    for path in made:
        setattr(model, path, getattr(stage, path))
    return made


def _check_state(model: nn.Module, inputs: Inputs | None, written: list[str]) -> None:
    if not written:
        return
    if inputs is None:
        raise no_state(model, written)
    check_calls_are_alike(model, inputs.args, inputs.kwargs, written)


_STARS: dict[Any, str] = {
    inspect.Parameter.VAR_POSITIONAL: "*",
    inspect.Parameter.VAR_KEYWORD: "**",
}
"""How torch.fx names the inputs that take the rest."""


def _omitted_and_kinds(model: nn.Module, inputs: Inputs) -> tuple[frozenset[str], dict[str, type]]:
    """Names of inputs that need no example and have none, and the types of the examples."""
    try:
        signature = inspect.signature(model.forward)
        given = signature.bind_partial(*inputs.args, **inputs.kwargs).arguments
    except (TypeError, ValueError):  # propagate() says what does not fit
        return frozenset(), {}
    omitted = frozenset(
        _STARS.get(one.kind, "") + one.name
        for one in signature.parameters.values()
        if one.name not in given
        and (one.kind in _STARS or one.default is not inspect.Parameter.empty)
    )
    return omitted, {name: type(value) for name, value in given.items()}


def _copied(model: nn.Module, *, share: bool) -> nn.Module:
    """A copy of the module tree; the tensors too, unless they are to be shared."""
    memo: dict[int, Any] = {id(one): one.detach() for one in stale_weights(model)}
    memo |= {id(tensor): tensor for tensor in _tensors(model)} if share else {}
    try:
        return copy.deepcopy(model, memo)
    except Exception as error:  # a module may hold anything
        message = (
            f"{type(model).__name__} cannot be copied ({error}); remove what cannot be copied "
            "from the model (open files, locks, tensors that carry a gradient history)"
        )
        raise CaptureError(message) from error


def _tensors(model: nn.Module) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()]
