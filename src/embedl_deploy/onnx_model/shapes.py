"""Sizes of inputs that a file leaves open."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from embedl_deploy.errors import CheckError
from embedl_deploy.onnx_model.inputs import inputs_of, named_inputs
from embedl_deploy.table import counted

if TYPE_CHECKING:
    from onnx import GraphProto, ValueInfoProto

Shapes = Mapping[str, Sequence[int]]
"""Shapes by name of the input; the name may be empty where there is one input alone."""


def fix_shapes(graph: "GraphProto", given: Shapes) -> tuple[str, ...]:
    """Give inputs the shapes that are asked for, and an open first size 1.

    Args:
        graph: Is changed.
        given: Shapes by name.

    Returns:
        What was assumed, in words.

    Raises:
        CheckError: A name is no input, or a shape contradicts the file.
    """
    inputs, wanted = inputs_of(graph), named_inputs(graph, given)
    for name, sizes in wanted.items():
        _fix(inputs[name], sizes)
    said = [text for name, one in inputs.items() if name not in wanted for text in _assume(one)]
    return tuple(said)


def _fix(entry: "ValueInfoProto", sizes: Sequence[int]) -> None:
    kind = entry.type.tensor_type
    old = list(kind.shape.dim) if kind.HasField("shape") else None
    if old is not None and len(old) != len(sizes):
        found = counted(len(old), "dimension")
        raise CheckError(f"the input '{entry.name}' has {found}, not {len(sizes)}")
    for one, size in zip(old or (), sizes, strict=False):
        if one.HasField("dim_value") and one.dim_value != size:
            raise CheckError(
                f"the shape of the input '{entry.name}' has {one.dim_value} where {size} was given"
            )
    del kind.shape.dim[:]
    for size in sizes:
        kind.shape.dim.add(dim_value=size)


def _assume(entry: "ValueInfoProto") -> Iterator[str]:
    """An open first size is taken for a batch of 1; others stay open."""
    sizes = entry.type.tensor_type.shape.dim
    if sizes and not sizes[0].HasField("dim_value"):
        sizes[0].dim_value = 1
        yield f"the first size of the input '{entry.name}' is taken as 1"
    elif not entry.type.tensor_type.HasField("shape"):
        yield f"the shape of the input '{entry.name}' is not known"
    if any(not one.HasField("dim_value") for one in sizes):
        shape = "×".join(str(one.dim_value) if one.dim_value else "?" for one in sizes)
        yield f"the input '{entry.name}' has sizes that are not fixed: {shape}"
