"""`embedl-deploy build`: an engine, what became of the products, and of what was predicted."""

import enum
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from embedl_deploy.cli.options import (
    BestShapesOption,
    DebugOption,
    FileArgument,
    InputShapesOption,
    JsonOption,
    LeastShapesOption,
    MostShapesOption,
    ReportOption,
    VersionOption,
)
from embedl_deploy.cli.output import Answer, Steps, answering
from embedl_deploy.cli.spread import spread
from embedl_deploy.cli.values import InputShape, input_shapes
from embedl_deploy.onnx_model import OnnxFile
from embedl_deploy.report.blocks import figures_table
from embedl_deploy.report.compilation import compilation_tables, gpu_table
from embedl_deploy.report.engine import comparison_tables
from embedl_deploy.tensorrt import (
    Comparison,
    Compilation,
    ShapeRange,
    compare_layers,
    compile_onnx,
    explain_onnx,
    read_layers,
    trtexec_command,
)
from embedl_deploy.tensorrt.engine.ranges import settled


class CompilerChoice(enum.StrEnum):
    """The compilers by name."""

    AUTO = "auto"
    TENSORRT = "tensorrt"
    RTX = "rtx"


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
    compiler: Annotated[
        CompilerChoice,
        typer.Option(
            help="TensorRT for RTX needs no GPU; auto is TensorRT where it is, and no --gpu is "
            "given."
        ),
    ] = CompilerChoice.AUTO
    gpu: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[,NAME]",
            help="What TensorRT for RTX compiles for, such as l4 or sm86; an RTX 4090 by default. "
            "May be repeated.",
        ),
    ] = None
    timeout: Annotated[
        float,
        typer.Option(min=0, metavar="SECONDS", help="When the compiler is stopped."),
    ] = 600.0
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
    layers_from: Annotated[
        Path | None,
        typer.Option(
            "--layers-from",
            metavar="LAYERS.json",
            help="Build nothing; read what trtexec --exportLayerInfo= wrote elsewhere.",
        ),
    ] = None
    trtexec: Annotated[
        bool,
        typer.Option("--trtexec", help="Build nothing; print the line that builds it elsewhere."),
    ] = False
    strict: Annotated[
        bool,
        typer.Option(
            "--strict",
            help="Fail where a product loses its type, or a documented prediction breaks.",
        ),
    ] = False
    every: Annotated[bool, typer.Option("--all", help="List every kernel and layer.")] = False
    page: ReportOption = None

    def __post_init__(self) -> None:
        if self.layers_from is not None and self.trtexec:
            raise typer.BadParameter("--layers-from and --trtexec exclude each other")
        if self.page is not None and self.trtexec:
            raise typer.BadParameter("--trtexec builds nothing that --report could show")
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
    def gpus(self) -> Sequence[str | None]:
        """Names, or None where none is given."""
        names = (one.strip() for one in ",".join(self.gpu or ()).split(","))
        return [*dict.fromkeys(filter(None, names))] or [None]

    @property
    def targets(self) -> "Iterator[tuple[str | None, Path]]":
        """The engine of each GPU; their names have its name where there are several."""
        for gpu in self.gpus:
            name = f"{self.target.stem}.{gpu}{self.target.suffix}"
            yield gpu, self.target if len(self.gpus) == 1 else self.target.with_name(name)

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
    """Compile a file, and say what became of its products."""
    fails = False
    with answering(as_json=as_json, debug=debug) as answer:
        if wish.trtexec:
            _say_line(wish, answer)
        elif wish.layers_from is not None:
            fails = bool(_say_layers(wish, wish.layers_from, answer).broken) and wish.strict
        else:
            fails = _compile(wish, answer)
    if fails:
        raise typer.Exit(1)


def _compile(wish: Wish, answer: Answer) -> bool:
    """Compile for each GPU; gives whether the command fails."""
    made: list[Compilation] = []
    file = OnnxFile.open(wish.file)
    with Steps() as steps:
        for gpu, target in wish.targets:
            with steps.step(f"Compiling {gpu or ''}"):
                made.append(_compiled(wish, file, gpu, target))
    answer.values = {"file": str(wish.file), "compilations": [one.to_dict() for one in made]}
    for one in made:
        answer.tables += compilation_tables(one, every=wish.every)
    if len(made) > 1:
        answer.tables.append(gpu_table(made))
    compared = not made[0].gpu and made[0].built
    comparison = _say_comparison(wish, file, made[0], answer) if compared else None
    answer.write_page(wish.page, file=file, compilations=made, comparison=comparison)
    lost = any(one.lost for one in made)
    broken = comparison is not None and bool(comparison.broken)
    return not all(one.built for one in made) or (wish.strict and (lost or broken))


def _compiled(wish: Wish, file: OnnxFile, gpu: str | None, target: Path) -> Compilation:
    return compile_onnx(
        file,
        gpu,
        output=target,
        compiler=wish.compiler.value,
        ranges=wish.ranges,
        workspace=wish.workspace,
        timing_cache=wish.timing_cache,
        timeout=wish.timeout,
    )


def _say_comparison(wish: Wish, file: OnnxFile, made: Compilation, answer: Answer) -> Comparison:
    """What TensorRT built against what is predicted for its version."""
    shapes = {name: one.best for name, one in wish.ranges.items()}
    version = made.compiler.split()[-1]
    comparison = compare_layers(explain_onnx(file, version, shapes=shapes), made.layers)
    answer.values["comparison"] = comparison.to_dict()
    answer.tables += [*comparison_tables(comparison, every=wish.every), Text(comparison.summary)]
    return comparison


def _say_line(wish: Wish, answer: Answer) -> None:
    line = trtexec_command(
        wish.file,
        wish.target,
        wish.version,
        ranges=settled(OnnxFile.open(wish.file).model.graph, wish.ranges),
        workspace=wish.workspace,
        timing_cache=wish.timing_cache,
    )
    answer.values = {"file": str(wish.file), "version": wish.version, "command": line}
    answer.tables = [line]


def _say_layers(wish: Wish, layers: Path, answer: Answer) -> Comparison:
    shapes = {name: one.best for name, one in wish.ranges.items()}
    file = OnnxFile.open(wish.file)
    explanation = explain_onnx(file, wish.version, shapes=shapes)
    comparison = compare_layers(explanation, read_layers(layers))
    values = {"layers_from": str(layers), "version": wish.version}
    answer.values = {"file": str(wish.file), **values, **comparison.to_dict()}
    figures = [("Layers from", str(layers)), ("Version", wish.version)]
    tables = comparison_tables(comparison, every=wish.every)
    answer.tables = [*tables, figures_table(figures), Text(comparison.summary)]
    answer.write_page(wish.page, file=file, explanation=explanation, comparison=comparison)
    return comparison
