"""How long the command line takes to start, beside `import torch`.

Run it on a machine with nothing else to do: python benchmarks/start.py
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from _bars import Figure, finish, median, parser_of, rounds, show, spread, within
from onnx import TensorProto, helper, numpy_helper

CHANNELS, LAYERS = 128, 9
"""Of convolutions, whose weights are 5 MB."""

BARS = {"--version": 0.5, "--help": 0.5, "check": 1.5, "explain": 1.5}
"""Seconds."""

_COMMAND = "from embedl_deploy.cli import main; main()"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write; gives 1 where a bar is missed."""
    parser = parser_of(__doc__)
    parser.add_argument("--runs", type=int, default=7, help="runs of each call (default: 7)")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        file = str(Path(folder) / "model.onnx")
        onnx.save(convolutions(), file)
        calls = {name: (_COMMAND, name) for name in BARS if name.startswith("-")}
        calls |= {
            f"{name} of {_megabytes(file)} MB": (_COMMAND, name, file)
            for name in BARS
            if not name.startswith("-")
        }
        seconds = within(15, full=options.full)
        torch = times(("import torch",), options.runs, seconds)
        found = [Figure("import torch", median(torch), "s", details=spread(torch))]
        for what, call in calls.items():
            taken = times(call, options.runs, seconds)
            share = f"{median(taken) / median(torch):.2f} of import torch; {spread(taken)}"
            found.append(Figure(what, median(taken), "s", BARS[call[1]], details=share))
    show("From the start of Python to its end", found)
    return finish(found, options.json)


def times(call: Sequence[str], runs: int, seconds: float) -> list[float]:
    """Seconds that Python takes for a program and its arguments; the first run is not counted."""
    _run(call)
    taken = []
    for _ in rounds(runs, seconds):
        start = time.perf_counter()
        _run(call)
        taken.append(time.perf_counter() - start)
    return taken


def _run(call: Sequence[str]) -> None:
    subprocess.run([sys.executable, "-c", *call], check=True, capture_output=True)  # noqa: S603


def convolutions() -> onnx.ModelProto:
    """A chain of convolutions in float32."""
    draw = np.random.default_rng(0)
    weights = draw.standard_normal((LAYERS, CHANNELS, CHANNELS, 3, 3)).astype(np.float32)
    names = [f"value_{index}" for index in range(LAYERS + 1)]
    nodes = [
        helper.make_node(
            "Conv",
            [names[index], f"weight_{index}"],
            [names[index + 1]],
            pads=[1, 1, 1, 1],
            name=f"conv_{index}",
        )
        for index in range(LAYERS)
    ]
    ends = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, CHANNELS, 28, 28])]
        for name in (names[0], names[-1])
    ]
    initializers = [numpy_helper.from_array(one, f"weight_{i}") for i, one in enumerate(weights)]
    graph = helper.make_graph(nodes, "chain", *ends, initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)])


def _megabytes(file: str) -> str:
    return f"{Path(file).stat().st_size / 1e6:.1f}"


if __name__ == "__main__":
    sys.exit(main())
