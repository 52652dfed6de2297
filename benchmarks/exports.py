"""Whether 25 models export in two precisions, are valid, and compute what was simulated.

One process a model; what has run is kept and not run again: python -m benchmarks.exports
"""

import argparse
import fnmatch
import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch
from torch import fx

if TYPE_CHECKING:
    from embedl_deploy.tensorrt import Finding

ROOT = Path(__file__).parents[1]
MODELS = (
    *(
        f"torchvision:{name}"
        for name in (
            "resnet18",
            "resnet50",
            "mobilenet_v2",
            "mobilenet_v3_small",
            "efficientnet_b0",
            "shufflenet_v2_x0_5",
            "densenet121",
            "googlenet",
            "vit_b_16",
            "swin_t",
        )
    ),
    *(
        f"timm:{name}"
        for name in (
            "convnext_atto",
            "deit_tiny_patch16_224",
            "mobilevit_xxs",
            "efficientvit_b0",
            "edgenext_xx_small",
            "ghostnet_050",
            "repvgg_a0",
            "dla46_c",
            "coat_lite_tiny",
            "poolformerv2_s12",
            "resmlp_12_224",
            "levit_128s",
        )
    ),
    "transformers:bert",
    "transformers:vit",
    "transformers:distilbert",
)
PRECISIONS = ("float32", "float16")

EXPLAINED = {
    "P10": "The default patterns quantize depthwise and grouped convolutions; "
    "`TENSORRT_MIXED_PRECISION_PATTERNS` leaves depthwise ones in floating point.",
    "P11": "Layers with few channels are quantized by default; `QuantConfig(skip=[…])` leaves them "
    "out.",
    "P12": "At batch size 1 a classifier multiplies one row, and small heads have few columns.",
    "P14": "The library leaves the output of a convolution before a layer norm in floating point.",
    "P16": "Query, key and value are quantized and the softmax is not, which was the default when "
    'the file was made; it is `attention="none"` now.',
    "P17": "Heads of this size, or so many positions, have no INT8 kernel; "
    '`QuantConfig(attention="none")` leaves attention in floating point.',
}
"""Why files that are as meant have warnings. One of another rule is a failure."""


@dataclass
class Row:
    """What came of one model in one precision.

    Attributes:
        stubs: How many.
        differing: Share of the integers that differ.
        sqnr: Of the outputs, in decibels.
        only_ties: Whether the parity bar is met.
        ratio: Size of the file over the int8 weights and the rest of its parameters.
        seconds: Of the export, on the clock.
        rules: Warnings of the rule checker, by rule.
        errors: Errors of the rule checker, by rule.
        error: What stopped it.
    """

    model: str
    precision: str
    stubs: int = 0
    differing: float = 0.0
    sqnr: float = 0.0
    only_ties: bool = False
    ratio: float = 0.0
    seconds: float = 0.0
    rules: str = ""
    errors: str = ""
    error: str = ""

    @property
    def fault(self) -> str:
        """What is wrong; empty where all bars are met."""
        unexplained = {one.split()[0] for one in self.rules.split(", ") if one} - EXPLAINED.keys()
        if self.error or self.errors:
            return self.error or f"errors of the rule checker: {self.errors}"
        return f"unexplained warnings: {', '.join(sorted(unexplained))}" if unexplained else ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what has not run, write the page; gives 1 where a bar is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.exports", description=__doc__)
    parser.add_argument("--only", default="*", metavar="PATTERN", help="names of models")
    parser.add_argument("--again", action="store_true", help="run also what has run")
    parser.add_argument("--results", type=Path, default=ROOT / ".zoo" / "exports.jsonl")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "exports.md")
    options = parser.parse_args(arguments)
    known = {} if options.again else _read(options.results)
    for name in MODELS:
        if (name, PRECISIONS[-1]) in known or not fnmatch.fnmatchcase(name, options.only):
            continue
        print(f"… {name}", file=sys.stderr, flush=True)
        for row in _in_fresh_process(name):
            known[row.model, row.precision] = row
            options.results.parent.mkdir(exist_ok=True)
            with options.results.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(row)) + "\n")
        options.page.write_text(page(list(known.values())), encoding="utf-8")
    return 0 if all(row.only_ties and not row.fault for row in known.values()) else 1


def _read(path: Path) -> dict[tuple[str, str], Row]:
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    rows = [Row(**json.loads(line)) for line in lines]
    return {(row.model, row.precision): row for row in rows}


def _in_fresh_process(name: str) -> list[Row]:
    try:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            return pool.submit(measure, name).result()
    except Exception as error:  # noqa: BLE001 - a process that was killed says little
        return [Row(name, one, error=f"{type(error).__name__}: {error}") for one in PRECISIONS]


