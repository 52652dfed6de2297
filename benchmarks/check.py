"""How long `check_onnx` and `explain_onnx` take, whether that is linear, and memory for 2 GB.

Run it on a machine with nothing else to do: python benchmarks/check.py
"""

import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
from _bars import (
    Figure,
    Taken,
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
from onnx import ModelProto, TensorProto, helper, numpy_helper

from embedl_deploy.tensorrt import check_onnx, explain_onnx

Reads = Callable[[Path], object]

SECONDS = 3.0
SIZES = (1_000, 10_000, 30_000)
FULL_SIZES = (1_000, 10_000, 100_000)
RATIO = 1.5
MIB = 2**20
ALLOWANCE = 100.0
_WIDTH = 8192
_LINEAR_FROM = 10_000
"""Smaller files are done before the garbage collector looks at all of them."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write; gives 1 where a bar is missed."""
    parser = parser_of(__doc__)
    parser.add_argument("--runs", type=int, default=5, help="runs of each size (default: 5)")
    parser.add_argument("--sizes", type=int, nargs="+", help="nodes of a file")
    parser.add_argument("--gigabytes", type=float, default=2.0, help="size of the large file")
    options = parser.parse_args(arguments)
    sizes = options.sizes or (FULL_SIZES if options.full else SIZES)
    figures = []
    for reads in (check_onnx, explain_onnx):
        found = times(reads, sizes, options.runs, within(10, full=options.full))
        name = reads.__name__
        show(f"{name} on chains of quantized convolutions and residual additions", found)
        figures.extend(found)
    found = memory(options.gigabytes)
    show("Peak memory of check_onnx above that before the call", found)
    return finish([*figures, *found], options.json)


def times(reads: Reads, sizes: Sequence[int], runs: int, seconds: float) -> list[Figure]:
    """Seconds by size, and microseconds per node at the most and the least."""
    found, each = [], []
    with tempfile.TemporaryDirectory() as folder:
        for size in sizes:
            say(f"{size:,} nodes")
            path = Path(folder) / f"{size}.onnx"
            onnx.save(chain(size), path)
            taken: list[Taken] = in_fresh_process(timed_runs, reads, path, runs, seconds)
            wall = [one.wall for one in taken]
            processor = median([one.processor for one in taken])
            if size >= _LINEAR_FROM:
                each.append(processor / size)
            details = f"{spread(wall)}; processor {processor:.3f} s"
            bar = SECONDS if size == 10_000 else None
            found.append(
                Figure(f"{reads.__name__}, {size:,} nodes", median(wall), "s", bar, details=details)
            )
    if len(each) < 2:
        return found
    what = f"{reads.__name__}, per node from {_LINEAR_FROM:,} on, most / least"
    return [*found, Figure(what, max(each) / min(each), "×", RATIO)]


def timed_runs(reads: Reads, path: Path, runs: int, seconds: float) -> list[Taken]:
    """How long each run takes, after one that does not count."""
    reads(path)
    return [timed(lambda: reads(path)) for _ in rounds(runs, seconds)]


def chain(size: int) -> ModelProto:
    """Blocks of ten nodes: two quantized convolutions, and an addition of what went in."""
    by = ("s", "z")
    constants = [
        numpy_helper.from_array(np.float32(0.1), "s"),
        numpy_helper.from_array(np.int8(0), "z"),
    ]
    nodes, value = [], "x"
    for block in range(max(1, size // 10)):
        source = value
        nodes += [
            helper.make_node("QuantizeLinear", [source, *by], [f"q{block}"]),
            helper.make_node("DequantizeLinear", [f"q{block}", *by], [f"d{block}"]),
        ]
        value = f"d{block}"
        for index in (0, 1):
            name = f"{block}_{index}"
            for kind, array in (
                ("w", np.ones((16, 16, 1, 1), np.int8)),
                ("s", np.ones(16, np.float32)),
                ("z", np.zeros(16, np.int8)),
            ):
                constants.append(numpy_helper.from_array(array, f"{kind}{name}"))
            weight = [f"w{name}", f"s{name}", f"z{name}"]
            nodes += [
                helper.make_node("DequantizeLinear", weight, [f"dw{name}"], axis=0),
                helper.make_node("Conv", [value, f"dw{name}"], [f"c{name}"]),
            ]
            if index == 0:
                nodes += [
                    helper.make_node("QuantizeLinear", [f"c{name}", *by], [f"q{name}"]),
                    helper.make_node("DequantizeLinear", [f"q{name}", *by], [f"d{name}"]),
                ]
                value = f"d{name}"
        added = [f"c{block}_1", f"d{block}"]
        nodes += [
            helper.make_node("Add", added, [f"a{block}"]),
            helper.make_node("Relu", [f"a{block}"], [f"r{block}"]),
        ]
        value = f"r{block}"
    shape = (1, 16, 8, 8)
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", value)]
    graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


# --- memory -------------------------------------------------------------------------------------


def memory(gigabytes: float) -> list[Figure]:
    """Peak memory with the weights beside the file, and inside it."""
    found = []
    for inside, dtype in ((False, "float32"), (False, "float16"), (True, "float32")):
        where = "inside the file" if inside else "in a file beside it"
        say(f"{gigabytes:g} GB of {dtype} {where}")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "large.onnx"
            # protobuf itself stops at 2 GiB, so a file with all inside it is a little smaller
            size = large(path, min(gigabytes, 1.9) if inside else gigabytes, dtype, inside=inside)
            peak, taken = in_fresh_process(peak_memory, path)
        details = f"file {size / MIB:,.0f} MiB, {taken:.2f} s"
        found.append(Figure(f"{dtype}, {where}", peak, "MiB", ALLOWANCE, details=details))
    return found


def large(path: Path, gigabytes: float, dtype: str, *, inside: bool) -> int:
    """Write a chain of matrix products; gives the bytes of its weights."""
    kind = np.dtype(dtype)
    weight = np.full((_WIDTH, _WIDTH // 4), 1 / _WIDTH, kind)
    count = max(1, round(gigabytes * 2**30 / weight.nbytes))
    nodes, constants, value = [], [], "x"
    with path.with_suffix(".data").open("wb") as data:
        for index in range(count):
            tensor = numpy_helper.from_array(weight[:1], f"w{index}")
            tensor.dims[:] = weight.shape if index % 2 == 0 else weight.shape[::-1]
            tensor.raw_data = weight.tobytes() if inside else b""
            if not inside:
                data.write(weight.tobytes())
                tensor.ClearField("raw_data")
                tensor.data_location = TensorProto.EXTERNAL
                place = {"location": data.name.rpartition("/")[2]}
                place |= {"offset": index * weight.nbytes, "length": weight.nbytes}
                for key, one in place.items():
                    tensor.external_data.add(key=key, value=str(one))
            constants.append(tensor)
            nodes.append(helper.make_node("MatMul", [value, f"w{index}"], [f"y{index}"]))
            value = f"y{index}"
    code = helper.np_dtype_to_tensor_dtype(kind)
    ends = [helper.make_tensor_value_info(name, code, None) for name in ("x", value)]
    graph = helper.make_graph(nodes, "large", ends[:1], ends[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    path.write_bytes(model.SerializeToString())
    return count * weight.nbytes


def peak_memory(path: Path) -> tuple[float, float]:
    """MiB that the check adds at its peak, and its seconds; onnx is imported before."""
    before = resident("VmRSS")
    taken = timed(lambda: check_onnx(path))
    return resident("VmHWM") - before, taken.wall


if __name__ == "__main__":
    sys.exit(main())
