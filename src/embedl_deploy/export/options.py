"""What `export_onnx` is asked for, as one value that holds no contradiction."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, get_args

import torch

from embedl_deploy.errors import ExportError
from embedl_deploy.export import naming
from embedl_deploy.export.precision import Keep, Precision, dtype_of
from embedl_deploy.export.program import DynamicShapes
from embedl_deploy.target import Lowering, StoredAs, Target

_FIRST_OPSET: Mapping[Precision, int] = {"float32": 18, "float16": 19, "bfloat16": 22}
"""First version whose operators take the type; those of float16 are the Q/DQ operators."""

_ATTENTION_OPSET = 23
"""First version with the operator Attention."""

_WRITTEN = range(18, 25)
"""What `torch.onnx` writes."""


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """The arguments of `export_onnx`, checked against each other and the target.

    Raises:
        ExportError: They contradict each other, or the target does not take them.
    """

    target: Target
    precision: Precision = "float32"
    quantized_weights: StoredAs | None = None
    keep_float32: Sequence[Keep] = ()
    float32_io: bool = False
    attention_op: bool = False
    dynamic_batch: bool = False
    dynamic_shapes: DynamicShapes | None = None
    opset: int | None = None
    input_names: Sequence[str] | None = None
    output_names: Sequence[str] | None = None
    deployment: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        dtype_of(self.precision)
        self._check_opset()
        if self.quantized_weights not in (None, *get_args(StoredAs)):
            raise ExportError(
                f"quantized_weights is {self.quantized_weights!r}; choose 'int8' or 'float'"
            )
        if self.dynamic_batch and self.dynamic_shapes is not None:
            raise ExportError(
                "dynamic_batch and dynamic_shapes exclude each other; give one of them"
            )
        naming.given(self.input_names, "input")
        naming.given(self.output_names, "output")

    def _check_opset(self) -> None:
        version, first = self.version, _FIRST_OPSET[self.precision]
        if version not in _WRITTEN or version not in self.target.opsets:
            lowest = max(_WRITTEN[0], self.target.opsets[0])
            highest = min(_WRITTEN[-1], self.target.opsets[-1])
            raise ExportError(
                f"opset {version} is not between {lowest} and {highest}, which torch.onnx writes "
                f"and {self.target.name} reads"
            )
        if version < first:
            raise ExportError(f"{self.precision} needs opset {first}, not {version}")
        if self.attention_op and version < _ATTENTION_OPSET:
            raise ExportError(
                f"the operator Attention needs opset {_ATTENTION_OPSET}, not {version}"
            )

    @property
    def version(self) -> int:
        """The opset: as given, or the target's, or the first that has what is asked for."""
        if self.opset is not None:
            return self.opset
        attention = _ATTENTION_OPSET if self.attention_op else 0
        return max(self.target.opset, _FIRST_OPSET[self.precision], attention)

    @property
    def dtype(self) -> torch.dtype:
        """The type of what is no integer."""
        return dtype_of(self.precision)

    @property
    def lowering(self) -> Lowering:
        """As the target asks, except for what was given."""
        asked = self.target.lowering
        return replace(
            asked,
            whole_attention=asked.whole_attention or self.attention_op,
            quantized_weights=self.quantized_weights or asked.quantized_weights,
        )
