"""How long the export of a quantized model takes beside the plain one, and what memory it needs.

Run it on a machine with nothing else to do: python benchmarks/export.py
"""

import sys
import tempfile
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from _bars import (
    Figure,
    finish,
    in_fresh_process,
    median,
    parser_of,
    resident,
    rounds,
    say,
    show,
    spread,
    timed,
    within,
)
from torch import fx

from embedl_deploy import transform
from embedl_deploy.cli.models import load_model
from embedl_deploy.export import export_onnx
from embedl_deploy.quantize import quantize

PRECISIONS = ("float32", "float16")
_EXAMPLE = (torch.zeros(1, 3, 224, 224),)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write; gives 1 where a bar is missed."""
    parser = parser_of(__doc__)
    parser.add_argument("--model", default="resnet50", help="model of torchvision")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each (default: 3)")
    options = parser.parse_args(arguments)
    say(f"{options.model}, time")
    seconds = within(30, full=options.full)
    figures = in_fresh_process(duration, options.model, options.rounds, seconds)
    show(f"Export of {options.model}", figures)
    for precision in PRECISIONS:
        say(f"{options.model}, memory and size in {precision}")
        found = in_fresh_process(memory, options.model, precision)
        show(f"Export of {options.model}", found)
        figures += found
    return finish(figures, options.json)


def duration(name: str, most: int, seconds: float) -> list[Figure]:
    """Processor time of the export over that of `torch.onnx.export` of the float model."""
    source, model = load_model(f"torchvision:{name}").eval(), _quantized(name)
    plain: list[float] = []
    ours: dict[str, list[float]] = {precision: [] for precision in PRECISIONS}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        calls = {one: partial(export_onnx, model, _EXAMPLE, path, precision=one) for one in ours}
        export_plain = partial(_plain, source, path)
        export_plain()
        for _ in rounds(
            most, seconds
        ):  # interleaved, so that a slow minute of the machine slows all
            plain.append(timed(export_plain).processor)
            for precision, call in calls.items():
                ours[precision].append(timed(call).processor)
    figures = []
    for precision, runs in ours.items():
        shares = [own / other for own, other in zip(runs, plain, strict=True)]
        details = f"{median(runs):.1f} s over {median(plain):.1f} s, {spread(shares)}"
        figures.append(Figure(f"time, {precision}", median(shares), "×", 1.5, details=details))
    return figures


def memory(name: str, precision: str) -> list[Figure]:
    """MiB at the peak of an export beyond what the process had before, and the file's size."""
    model = _quantized(name)
    held = sum(one.nbytes for one in (*model.parameters(), *model.buffers())) / 2**20
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        before = resident("VmRSS")
        export_onnx(model, _EXAMPLE, path, precision=precision)  # type: ignore[arg-type]
        peak = resident("VmHWM") - before
        stored = _stored(path)
        size = path.stat().st_size / stored
    return [
        Figure(
            f"peak memory, {precision}", peak, "MiB", 3 * held + 500, details=f"model {held:.0f}"
        ),
        Figure(f"file size, {precision}", size, "×", 1.03, details=f"{stored / 2**20:.1f} MiB"),
    ]


def _stored(path: Path) -> int:
    """Bytes of the int8 weights and of the parameters that are left."""
    import onnx_ir

    tensors = [one.const_value for one in onnx_ir.load(path).graph.initializers.values()]
    return sum(one.nbytes for one in tensors if one is not None)


def _quantized(name: str) -> fx.GraphModule:
    model = load_model(f"torchvision:{name}").eval()
    return quantize(transform(model, _EXAMPLE), [torch.randn_like(_EXAMPLE[0])])


def _plain(model: torch.nn.Module, path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(model, _EXAMPLE, path, dynamo=True, opset_version=21, verbose=False)


if __name__ == "__main__":
    sys.exit(main())
