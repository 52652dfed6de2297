"""How long the compile step of `deploy` takes on resnet50, by TensorRT for RTX, without a GPU.

Run it on a machine with nothing else to do: python benchmarks/compile.py. The bar is for the time
of all processors, which other programs lengthen less than that on the clock.
"""

import os
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import torch
from _bars import Figure, finish, median, parser_of, rounds, show, spread, within

from embedl_deploy import transform
from embedl_deploy.cli.models import load_model
from embedl_deploy.export import export_onnx
from embedl_deploy.quantize import quantize
from embedl_deploy.tensorrt import compile_onnx

BAR = 3.0
"""Seconds, for the INT8 file."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write; gives 1 where the bar is missed."""
    parser = parser_of(__doc__)
    parser.add_argument("--gpu", default="rtx4090", help="as `build` takes it (default: rtx4090)")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each file (default: 5)")
    options = parser.parse_args(arguments)
    if find_spec("tensorrt_rtx_bindings") is None:
        print("TensorRT for RTX is not installed: the extra `rtx` has it")
        return 0
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for kind, bar in (("int8", BAR), ("float16", None)):
            path = exported(kind, Path(folder) / f"{kind}.onnx")
            seconds = within(25, full=options.full)
            taken = [compiled(path, options.gpu) for _ in rounds(options.rounds, seconds)]
            wall, processor = map(list, zip(*taken, strict=True))
            more = f"{median(wall):.1f} s on the clock; {spread(processor)}"
            found.append(Figure(f"the {kind} file", median(processor), "s", bar, details=more))
    show(f"Compiling resnet50 for {options.gpu}, and reading what became of each layer", found)
    return finish(found, options.json)


def exported(kind: str, path: Path) -> Path:
    """The file that `deploy` compiles, or the one that it is compared with."""
    torch.manual_seed(0)
    example = torch.randn(1, 3, 224, 224)
    result = transform(load_model("torchvision:resnet50").eval(), (example,))
    model = quantize(result, [example]) if kind == "int8" else result.model
    return export_onnx(model, (example,), path, precision="float16")


def compiled(path: Path, gpu: str) -> tuple[float, float]:
    """Seconds on the clock and of all processors that one run takes."""
    start, before = time.perf_counter(), sum(os.times()[:4])
    made = compile_onnx(path, gpu, compiler="rtx")
    if not made.built:
        raise SystemExit(made.summary)
    return time.perf_counter() - start, sum(os.times()[:4]) - before


if __name__ == "__main__":
    sys.exit(main())
