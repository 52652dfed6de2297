"""A check in a graph that an input is as it was when the model was captured.

Where the model's code computes with sizes, the graph holds for those of the example alone; for
others it may give wrong numbers. Programs of `torch.export` check the same.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, fx
from torch.utils import _pytree as pytree

from embedl_deploy.errors import CaptureError

Form = Any
"""The sizes of a tensor, those that may vary as `None`; else a value, `None` where any will do."""


def check_input(name: str, value: Any, forms: Sequence[Form]) -> None:
    """Raise unless an input is as it was when the model was captured.

    Args:
        name: Of the input.
        value: The input.
        forms: What the graph holds for: one for the input, or for each leaf of a container.

    Raises:
        CaptureError: A size or a value is another one.
    """
    if isinstance(value, fx.Proxy):  # as where a graph is unpickled, which traces its code
        value.tracer.create_proxy("call_function", check_input, (name, value, forms), {})
        return
    for leaf, form in zip(pytree.tree_leaves(value), forms, strict=False):
        if not _fits(leaf, form):
            raise CaptureError(
                f"the input '{name}' is {_said(leaf)}; the graph holds for {_said(form)} alone, "
                "since the model's code computes with it: transform it with such an example, or "
                "with dynamic_shapes"
            )


def add_check(graph: fx.Graph, name: str, value: Any, forms: Sequence[Form]) -> None:
    """Let a graph check an input, at the point where nodes are inserted; see `check_input`."""
    if any(map(_is_fixed, forms)):
        graph.call_function(check_input, (name, value, tuple(forms)))


def _is_fixed(form: Form) -> bool:
    return any(one is not None for one in form) if isinstance(form, tuple) else form is not None


def _fits(value: Any, form: Form) -> bool:
    if not isinstance(value, Tensor):
        return form is None or value == form
    return len(value.shape) == len(form) and all(
        one is None or one == size for one, size in zip(form, value.shape, strict=True)
    )


def _said(value: Any) -> str:
    if isinstance(value, Tensor):
        value = tuple(value.shape)
    if not isinstance(value, tuple):
        return repr(value)
    return f"[{', '.join('any' if size is None else str(size) for size in value)}]"
