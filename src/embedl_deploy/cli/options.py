"""Options that several commands share, and how their values are read."""

from pathlib import Path
from typing import Annotated

import typer

from embedl_deploy.cli.names import complete_model
from embedl_deploy.cli.values import (
    AttentionChoice,
    ExampleInput,
    InputShape,
    ObserverChoice,
    PatternChoice,
    RecipeChoice,
    Shape,
    TargetChoice,
    parse_example,
    parse_input_shape,
    parse_page,
    parse_shape,
)

DATA, QUANTIZATION, FILE, JUDGING = "Model and data", "Quantization", "The file", "Judging it"
OUTPUT = "What is said"
TUNING = "Placement by evidence"
"""Panels of `--help`."""


def origin(spec: str, weights: Path | None) -> str:
    """A model and where its weights are from, in words."""
    if weights is not None:
        return f"{spec} with {weights}"
    if spec.startswith(("torchvision:", "timm:", "transformers:")):
        return f"{spec} with random weights, which --weights replaces"
    return spec


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
        autocompletion=complete_model,
        help="torchvision:NAME, timm:NAME, transformers:CLASS or package.module:factory.",
        show_default=False,
    ),
]
WeightsOption = Annotated[
    Path | None,
    typer.Option(
        "--weights",
        metavar="FILE",
        rich_help_panel=DATA,
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
        rich_help_panel=DATA,
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
        rich_help_panel=DATA,
        help="An example input with its batch, such as ids:1,128:int64; once for each input.",
        show_default=False,
    ),
]
BatchOption = Annotated[
    int,
    typer.Option(
        "--batch", min=1, metavar="N", rich_help_panel=DATA, help="Batch of the example input."
    ),
]
TargetOption = Annotated[
    TargetChoice,
    typer.Option(
        "--target",
        metavar="NAME",
        rich_help_panel=QUANTIZATION,
        help="tensorrt: data centres and Jetson; rtx: TensorRT for RTX, with depthwise "
        "convolutions in half precision and one scale for each weight.",
    ),
]
PatternsOption = Annotated[
    PatternChoice,
    typer.Option(
        "--patterns",
        metavar="LIST",
        rich_help_panel=QUANTIZATION,
        help="full: as the target wants it; smart: no Q/DQ at global pooling; mixed: nor at "
        "depthwise convolutions; fusions: all, without conversions.",
    ),
]
AttentionOption = Annotated[
    AttentionChoice,
    typer.Option(
        "--attention",
        metavar="WHAT",
        rich_help_panel=QUANTIZATION,
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
        rich_help_panel=OUTPUT,
        help="Write the results as a page for a browser too: one file, with the graph.",
        show_default=False,
    ),
]
SaveRunOption = Annotated[
    Path | None,
    typer.Option(
        "--save-run",
        metavar="RUN.yaml",
        rich_help_panel=OUTPUT,
        help="Write all options as a file for run, when all went well.",
        show_default=False,
    ),
]
JsonOption = Annotated[
    bool,
    typer.Option(
        "--json", rich_help_panel=OUTPUT, help="Print one JSON object, and nothing else, on stdout."
    ),
]
DebugOption = Annotated[
    bool,
    typer.Option(
        "--debug", rich_help_panel=OUTPUT, help="Show tracebacks, warnings and the library's log."
    ),
]
ObserverOption = Annotated[
    ObserverChoice,
    typer.Option(
        metavar="NAME",
        rich_help_panel=QUANTIZATION,
        help="minmax: the whole range; average: the mean of the batches' ranges; percentile: "
        "without outliers; entropy: with the least loss of information; mse: with the least "
        "squared error.",
    ),
]
RecipeOption = Annotated[
    RecipeChoice,
    typer.Option(
        metavar="NAME",
        rich_help_panel=QUANTIZATION,
        help="fast: calibrate; accurate: also smooth, equalize, search ranges, correct biases, "
        "each where it helps.",
    ),
]
PercentileOption = Annotated[
    float | None,
    typer.Option(
        min=0.0,
        max=100.0,
        metavar="SHARE",
        rich_help_panel=QUANTIZATION,
        help="Share of the values that the range holds (99.99).",
        show_default=False,
    ),
]
SkipOption = Annotated[
    list[str] | None,
    typer.Option(
        "--skip",
        metavar="PATH",
        rich_help_panel=QUANTIZATION,
        help="Modules to leave in floating point, such as 'layer1.*' or head; may be repeated.",
        show_default=False,
    ),
]
PlanOption = Annotated[
    Path | None,
    typer.Option(
        "--plan",
        metavar="PLAN.json",
        rich_help_panel=QUANTIZATION,
        help="Quantize as tune found; it says what --attention and --observer say else.",
        show_default=False,
    ),
]
FileBatchOption = Annotated[
    int,
    typer.Option(min=1, metavar="N", rich_help_panel=FILE, help="Batch that the file takes."),
]
GpuOption = Annotated[
    str, typer.Option("--gpu", metavar="NAME", help="What the compiler builds for, as in build.")
]
