"""Values of options, and how they are read."""

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from embedl_deploy.errors import MissingExtraError

if TYPE_CHECKING:
    from torch import Tensor

    from embedl_deploy.target import Target


class HalfChoice(enum.StrEnum):
    """Types of 16 bits."""

    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"


class TargetChoice(enum.StrEnum):
    """The targets by name."""

    TENSORRT = "tensorrt"
    RTX = "rtx"

    @property
    def target(self) -> "Target":
        """The target itself."""
        from embedl_deploy.default import TARGETS

        return TARGETS[self.value]


class PatternChoice(enum.StrEnum):
    """The pattern lists by name."""

    FULL = "full"
    SMART = "smart"
    MIXED = "mixed"
    FUSIONS = "fusions"


class ObserverChoice(enum.StrEnum):
    """The observers by name."""

    MINMAX = "minmax"
    AVERAGE = "average"
    PERCENTILE = "percentile"
    ENTROPY = "entropy"
    MSE = "mse"


class RecipeChoice(enum.StrEnum):
    """The recipes by name."""

    FAST = "fast"
    ACCURATE = "accurate"


class AttentionChoice(enum.StrEnum):
    """What is quantized of attention."""

    INPUTS = "inputs"
    FULL = "full"
    NONE = "none"


class Shape(tuple[int, ...]):
    """Sizes; typer would take a plain tuple for an option with several words."""

    __slots__ = ()

    def __str__(self) -> str:
        return "×".join(map(str, self))


class Numbers(tuple[float, ...]):
    """Numbers; likewise."""

    __slots__ = ()


def parse_shape(text: str) -> Shape:
    """`3,224,224` (or with × or x) as sizes.

    Raises:
        BadParameter: A size is no number above 0.
    """
    sizes = text.replace("×", ",").replace("x", ",").split(",")
    if all(size.strip().isdecimal() and int(size) > 0 for size in sizes):
        return Shape(map(int, sizes))
    raise typer.BadParameter(f"'{text}' is no shape: write sizes above 0, such as 3,224,224")


class InputShape(tuple[str, Shape]):
    """The name of an input, empty for the only one, and its shape; likewise."""

    __slots__ = ()


def parse_input_shape(text: str) -> InputShape:
    """`image:1,3,224,224`, or without a name for the only input.

    Raises:
        BadParameter: A size is no number above 0.
    """
    name, _, sizes = text.rpartition(":")
    return InputShape((name, parse_shape(sizes)))


def input_shapes(given: Sequence[InputShape] | None) -> dict[str, Shape]:
    """Shapes by name of the input."""
    return dict(given or ())


@dataclass(frozen=True)
class ExampleInput:
    """An example of an input.

    Attributes:
        name: Empty for the next by position.
        shape: With the batch.
        dtype: Name of its type.
    """

    name: str
    shape: Shape
    dtype: str

    @property
    def tensor(self) -> "Tensor":
        """The example: zeros are ids of every vocabulary, and a mask of ones masks nothing."""
        import torch

        make = torch.ones if self.dtype == "bool" else torch.zeros
        return make(self.shape, dtype=getattr(torch, self.dtype))


_DTYPES = ("float32", "float16", "int64", "int32", "bool")


def parse_example(text: str) -> ExampleInput:
    """`ids:1,128:int64`; the name may be empty, and the type left out, which is float32 then.

    Raises:
        BadParameter: It has another form, a size is no number above 0, or the type is not known.
    """
    name, *rest = text.split(":")
    if not rest or len(rest) > 2:
        raise typer.BadParameter(
            f"'{text}' is no input: write NAME:SHAPE:DTYPE, such as ids:1,128:int64"
        )
    dtype = rest[1] if len(rest) > 1 else "float32"
    if dtype not in _DTYPES:
        raise typer.BadParameter(f"'{dtype}' is no type known here: use {', '.join(_DTYPES)}")
    return ExampleInput(name, parse_shape(rest[0]), dtype)


def parse_numbers(text: str) -> Numbers:
    """`0.5,0.5,0.5` as numbers.

    Raises:
        BadParameter: One is no number.
    """
    try:
        return Numbers(float(part) for part in text.split(","))
    except ValueError:
        message = f"'{text}' are no numbers: write one or three, such as 0.5,0.5,0.5"
        raise typer.BadParameter(message) from None


def parse_page(text: str) -> Path:
    """Where a page is to be written, before any work is done for it.

    Raises:
        BadParameter: It is no name of a page, or jinja2 is not installed.
    """
    path = Path(text)
    if path.suffix.lower() not in {".html", ".htm"}:
        raise typer.BadParameter(f"'{text}' is no name of a page: it ends in .html")
    if not path.absolute().parent.is_dir():
        raise typer.BadParameter(f"the folder '{path.parent}' does not exist")
    if find_spec("jinja2") is None:
        raise typer.BadParameter(str(MissingExtraError("jinja2", "report", "a page")))
    return path
