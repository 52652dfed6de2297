"""Options of the data that calibrates and judges."""

from typing import Annotated

import typer

from embedl_deploy.cli.options import DATA, JUDGING
from embedl_deploy.cli.values import Numbers, parse_numbers

DataOption = Annotated[
    str,
    typer.Option(
        metavar="SOURCE",
        rich_help_panel=DATA,
        help="Representative data: a folder of images, an .npz file, or module:callable.",
        show_default=False,
    ),
]
ExampleDataOption = Annotated[
    str | None,
    typer.Option(
        "--data",
        metavar="SOURCE",
        rich_help_panel=DATA,
        help="Data to take the example input from, as in deploy.",
        show_default=False,
    ),
]
BatchSizeOption = Annotated[
    int,
    typer.Option(min=1, metavar="N", rich_help_panel=DATA, help="Samples in a calibration batch."),
]
LimitOption = Annotated[
    int,
    typer.Option(
        min=1,
        metavar="N",
        rich_help_panel=DATA,
        help="Samples at most; of a folder, evenly spaced.",
    ),
]
HeldOutOption = Annotated[
    int | None,
    typer.Option(
        "--held-out",
        min=0,
        metavar="N",
        rich_help_panel=JUDGING,
        help="Samples that judge the file and do not calibrate, at most: 64, or 1000 with labels; "
        "0 leaves that out.",
        show_default=False,
    ),
]
LabelsOption = Annotated[
    str | None,
    typer.Option(
        "--labels",
        metavar="WHERE",
        rich_help_panel=JUDGING,
        help="Classes of the samples, for top-1 and top-5: a .npy or text file with a number for "
        "each, the name of an array in the .npz, or folders. Folders of images, one for each class "
        "of the model, and batches of (inputs, labels) have them already.",
        show_default=False,
    ),
]
EvaluateOption = Annotated[
    str | None,
    typer.Option(
        "--evaluate",
        metavar="module:callable",
        rich_help_panel=JUDGING,
        help="Your own judge: called with a function that predicts as the model does; gives a "
        "number, or numbers by name. Once for the model, once for the file.",
        show_default=False,
    ),
]
MeanOption = Annotated[
    Numbers | None,
    typer.Option(
        metavar="M,M,M",
        parser=parse_numbers,
        rich_help_panel=DATA,
        help="Mean of each channel of an image; by default the model's of torchvision or timm.",
        show_default=False,
    ),
]
StdOption = Annotated[
    Numbers | None,
    typer.Option(
        metavar="S,S,S",
        parser=parse_numbers,
        rich_help_panel=DATA,
        help="Standard deviation likewise; pixels are in 0..1.",
        show_default=False,
    ),
]
NoNormalizationOption = Annotated[
    bool, typer.Option("--no-normalization", rich_help_panel=DATA, help="Leave pixels in 0..1.")
]
