"""From a model to the canonical graph."""

import copy
import inspect
import logging
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from torch import Tensor, fx, nn

from embedl_deploy.errors import CaptureError
from embedl_deploy.graph.canonical import canonicalize
from embedl_deploy.graph.shapes import propagate
from embedl_deploy.graph.tracer import trace

_logger = logging.getLogger(__name__)


def capture(
    model: nn.Module,
    args: Sequence[Any] | None = None,
    kwargs: Mapping[str, Any] | None = None,
    *,
    method: Literal["auto", "trace"] = "auto",
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
        method: `"trace"` is symbolic tracing with `torch.fx`; `"auto"` picks a way that works.
        copy: Whether the graph gets tensors of its own. Without, it shares the model's.

    Raises:
        CaptureError: The model can not be traced, or the example inputs do not fit it.
    """
    if method not in {"auto", "trace"}:
        message = f"capture method {method!r} is not known; use 'auto' or 'trace'"
        raise CaptureError(message)
    if args is not None and not isinstance(args, Sequence):
        message = f"args is a {type(args).__name__}; pass the inputs as a tuple: (example,)"
        raise CaptureError(message)
    own = _copied(model, share=not copy)
    given = args is not None or bool(kwargs)
    omitted = _omitted(own, args or (), kwargs or {}) if given else ()
    graph = canonicalize(own, trace(own, omitted))
    if given:
        propagate(graph, tuple(args or ()), dict(kwargs or {}))
    _logger.debug("captured %s: %d nodes", type(model).__name__, len(graph.graph.nodes))
    return graph


def _omitted(model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> frozenset[str]:
    """Names of inputs that have a default and no example."""
    try:
        signature = inspect.signature(model.forward)
        given = signature.bind_partial(*args, **kwargs).arguments
    except (TypeError, ValueError):  # propagate() says what does not fit
        return frozenset()
    parameters = signature.parameters.values()
    return frozenset(
        one.name
        for one in parameters
        if one.name not in given and one.default is not inspect.Parameter.empty
    )


def _copied(model: nn.Module, *, share: bool) -> nn.Module:
    """A copy of the module tree; the tensors too, unless they are to be shared."""
    memo: dict[int, Any] = {id(tensor): tensor for tensor in _tensors(model)} if share else {}
    try:
        return copy.deepcopy(model, memo)
    except Exception as error:  # a module may hold anything
        message = (
            f"{type(model).__name__} can not be copied ({error}); remove what can not be copied "
            "from the model (open files, locks, tensors that carry a gradient history)"
        )
        raise CaptureError(message) from error


def _tensors(model: nn.Module) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()]
