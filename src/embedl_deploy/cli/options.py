"""Options that several commands share, and how their values are read."""

import enum
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor

from embedl_deploy.default import TARGETS
from embedl_deploy.errors import MissingExtraError
from embedl_deploy.target import Target


class TargetChoice(enum.StrEnum):
    """The targets by name."""

    TENSORRT = "tensorrt"
    RTX = "rtx"

    @property
    def target(self) -> Target:
        """The target itself."""
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


class ExampleInput(tuple[str, Tensor]):
    """The name of an input, empty for the next by position, and an example of it; likewise."""

    __slots__ = ()


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
    # zeros are ids of every vocabulary, and a mask of ones masks nothing
    make = torch.ones if dtype == "bool" else torch.zeros
    return ExampleInput((name, make(parse_shape(rest[0]), dtype=getattr(torch, dtype))))


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


def origin(spec: str, weights: Path | None) -> str:
    """A model and where its weights are from, in words."""
    if weights is not None:
        return f"{spec} with {weights}"
    if spec.startswith(("torchvision:", "timm:")):
        return f"{spec} with random weights, which --weights replaces"
    return spec


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


FileArgument = Annotated[
    Path,
    typer.Argument(metavar="FILE.onnx", help="An ONNX file of any tool.", show_default=False),
]
VersionOption = Annotated[
    str,
    typer.Option("--version", metavar="V", help="Of TensorRT: 10.x, 11.x, or one such as 10.12."),
]
InputShapesOption = Annotated[
    list[InputShape] | None,
    typer.Option(
        "--shape",
        metavar="[NAME:]N,C,H,W",
        parser=parse_input_shape,
        help="Shape of an input whose sizes the file leaves open; may be repeated.",
        show_default=False,
    ),
]
LeastShapesOption = Annotated[
    list[InputShape] | None,
    typer.Option(
        "--min",
        metavar="[NAME:]N,C,H,W",
        parser=parse_input_shape,
        help="Least shape that the engine takes; may be repeated.",
        show_default=False,
    ),
]
BestShapesOption = Annotated[
    list[InputShape] | None,
    typer.Option(
        "--opt",
        metavar="[NAME:]N,C,H,W",
        parser=parse_input_shape,
        help="Shape that kernels are chosen for; by default that of --max.",
        show_default=False,
    ),
]
MostShapesOption = Annotated[
    list[InputShape] | None,
    typer.Option(
        "--max",
        metavar="[NAME:]N,C,H,W",
        parser=parse_input_shape,
        help="Largest shape that the engine takes.",
        show_default=False,
    ),
]
ModelArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="torchvision:NAME, timm:NAME or package.module:factory.",
        show_default=False,
    ),
]
WeightsOption = Annotated[
    Path | None,
    typer.Option(
        "--weights",
        metavar="FILE",
        help="State dict: .pt, .pth or .safetensors.",
        show_default=False,
    ),
]
ShapeOption = Annotated[
    Shape | None,
    typer.Option(
        "--shape",
        metavar="C,H,W",
        parser=parse_shape,
        help="Shape of one input, without the batch; by default the model's usual one.",
        show_default=False,
    ),
]
InputsOption = Annotated[
    list[ExampleInput] | None,
    typer.Option(
        "--input",
        metavar="NAME:SHAPE:DTYPE",
        parser=parse_example,
        help="An example input with its batch, such as ids:1,128:int64; once for each input.",
        show_default=False,
    ),
]
BatchOption = Annotated[
    int, typer.Option("--batch", min=1, metavar="N", help="Batch of the example input.")
]
TargetOption = Annotated[
    TargetChoice,
    typer.Option(
        "--target",
        help="tensorrt: data centres and Jetson; rtx: TensorRT for RTX, with depthwise "
        "convolutions in half precision and one scale for each weight.",
    ),
]
PatternsOption = Annotated[
    PatternChoice,
    typer.Option(
        "--patterns",
        help="full: as the target wants it; smart: no Q/DQ at global pooling; mixed: nor at "
        "depthwise convolutions; fusions: all, without conversions.",
    ),
]
AttentionOption = Annotated[
    AttentionChoice,
    typer.Option(
        "--attention",
        help="What is quantized of attention: none: nothing, one kernel in half precision; full: "
        "everything, one INT8 kernel, faster and less accurate; inputs: query, key and value "
        "alone, which no fused kernel takes.",
    ),
]
ReportOption = Annotated[
    Path | None,
    typer.Option(
        "--report",
        metavar="PAGE.html",
        parser=parse_page,
        help="Write the results as a page for a browser too: one file, with the graph.",
        show_default=False,
    ),
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print one JSON object, and nothing else, on stdout.")
]
DebugOption = Annotated[
    bool, typer.Option("--debug", help="Show tracebacks, warnings and the library's log.")
]
DataOption = Annotated[
    str,
    typer.Option(
        metavar="SOURCE",
        help="Representative data: a folder of images, an .npz file, or module:callable.",
        show_default=False,
    ),
]
ExampleDataOption = Annotated[
    str | None,
    typer.Option(
        "--data",
        metavar="SOURCE",
        help="Data to take the example input from, as in deploy.",
        show_default=False,
    ),
]
ObserverOption = Annotated[
    ObserverChoice,
    typer.Option(
        help="minmax: the whole range; average: the mean of the batches' ranges; percentile: "
        "without outliers; entropy: with the least loss of information; mse: with the least "
        "squared error."
    ),
]
RecipeOption = Annotated[
    RecipeChoice,
    typer.Option(
        help="fast: calibrate; accurate: also smooth, equalize, search ranges, correct biases, "
        "each where it helps."
    ),
]
PercentileOption = Annotated[
    float | None,
    typer.Option(
        min=0.0,
        max=100.0,
        help="Share of the values that the range holds (99.99).",
        show_default=False,
    ),
]
PlanOption = Annotated[
    Path | None,
    typer.Option(
        "--plan",
        metavar="PLAN.json",
        help="Quantize as tune found; it says what --attention and --observer say else.",
        show_default=False,
    ),
]
GpuOption = Annotated[
    str, typer.Option("--gpu", metavar="NAME", help="What the compiler builds for, as in build.")
]
BatchSizeOption = Annotated[
    int, typer.Option(min=1, metavar="N", help="Samples in a calibration batch.")
]
LimitOption = Annotated[
    int,
    typer.Option(min=1, metavar="N", help="Samples at most; of a folder, evenly spaced."),
]
MeanOption = Annotated[
    Numbers | None,
    typer.Option(
        metavar="M,M,M",
        parser=parse_numbers,
        help="Mean of each channel of an image; by default the model's, or ImageNet's.",
        show_default=False,
    ),
]
StdOption = Annotated[
    Numbers | None,
    typer.Option(
        metavar="S,S,S",
        parser=parse_numbers,
        help="Standard deviation likewise; pixels are in 0..1.",
        show_default=False,
    ),
]
NoNormalizationOption = Annotated[
    bool, typer.Option("--no-normalization", help="Leave pixels in 0..1.")
]
