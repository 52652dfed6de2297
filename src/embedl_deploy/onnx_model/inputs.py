"""The inputs of a file by name, and which of their sizes are open."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeVar

from embedl_deploy.errors import CheckError

if TYPE_CHECKING:
    from onnx import GraphProto, ValueInfoProto

T = TypeVar("T")


def inputs_of(graph: "GraphProto") -> "dict[str, ValueInfoProto]":
    """Inputs that are no initializers."""
    constants = {one.name for one in graph.initializer}
    return {one.name: one for one in graph.input if one.name not in constants}


def named_inputs(graph: "GraphProto", given: Mapping[str, T]) -> dict[str, T]:
    """What is given for inputs, under their names; that of the only input may be empty.

    Raises:
        CheckError: There is no such input, or there are several.
    """
    names, found = list(inputs_of(graph)), {}
    for name, one in given.items():
        key = names[0] if not name and len(names) == 1 else name
        if key not in names:
            which = f"an input '{name}'" if name else "one input alone"
            raise CheckError(
                f"the file does not have {which}; its inputs are {', '.join(names) or 'none'}"
            )
        found[key] = one
    return found


def open_inputs(graph: "GraphProto") -> dict[str, tuple[int | None, ...]]:
    """Shapes of the inputs that have open sizes, which are None."""
    shapes = {
        name: tuple(
            size.dim_value if size.HasField("dim_value") else None
            for size in one.type.tensor_type.shape.dim
        )
        for name, one in inputs_of(graph).items()
    }
    return {name: sizes for name, sizes in shapes.items() if None in sizes}
