"""Writes the page: collects the parts, fills in the template."""

import base64
import json
from collections.abc import Mapping, Sequence
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Protocol

from torch import fx

from embedl_deploy.errors import ExportError, MissingExtraError
from embedl_deploy.export import Parity
from embedl_deploy.export.files import written_beside
from embedl_deploy.onnx_model import OnnxFile
from embedl_deploy.report.page.environment import environment
from embedl_deploy.report.page.front import front_chart
from embedl_deploy.report.page.graph import file_graph
from embedl_deploy.report.page.groups import grouped_findings, grouped_kernels, grouped_reasons
from embedl_deploy.report.page.histogram import bars
from embedl_deploy.report.page.model import model_graph
from embedl_deploy.report.page.verdict import verdict
from embedl_deploy.report.parity import answers_dict, parity_dict, stub_dicts
from embedl_deploy.report.summary import Summary
from embedl_deploy.report.words import word_for
from embedl_deploy.table import amount, counted, percent
from embedl_deploy.tensorrt.rules.catalog import RULES

TYPES = ("INT8", "INT4", "FP8", "FP16", "BF16", "FP32")
"""Those that have a colour of their own."""


SUFFIXES = frozenset({".html", ".htm"})
"""Of a page."""


class Part(Protocol):
    """A result that knows itself as plain data."""

    def to_dict(self) -> dict[str, Any]:
        """All of it for JSON."""
        ...


def report(  # noqa: PLR0913 - one for each part
    path: str | Path,
    *,
    title: str = "",
    file: str | Path | OnnxFile | None = None,
    model: fx.GraphModule | None = None,
    check: Part | None = None,
    explanation: Part | None = None,
    compilations: Sequence[Part] = (),
    comparison: Part | None = None,
    analysis: Part | None = None,
    answers: Parity | None = None,
    parity: Parity | None = None,
    summary: Summary | None = None,
    tuning: Part | None = None,
    beside: Part | None = None,
    figures: Sequence[tuple[str, str]] = (),
) -> Path:
    """Write results as a page: one HTML file that needs no network, with those parts that it has.

    Args:
        path: Where to; ends in .html.
        title: By default the name of the file.
        file: The ONNX file whose graph is drawn.
        model: A transformed or quantized model, whose graph is drawn where there is no file.
        check: From `check_onnx`.
        explanation: From `explain_onnx`.
        compilations: From `compile_onnx`, one for each GPU.
        comparison: From `compare_layers`.
        analysis: From `analyze`.
        answers: From `compare_onnx`: what became of the answers.
        parity: From `verify_onnx`.
        summary: From `summarize`: what became of a model.
        tuning: From `tune`: what each placement costs, and how accurate it is.
        beside: Two files side by side, as `embedl-deploy compare` has them: a
            `report.beside.Beside`. `file` is the first of them.
        figures: Names, and what there is to say of each, after the verdict.

    Returns:
        The path.

    Raises:
        ExportError: It cannot be written there, or has another suffix.
        CheckError: `file` cannot be read.
        MissingExtraError: The packages of the `report` extra are not installed.
    """
    target = Path(path)
    if target.suffix.lower() not in SUFFIXES:
        raise ExportError(f"'{target}' is no name of a page: it ends in .html")
    opened = None if file is None else OnnxFile.open(file)
    page: dict[str, Any] = {
        "title": title or (opened.path.name if opened else "embedl_deploy"),
        "figures": list(figures),
        "graph": _graph(opened, model),
        "check": check and check.to_dict(),
        "explanation": explanation and explanation.to_dict(),
        "compilations": [one.to_dict() for one in compilations],
        "comparison": comparison and comparison.to_dict(),
        "analysis": analysis and analysis.to_dict(),
        "answers": answers
        and {"word": word_for(opened) if opened else "File", **answers_dict(answers)},
        "parity": parity and {**parity_dict(parity), "layers": stub_dicts(parity)},
        "summary": summary and summary.as_dict(),
        "tuning": tuning and tuning.to_dict(),
        "beside": beside and beside.to_dict(),
        "environment": environment(),
    }
    for part in (page["check"], page["explanation"]):
        if part and opened:
            part["path"] = str(opened.path)  # it may have been looked at under another name
    page["verdict"] = verdict(page)
    text = render(page)
    with written_beside(target) as draft:
        draft.write_text(text, encoding="utf-8")
    return target


def _graph(file: OnnxFile | None, model: fx.GraphModule | None) -> list[dict[str, Any]]:
    if file is not None:
        return file_graph(file.view)
    return [] if model is None else model_graph(model)


def render(page: Mapping[str, Any]) -> str:
    """The page as text.

    Raises:
        MissingExtraError: The packages of the `report` extra are not installed.
    """
    try:
        from jinja2 import Environment
        from markupsafe import Markup
    except ImportError:
        raise MissingExtraError("jinja2", "report", "a page") from None
    made = Environment(autoescape=True, trim_blocks=True)
    made.filters |= {"percent": percent, "amount": amount, "bars": bars, "counted": counted}
    kernels = page["explanation"]["kernels"] if page["explanation"] else []
    parts = {
        "page": page,
        "sections": _sections(page),
        "known_types": TYPES,
        "findings": grouped_findings(page),
        "kernels": grouped_kernels(kernels),
        "reasons": grouped_reasons(kernels),
        "front": page["tuning"] and front_chart(page["tuning"]),
        "rules": {one.id: one.title for one in RULES},
        "total": sum(one["macs"] or 0 for one in kernels),
        "css": Markup(_read("page.css")),  # noqa: S704 - of this package, as are the scripts
        "script": Markup(_read("page.js")),  # noqa: S704
        "graph_script": Markup(_read("graph.js")),  # noqa: S704
        "json": Markup(_json(page)),  # noqa: S704 - escaped there
        "viz": base64.b64encode(_folder().joinpath("vendor", "viz.js.gz").read_bytes()).decode(),
    }
    return made.from_string(_read("page.html.jinja")).render(parts)


def _folder() -> Traversable:
    return resources.files(__package__)


def _read(name: str) -> str:
    return _folder().joinpath(name).read_text(encoding="utf-8")


def _json(page: Mapping[str, Any]) -> str:
    """For a script element, which ends at the first `</`; without what JSON lacks."""
    text = json.dumps(page, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _sections(page: Mapping[str, Any]) -> list[tuple[str, str]]:
    entries = [
        ("placements", "Placements", page["tuning"]),
        ("beside", "Side by side", page["beside"]),
        ("between", "Second against first", page["beside"]),
        ("graph-title", "Graph", page["graph"]),
        ("errors", "Error per layer", page["analysis"]),
        ("answers", f"{(page['answers'] or {}).get('word')} against float", page["answers"]),
        ("outputs", "File against model", page["parity"]),
        ("fused", "What was fused", page["summary"]),
        ("findings", "Findings", grouped_findings(page)),
        ("unjudged", "Not judged", (page["check"] or {}).get("unjudged")),
        ("kernels", "Kernels", page["explanation"]),
        ("compiled-1", "Compiled", page["compilations"]),
        ("layers", "Against the prediction", page["comparison"]),
        ("environment", "Environment", True),
    ]
    return [(anchor, name) for anchor, name, there in entries if there]
