"""The entry points."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from embedl_deploy.default import DEFAULT
from embedl_deploy.graph import capture
from embedl_deploy.graph.capturing import Method
from embedl_deploy.rewrite import (
    Result,
    TransformationPlan,
    apply_transformation_plan,
    find_plan,
)
from embedl_deploy.target import Patterns, Target


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
    return find_plan(
        capture(model, args, kwargs, method=method, dynamic_shapes=dynamic_shapes, copy=copy),
        target,
        patterns,
    )


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
