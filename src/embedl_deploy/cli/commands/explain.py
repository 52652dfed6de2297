"""`embedl-deploy explain`: which kernels TensorRT is expected to run for an ONNX file."""

from typing import Annotated

import typer
from rich.text import Text

from embedl_deploy.cli.options import (
    DebugOption,
    FileArgument,
    InputShapesOption,
    JsonOption,
    ReportOption,
    VersionOption,
)
from embedl_deploy.cli.output import answering
from embedl_deploy.cli.values import input_shapes
from embedl_deploy.onnx_model import OnnxFile
from embedl_deploy.report.kernels import kernel_tables
from embedl_deploy.tensorrt import explain_onnx


def explain(
    file: FileArgument,
    version: VersionOption = "11.x",
    shapes: InputShapesOption = None,
    *,
    every: Annotated[
        bool, typer.Option("--all", help="List every kernel with its operators.")
    ] = False,
    page: ReportOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Show which kernels TensorRT is expected to run for an ONNX file."""
    with answering(as_json=as_json, debug=debug) as answer:
        opened = OnnxFile.open(file).with_shapes(input_shapes(shapes))
        found = explain_onnx(opened, version)
        answer.values = found.to_dict()
        answer.tables = [*kernel_tables(found, every=every), Text(found.summary)]
        answer.write_page(page, file=opened, explanation=found)
