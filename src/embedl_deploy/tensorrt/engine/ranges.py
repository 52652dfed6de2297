"""Which sizes an engine takes where the file leaves them open."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from embedl_deploy.errors import BuildError
from embedl_deploy.onnx_model.inputs import named_inputs, open_inputs

if TYPE_CHECKING:
    from onnx import GraphProto


@dataclass(frozen=True)
class ShapeRange:
    """The shapes of an input that an engine takes; an optimization profile.

    Attributes:
        smallest: Of each size the least.
        best: What kernels are chosen for.
        largest: Of each size the most.
    """

    smallest: tuple[int, ...]
    best: tuple[int, ...]
    largest: tuple[int, ...]

    def __post_init__(self) -> None:
        sizes = (self.smallest, self.best, self.largest)
        if len({len(one) for one in sizes}) > 1:
            raise BuildError(f"the shapes of a range have one length, not {self}")
        if any(not low <= best <= high for low, best, high in zip(*sizes, strict=True)):
            raise BuildError(f"a range goes from small to large; {self} does not")

    @classmethod
    def exactly(cls, shape: Sequence[int]) -> "ShapeRange":
        """One shape alone."""
        return cls(tuple(shape), tuple(shape), tuple(shape))

    def __str__(self) -> str:
        return " to ".join(
            "×".join(map(str, one)) for one in (self.smallest, self.best, self.largest)
        )


def settled(graph: "GraphProto", given: Mapping[str, ShapeRange]) -> dict[str, ShapeRange]:
    """The ranges of all inputs whose sizes are open.

    Args:
        graph: Of the file.
        given: By name of the input; that of the only input may be empty.

    Raises:
        BuildError: A range is missing, or does not fit.
        CheckError: A name is no input.
    """
    wanted, open_ = named_inputs(graph, given), open_inputs(graph)
    for name, sizes in open_.items():
        if name not in wanted:
            shape = "×".join("?" if one is None else str(one) for one in sizes)
            raise BuildError(
                f"the input '{name}' has open sizes, {shape}: say which the engine takes, with "
                "--shape, or with --min, --opt and --max"
            )
        _hold_fit(name, sizes, wanted[name])
    return {name: wanted[name] for name in open_}


def _hold_fit(name: str, sizes: Sequence[int | None], given: ShapeRange) -> None:
    ends = zip(given.smallest, given.largest, strict=True)
    same = len(given.best) == len(sizes)
    if same and all(
        one is None or one == low == high for one, (low, high) in zip(sizes, ends, strict=True)
    ):
        return
    shape = "×".join("?" if one is None else str(one) for one in sizes)
    raise BuildError(f"{given} does not fit the input '{name}', which is {shape}")
