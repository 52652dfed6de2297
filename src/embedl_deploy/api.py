"""The entry points."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from embedl_deploy.default import DEFAULT
from embedl_deploy.errors import CaptureError
from embedl_deploy.graph.capturing import Method, capture_with
from embedl_deploy.graph.wrapped import hidden
from embedl_deploy.patterns.parts import operations
from embedl_deploy.rewrite import (
    Result,
    TransformationPlan,
    apply_transformation_plan,
    find_plan,
    instances,
    share,
)
from embedl_deploy.target import Patterns, Target

_HIDDEN = 0.05
"""The part of a model's arithmetic that functions may hide from tracing."""

_logger = logging.getLogger(__name__)


def get_transformation_plan(
    model: nn.Module,
    args: Sequence[Any] | None = None,
    kwargs: Mapping[str, Any] | None = None,
    *,
    patterns: Patterns | None = None,
    target: Target = DEFAULT,
    method: Method = "auto",
    dynamic_shapes: Any = None,
    copy: bool = True,
) -> TransformationPlan:
    """Find what patterns would do to `model`, without doing it.

    Args:
        model: The source model; it is never changed.
        args: Example positional inputs. They give shapes, which some conversions need.
        kwargs: Example keyword inputs.
        patterns: Pattern classes or instances; earlier ones take precedence. By default those of
            the target.
        target: The compiler to prepare for. The result remembers it, and quantization and export
            follow it.
        method: How to capture the model; see `capture`.
        dynamic_shapes: Which dimensions may vary, for capture by `torch.export`; see `capture`.
        copy: Whether the result gets tensors of its own or shares the model's.

    Raises:
        CaptureError: The model cannot be captured, or the example inputs do not fit it.
        PatternError: A pattern is written in a way that cannot work.
    """
    chosen = instances(target.patterns if patterns is None else patterns)
    whole = {kind for one in chosen for part in operations(one.tree) for kind in part.kinds}
    options: Any = {"copy": copy, "dynamic_shapes": dynamic_shapes, "whole": whole}
    captured = capture_with(model, args, kwargs, method=method, **options)
    calls = hidden(captured.graph, whole)
    if method == "auto" and calls and share(calls, captured) > _HIDDEN:
        _logger.info("tracing cannot look into wrapped functions; torch.export is tried")
        options |= {"method": "export", "every_batch": True}
        try:
            captured = capture_with(model, args, kwargs, **options)
        except CaptureError as error:
            _logger.info("%s; they stay whole", str(error).partition("\n")[0])
    return find_plan(captured, target, chosen)


def transform(
    model: nn.Module,
    args: Sequence[Any] | None = None,
    kwargs: Mapping[str, Any] | None = None,
    *,
    patterns: Patterns | None = None,
    target: Target = DEFAULT,
    method: Method = "auto",
    dynamic_shapes: Any = None,
    copy: bool = True,
) -> Result:
    """Apply patterns to `model`: conversions until none fits, then fusions.

    The result computes what the model computes, and trains as it does. For the arguments and
    errors see `get_transformation_plan`.
    """
    plan = get_transformation_plan(
        model,
        args,
        kwargs,
        patterns=patterns,
        target=target,
        method=method,
        dynamic_shapes=dynamic_shapes,
        copy=copy,
    )
    return apply_transformation_plan(plan)
