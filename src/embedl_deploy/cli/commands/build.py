"""`embedl-deploy build`: a TensorRT engine, and whether it is what was predicted."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from embedl_deploy.cli.options import (
    BestShapesOption,
    DebugOption,
    FileArgument,
    InputShape,
    InputShapesOption,
    JsonOption,
    LeastShapesOption,
    MostShapesOption,
    VersionOption,
    input_shapes,
)
from embedl_deploy.cli.output import Answer, Steps, answering
from embedl_deploy.cli.spread import spread
from embedl_deploy.onnx_model.loading import read_onnx
from embedl_deploy.report.engine import comparison_tables
from embedl_deploy.report.tables import figures_table
from embedl_deploy.tensorrt import (
    Comparison,
    ShapeRange,
    build_engine,
    compare_layers,
    explain_onnx,
    read_layers,
    trtexec_command,
)
from embedl_deploy.tensorrt.engine.ranges import settled


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What `build` is asked for; its fields are options.

    Raises:
        BadParameter: Options contradict each other.
    """

    file: FileArgument
    output: Annotated[
        Path | None,
        typer.Argument(
            metavar="OUTPUT.plan",
            help="The engine to write; by default the file's name with .plan.",
            show_default=False,
        ),
    ] = None
    version: VersionOption = "11.x"
    shape: InputShapesOption = None
    least: LeastShapesOption = None
    best: BestShapesOption = None
    most: MostShapesOption = None
    workspace: Annotated[
        int | None,
        typer.Option(
            "--workspace", min=1, metavar="MIB", help="Memory that kernels may use beside tensors."
        ),
    ] = None
    timing_cache: Annotated[
        Path | None,
        typer.Option(
            "--timing-cache", metavar="FILE", help="Remembers what was measured; made if missing."
        ),
    ] = None
    report: Annotated[
        Path | None,
        typer.Option(
            "--report",
            metavar="LAYERS.json",
            help="Build nothing; read what trtexec --exportLayerInfo= wrote elsewhere.",
        ),
    ] = None
    trtexec: Annotated[
        bool,
        typer.Option("--trtexec", help="Build nothing; print the line that builds it elsewhere."),
    ] = False
    strict: Annotated[
        bool, typer.Option("--strict", help="Fail where a documented prediction does not hold.")
    ] = False
    every: Annotated[bool, typer.Option("--all", help="List every kernel and layer.")] = False

    def __post_init__(self) -> None:
        if self.report is not None and self.trtexec:
            raise typer.BadParameter("--report and --trtexec exclude each other")
        named = {name for one in (self.least, self.best, self.most) for name in input_shapes(one)}
        if both := named & set(input_shapes(self.shape)):
            which = f" for '{both.pop()}'" if "" not in both else ""
            raise typer.BadParameter(f"--shape excludes --min, --opt and --max{which}")
        if _names(self.least) != _names(self.most) or _names(self.best) - _names(self.most):
            raise typer.BadParameter("--min and --max come together, and --opt with them")

    @property
    def target(self) -> Path:
        """The engine."""
        return self.output or self.file.with_suffix(".plan")

    @property
    def ranges(self) -> dict[str, ShapeRange]:
        """Shapes by input."""
        found = {name: ShapeRange.exactly(one) for name, one in input_shapes(self.shape).items()}
        least, best = input_shapes(self.least), input_shapes(self.best)
        for name, most in input_shapes(self.most).items():
            found[name] = ShapeRange(tuple(least[name]), tuple(best.get(name, most)), tuple(most))
        return found


def _names(shapes: Sequence[InputShape] | None) -> set[str]:
    return set(input_shapes(shapes))


@spread
def build(wish: Wish, *, as_json: JsonOption = False, debug: DebugOption = False) -> None:
    """Build a TensorRT engine, and hold it against the prediction."""
    comparison: Comparison | None = None
    with answering(as_json=as_json, debug=debug) as answer:
        if wish.trtexec:
            _say_line(wish, answer)
        elif wish.report is not None:
            shapes = {name: one.best for name, one in wish.ranges.items()}
            explanation = explain_onnx(wish.file, wish.version, shapes=shapes)
            comparison = compare_layers(explanation, read_layers(wish.report))
            _say(answer, comparison, wish, {"report": str(wish.report), "version": wish.version})
        else:
            comparison = _built(wish, answer)
    if wish.strict and comparison is not None and comparison.broken:
        raise typer.Exit(1)


def _built(wish: Wish, answer: Answer) -> Comparison:
    with Steps() as steps, steps.step("Building"):
        built = build_engine(
            wish.file,
            wish.target,
            wish.version,
            ranges=wish.ranges,
            workspace=wish.workspace,
            timing_cache=wish.timing_cache,
        )
    values = {"engine": str(built.path), "report": str(built.report), "version": built.version}
    _say(answer, built.comparison, wish, values)
    return built.comparison


def _say_line(wish: Wish, answer: Answer) -> None:
    line = trtexec_command(
        wish.file,
        wish.target,
        wish.version,
        ranges=settled(read_onnx(wish.file).graph, wish.ranges),
        workspace=wish.workspace,
        timing_cache=wish.timing_cache,
    )
    answer.values = {"file": str(wish.file), "version": wish.version, "command": line}
    answer.tables = [line]


def _say(answer: Answer, comparison: Comparison, wish: Wish, values: dict[str, Any]) -> None:
    answer.values = {"file": str(wish.file), **values, **comparison.to_dict()}
    figures = [(name.capitalize(), str(value)) for name, value in values.items()]
    tables = comparison_tables(comparison, every=wish.every)
    answer.tables = [*tables, figures_table(figures), Text(comparison.summary)]
