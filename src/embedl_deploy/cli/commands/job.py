"""What `deploy` is asked for."""

import enum
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from embedl_deploy.cli.commands.bounds import Bounds
from embedl_deploy.cli.commands.order import Judged
from embedl_deploy.cli.options import FILE, JUDGING, TUNING, FileBatchOption, ReportOption
from embedl_deploy.errors import LoadError


class PrecisionChoice(enum.StrEnum):
    """The types of what is not quantized."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"


@dataclass(frozen=True, kw_only=True)
class Job(Judged, Bounds):
    """What `deploy` is asked for; its fields are options."""

    output: Annotated[
        Path, typer.Argument(metavar="OUTPUT.onnx", help="The file to write.", show_default=False)
    ]
    batch: FileBatchOption = 1
    dynamic_batch: Annotated[
        bool,
        typer.Option("--dynamic-batch", rich_help_panel=FILE, help="The file takes any batch."),
    ] = False
    precision: Annotated[
        PrecisionChoice,
        typer.Option(
            metavar="TYPE",
            rich_help_panel=FILE,
            help="Of what is not quantized: float32, float16 or bfloat16; TensorRT 11 runs it so.",
        ),
    ] = PrecisionChoice.FLOAT32
    keep_float32: Annotated[
        list[str] | None,
        typer.Option(
            "--keep-float32",
            metavar="PATH",
            rich_help_panel=FILE,
            help="Modules that stay in float32 in a half-precision file, such as '*.softmax'; may "
            "be repeated.",
            show_default=False,
        ),
    ] = None
    float32_io: Annotated[
        bool,
        typer.Option(
            "--float32-io",
            rich_help_panel=FILE,
            help="Inputs and outputs of a half-precision file are float32.",
        ),
    ] = False
    attention_op: Annotated[
        bool,
        typer.Option(
            "--attention-op",
            rich_help_panel=FILE,
            help="Write attention as the one operator of opset 23.",
        ),
    ] = False
    no_verify: Annotated[
        bool,
        typer.Option(
            "--no-verify", rich_help_panel=JUDGING, help="Write the file without running it."
        ),
    ] = False
    compile: Annotated[
        bool,
        typer.Option(
            "--compile",
            rich_help_panel=JUDGING,
            help="Give the file to NVIDIA's compiler too, beside the model's float16 file; build "
            "says more.",
        ),
    ] = False
    gpu: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            rich_help_panel=JUDGING,
            help="What --compile compiles for, as in build.",
        ),
    ] = None
    tune: Annotated[
        bool,
        typer.Option(
            "--tune",
            rich_help_panel=TUNING,
            help="Find first what to quantize, as tune does; the plan is beside the file.",
        ),
    ] = False
    page: ReportOption = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tune:
            self._check_tuned()
        elif self.bounds or self.latency is not None:
            raise typer.BadParameter(
                "--min-sqnr, --max-drop, --max-time, --max-bytes and --latency need --tune"
            )
        if self.output.suffix.lower() != ".onnx":
            raise typer.BadParameter(f"'{self.output}' is no name of an ONNX file: end it in .onnx")
        half = self.precision is not PrecisionChoice.FLOAT32
        if not half and (self.keep_float32 or self.float32_io):
            raise typer.BadParameter(
                "--keep-float32 and --float32-io are for --precision float16 or bfloat16"
            )
        if self.gpu is not None and not (self.compile or self.tune):
            raise typer.BadParameter("--gpu needs --compile or --tune")

    def _check_tuned(self) -> None:
        self.check_bounds()
        if self.plan is not None or not self.takes_plan:
            raise typer.BadParameter(
                "--tune finds what --plan, --attention and --observer say: leave these out"
            )
        if self.precision is PrecisionChoice.FLOAT32:
            raise typer.BadParameter(
                "--tune measures files in half precision: --precision float16 or bfloat16"
            )

    def check_float(self, precision: str) -> None:
        """Raise unless the file is to be in half precision, as the plan is measured.

        Raises:
            LoadError: It is not.
        """
        if self.precision.value != precision:
            raise LoadError(
                f"the plan '{self.plan}' keeps {precision} and quantizes nothing: --precision "
                f"{precision} writes that file"
            )

    @property
    def export_options(self) -> dict[str, Any]:
        """As `export_onnx` takes them."""
        return {
            "precision": self.precision.value,
            "keep_float32": self.keep_float32 or (),
            "float32_io": self.float32_io,
            "attention_op": self.attention_op,
            "dynamic_batch": self.dynamic_batch,
        }

    @property
    def kept(self) -> tuple[str, ...]:
        """Patterns for the names of the file's nodes that stay in float32."""
        return tuple(f"{path}{end}" for path in self.keep_float32 or () for end in ("/*", ".*"))
