"""Products of one row, which TensorRT for RTX is left to compute in half precision."""

import copyreg
from functools import partial
from typing import Any

from embedl_deploy.patterns import Pattern, Site
from embedl_deploy.patterns.parts import names
from embedl_deploy.rewrite.find import call

_WEIGHTS = 2**21
"""INT8 saves a byte of each: of this many, what a GPU reads while a kernel starts."""


class _Made(type):
    """Of patterns that are made here; they are pickled as what they are made of."""


_MADE: dict[type[Pattern], type[Pattern]] = {}
copyreg.pickle(_Made, lambda one: (_made_of, one.__bases__))


def half_at_one_row(pattern: type[Pattern]) -> type[Pattern]:
    """The pattern of a layer with weights, quantized unless it multiplies a single row.

    That is a fully connected layer, or a convolution of a map of 1×1 as in squeeze-and-excitation,
    at batch size 1. In INT8 a second kernel scales its result and adds the bias.
    """
    layer = next((one for one in ("conv", "linear") if one in names(pattern.tree)), None)
    if layer is None or not pattern.qdq_points:
        return pattern

    def keep_float(self: Pattern, site: Site, **bound: Any) -> str | None:
        weight, shape = bound[layer].weight, site.input_shape(layer)
        if shape is not None and weight.numel() < _WEIGHTS:
            rows = shape[:-1] if layer == "linear" else (shape[0], *shape[2:])
            if all(size == 1 for size in rows):
                return "it multiplies one row, for which INT8 takes a kernel more"
        reason: str | None = call(self, partial(pattern.keep_float, self), {**bound, "site": site})
        return reason

    more = {"keep_float": keep_float, "__doc__": pattern.__doc__}
    made: Any = _Made(pattern.__name__, (pattern,), more)
    return _MADE.setdefault(pattern, made)


def _made_of(pattern: type[Pattern]) -> Any:
    return half_at_one_row(pattern)
