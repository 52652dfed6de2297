"""What a file says of how it was made, and the model in float32 that computes the same."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

from torch import fx

from embedl_deploy.export.attention import set_factors, take_in_factors
from embedl_deploy.export.lower import fold
from embedl_deploy.export.positions import store
from embedl_deploy.export.precision import Precision, dtype_of, round_values
from embedl_deploy.target import Lowering, Target

if TYPE_CHECKING:
    import onnx_ir

_KEY = "embedl_deploy"
"""Of the file's metadata."""


@dataclass(frozen=True)
class Manifest:
    """How a file was made.

    Attributes:
        precision: Of what is no integer.
        float32: Nodes that stay in float32 all the same, with the reason.
        attention_op: Whether attention is one operator.
        constants: Nodes that are stored tensors in the file; the dimension of the batch, where
            one row is stored.
        limited: Nodes with constants beyond the precision, which are its largest number.
        schema: Version of this form; a reader ignores names that it does not know.
        deployment: What the command `deploy` was asked for, under `options`, and how it read the
            data, under `data`; empty where something else exported the file.
    """

    precision: Precision = "float32"
    float32: Mapping[str, str] = field(default_factory=dict)
    attention_op: bool = False
    constants: Mapping[str, int | None] = field(default_factory=dict)
    limited: Sequence[str] = ()
    schema: int = 1
    deployment: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, model: "onnx_ir.Model") -> "Manifest | None":
        """From a file; `None` where this library did not write it."""
        text = model.metadata_props.get(_KEY)
        if text is None:
            return None
        known = {one.name for one in fields(cls)}
        return cls(**{name: value for name, value in json.loads(text).items() if name in known})

    def lowering(self, target: Target) -> Lowering:
        """How the file was written for its target."""
        return replace(target.lowering, whole_attention=self.attention_op)

    def write(self, model: "onnx_ir.Model") -> None:
        """Into a file's metadata."""
        model.metadata_props[_KEY] = json.dumps(asdict(self))


def settle(
    folded: fx.GraphModule,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    manifest: Manifest,
    lowering: Lowering,
) -> list[str]:
    """Give a folded model the values of the file, in place and computed in float32.

    Returns:
        Names of nodes with constants that the file's type limits.
    """
    set_factors(folded, args, kwargs)
    if manifest.precision == "float32":
        return []
    take_in_factors(folded, lowering)
    return round_values(folded, dtype_of(manifest.precision), manifest.float32, lowering)


def reference(
    model: fx.GraphModule,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    manifest: Manifest,
    lowering: Lowering,
) -> fx.GraphModule:
    """The simulation of a file in half precision: every constant has the value that it has there.

    Args:
        model: The simulated model; left as it is.
        args: Example inputs by position.
        kwargs: Example inputs by name.
        manifest: Of the file.
        lowering: Of the file.
    """
    folded = fold(model)
    store(folded, args, kwargs, manifest.constants)
    settle(folded, args, kwargs, manifest, lowering)
    return folded