def measure(name: str) -> list[Row]:
    """One model, in both precisions."""
    from embedl_deploy.cli.torchvision_ops import import_torchvision

    import_torchvision()
    from benchmarks.zoo import catalog
    from benchmarks.zoo.entry import Entry
    from benchmarks.zoo.warmth import warm
    from embedl_deploy import transform
    from embedl_deploy.quantize import quantize

    torch.manual_seed(0)
    torch.set_num_threads(1)
    built = catalog.build(Entry(name, "classification"))
    warm(built)
    inputs = [built.draw(1) for _ in range(3)]
    result = transform(built.model, *inputs[0])
    batches = [batch(result.model, *one) for one in inputs]
    model = quantize(result, batches[:2])
    return [_export(name, model, batches, precision) for precision in PRECISIONS]


def batch(model: fx.GraphModule, args: Any, kwargs: Any) -> tuple[Any, ...]:
    """Inputs by position."""
    names = [str(node.target) for node in model.graph.nodes if node.op == "placeholder"]
    given = dict(zip(names, args, strict=False)) | dict(kwargs)
    return tuple(given[name] for name in names if name in given)


def _export(name: str, model: fx.GraphModule, batches: list[Any], precision: Any) -> Row:
    from embedl_deploy.export import export_onnx, verify_onnx
    from embedl_deploy.tensorrt import check_onnx

    row = Row(name, precision)
    try:
        with TemporaryDirectory() as folder:
            start = time.perf_counter()
            path = export_onnx(model, batches[0], Path(folder) / "model.onnx", precision=precision)
            row.seconds = time.perf_counter() - start
            row.ratio = path.stat().st_size / _bytes(path)
            found = check_onnx(path)
            row.rules, row.errors = _counted(found.warnings), _counted(found.errors)
            parity = verify_onnx(path, model, batches[2:])
    except Exception as error:  # noqa: BLE001 - whatever stops it is the result
        row.error = f"{type(error).__name__}: {str(error).splitlines()[0]}"[:200]
        return row
    row.stubs, row.differing = len(parity.stubs), parity.tie_share
    row.sqnr, row.only_ties = parity.sqnr_db, parity.only_ties
    if not parity.only_ties:
        row.error = str(parity)[:200]
    return row


def _counted(findings: Sequence["Finding"]) -> str:
    counts = Counter(one.rule for one in findings)
    return ", ".join(f"{rule} {count}" for rule, count in sorted(counts.items()))


def _bytes(path: Path) -> int:
    """Of the tensors that the file stores."""
    import onnx_ir

    stored = onnx_ir.load(path).graph.initializers.values()
    return sum(one.const_value.nbytes for one in stored if one.const_value is not None)


_HEAD = """\
# Exports

<!-- This page is written by `python -m benchmarks.exports`. -->

Models with random weights and random inputs, exported with INT8 where patterns declare it and the
given precision for the rest. Every file passed `onnx.checker` in full-check mode: `export_onnx`
writes no other. **differ**: share of all stubs' integers that differ from the simulation (the bar
is 1e-4, each by one step). **SQNR**: of the outputs as ONNX Runtime computes them, both running
freely, against the simulation in that precision. **size**: the file over its tensors; nodes and
names are about 140 bytes a node. **seconds**: of the export, on a shared machine. **rules**:
warnings of `check_onnx` for TensorRT 11 by rule ([what they say](rules.md)), each explained below;
one of another rule, or an error, counts as a failure. TensorRT itself was not run.

| model | precision | stubs | differ | SQNR dB | parity | size | seconds | rules |
|---|---|---|---|---|---|---|---|---|
"""


def page(rows: Sequence[Row]) -> str:
    """The table, why files warn, and what did not run."""
    order = {name: index for index, name in enumerate(MODELS)}
    rows = sorted(rows, key=lambda row: (order[row.model], row.precision != PRECISIONS[0]))
    met = sum(row.only_ties and not row.fault for row in rows)
    tail = f"\n{met} of {len(rows)} exports meet the parity bar without an unexplained warning.\n"
    seen = {one.split()[0] for row in rows for one in row.rules.split(", ") if one}
    why = [f"- **{rule}** {EXPLAINED[rule]}\n" for rule in sorted(seen & EXPLAINED.keys())]
    if why:
        tail += "\n## Why files warn\n\n" + "".join(why)
    missing = [name for name in MODELS if name not in {row.model for row in rows}]
    if missing:
        tail += f"\nNot run: {', '.join(missing)}.\n"
    failed = [f"- {row.model}, {row.precision}: {row.fault}\n" for row in rows if row.fault]
    if failed:
        tail += "\nWhat fell short:\n\n" + "".join(failed)
    return _HEAD + "".join(map(_line, rows)) + tail


def _line(row: Row) -> str:
    if row.error and not row.stubs:
        return f"| `{row.model}` | {row.precision} |  |  |  | failed |  |  |  |\n"
    word = "met" if row.only_ties else "not met"
    return (
        f"| `{row.model}` | {row.precision} | {row.stubs} | {row.differing:.1e} | {row.sqnr:.0f} | "
        f"{word} | {row.ratio:.3f} | {row.seconds:.0f} | {row.rules or 'none'} |\n"
    )


if __name__ == "__main__":
    sys.exit(main())
