"""`embedl-deploy check`: what TensorRT will not take, or run slowly, in an ONNX file."""

from typing import Annotated

import typer
from rich.text import Text

from embedl_deploy.cli.options import (
    DebugOption,
    FileArgument,
    JsonOption,
    ReportOption,
    VersionOption,
)
from embedl_deploy.cli.output import answering
from embedl_deploy.report.findings import report_tables
from embedl_deploy.tensorrt import check_onnx


def check(
    file: FileArgument,
    version: VersionOption = "11.x",
    ignore: Annotated[
        list[str] | None,
        typer.Option("--ignore", metavar="ID", help="Leave a rule out; may be repeated."),
    ] = None,
    keep_float32: Annotated[
        list[str] | None,
        typer.Option(
            "--keep-float32",
            metavar="NAME",
            help="Nodes (a name or a pattern) or operator type meant to stay in float32; may be "
            "repeated.",
        ),
    ] = None,
    *,
    strict: Annotated[bool, typer.Option("--strict", help="Warnings fail too.")] = False,
    every: Annotated[
        bool, typer.Option("--all", help="List every place, not one for each rule.")
    ] = False,
    page: ReportOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Check an ONNX file against the rules of TensorRT."""
    with answering(as_json=as_json, debug=debug) as answer:
        report = check_onnx(file, version, ignore=ignore or (), keep_float32=keep_float32 or ())
        answer.values = report.to_dict()
        answer.tables = [*report_tables(report, every=every), Text(report.summary)]
        answer.write_page(page, file=file, check=report)
    if report.errors or (strict and report.warnings):
        raise typer.Exit(1)
