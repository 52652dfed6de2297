"""What NVIDIA’s compiler makes of our INT8 files and of other tools': `make bench-compiled`.

Each tool gets the same weights and inputs, and each file is in half precision except for what is
quantized. One process a model; what has run is kept and not run again.
"""

import argparse
import fnmatch
import sys
import warnings
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from benchmarks.compiled import (
    BARS,
    GPU,
    TABLE,
    Row,
    compiled,
    failed,
    in_fresh_process,
    line,
    read,
    row_of,
    warmed,
    write,
)
from benchmarks.exports import ROOT, batch
from benchmarks.halved import halve
from benchmarks.quality import peers
from benchmarks.quality.making import made
from benchmarks.zoo.entry import Built, Inputs

OURS = {
    "float16": "nothing quantized",
    "rtx": "this library, target `rtx`",
    "rtx-full": 'the same with `QuantConfig(attention="full")`, which costs accuracy',
    "tensorrt": "this library, target `tensorrt`, the default",
}
PEERS = {
    "onnxruntime-float-bias": "ONNX Runtime, a scale per channel, symmetric, biases not quantized",
    "onnxruntime-products": "the same, of convolutions and matrix products alone",
    "nncf-symmetric": "NNCF, symmetric",
    "nncf-transformer": "NNCF, symmetric, its settings for transformers",
    "modelopt-half": "Model Optimizer, `max`, which makes the rest half precision itself",
}
"""By what made the file."""

SAMPLES = 4
_OPSET = 20
DATA = ROOT / "docs" / "compiled-peers.json"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what has not run, write page and data; gives 1 where a bar is missed."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.compiled_peers", description=__doc__
    )
    parser.add_argument("--only", default="*", metavar="PATTERN", help="'MODEL/SETTING'")
    parser.add_argument("--again", action="store_true", help="run also what has run")
    parser.add_argument("--seconds", type=float, default=900.0, help="that a tool may take")
    parser.add_argument("--peers", default=ROOT / ".venv-peers/bin/python", help="interpreter")
    parser.add_argument("--data", type=Path, default=DATA)
    options = parser.parse_args(arguments)
    known = {(row.model, row.kind): row for row in read(options.data)}
    for name in BARS:
        wanted = [
            one
            for one in settings(name)
            if fnmatch.fnmatchcase(f"{name}/{one}", options.only)
            and (options.again or (name, one) not in known)
        ]
        if wanted:
            print(f"… {name}: {', '.join(wanted)}", file=sys.stderr, flush=True)
            more = (str(options.peers), options.seconds)
            found = in_fresh_process(measure, name, wanted, *more)
            known.update({(row.model, row.kind): row for row in found})
            keys = [(one, kind) for one in BARS for kind in settings(one)]
            rows = [known[key] for key in keys if key in known]
            write(rows, options.data, page(rows))
    missed = [line for name in BARS for line in shortfalls(name, list(known.values()))]
    print("\n".join(missed) or "every bar is met")
    return 1 if missed else 0


def settings(name: str) -> list[str]:
    """Those that a model is quantized with."""
    attends = any(one in name for one in ("bert", "former", "deit", "swin", "vit"))
    of_cnns = {"onnxruntime-float-bias", "nncf-symmetric"}
    of_others = {"onnxruntime-products", "nncf-transformer"}
    left_out = of_cnns if attends else of_others | {"rtx-full"}
    return [one for one in (*OURS, *PEERS) if one not in left_out]


def measure(name: str, wanted: Sequence[str], interpreter: str, seconds: float) -> list[Row]:
    """One model, with several settings."""
    built = warmed(name)
    samples = [built.draw(1) for _ in range(SAMPLES)]
    with TemporaryDirectory() as place:
        folder = Path(place)
        rows = list(_ours(name, built, samples, [one for one in wanted if one in OURS]))
        others = [one for one in wanted if one in PEERS]
        if others:
            prepare(built, samples, folder)
        return rows + [other(name, one, folder, interpreter, seconds) for one in others]


def _ours(
    name: str, built: Built, samples: Sequence[Inputs], wanted: Sequence[str]
) -> Iterator[Row]:
    from embedl_deploy import transform
    from embedl_deploy.default import DEFAULT, TARGETS
    from embedl_deploy.quantize import QuantConfig, quantize

    for kind in wanted:
        target = TARGETS.get(kind.partition("-")[0], DEFAULT)
        result = transform(built.model, *samples[0], target=target)
        batches = [batch(result.model, *one) for one in samples]
        config = QuantConfig(attention="full") if kind == "rtx-full" else None
        make = partial(quantize, result, batches, config)
        half = partial(getattr, result, "model")
        yield compiled(name, kind, half if kind == "float16" else make, batches[0])


def prepare(built: Built, samples: Sequence[Inputs], folder: Path) -> None:
    """Write what other tools start from: `float.onnx`, and `calibration.npz` by names of inputs."""
    args, kwargs = samples[0]
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            built.model, args, kwargs=dict(kwargs), opset_version=_OPSET, verbose=False
        )
    assert program is not None
    program.save(folder / "float.onnx", external_data=False)
    names = [str(one.name) for one in program.model.graph.inputs]
    rows = [(*args, *(kwargs[one] for one in names[len(args) :])) for args, kwargs in samples]
    stored: dict[str, Any] = {
        one: torch.cat(column).numpy()
        for one, column in zip(names, zip(*rows, strict=True), strict=True)
    }
    np.savez(folder / "calibration.npz", **stored)


def other(name: str, setting: str, folder: Path, interpreter: str, seconds: float) -> Row:
    """What came of `SETTING.onnx`, which another tool makes of what `prepare` wrote."""
    from embedl_deploy.tensorrt import compile_onnx

    call = interpreter if peers.needs_own(setting) else sys.executable
    arguments = [call, "-I", str(peers.__file__), setting, str(folder)]
    error = made(arguments, folder / f"{setting}.txt", seconds)
    if error:
        return failed(name, setting, error)
    path = folder / f"{setting}.onnx"
    try:
        if setting != "modelopt-half":
            halve(path, path)
        return row_of(name, setting, compile_onnx(path, GPU, compiler="rtx"))
    except Exception as error:  # noqa: BLE001 - whatever stops it is the result
        return failed(name, setting, f"{type(error).__name__}: {error}")


def shortfalls(name: str, rows: Sequence[Row]) -> list[str]:
    """What a model's INT8 files lack, in words; what has not run lacks all."""
    known = {row.kind: row for row in rows if row.model == name and row.built}
    missing = [one for one in settings(name) if one in OURS and one not in known]
    best = best_of(list(known.values()))
    if missing or best is None:
        return [f"{name}: no file of {', '.join(missing) or 'another tool'}"]
    return [f"{name}: {one}" for one in _short(known, best)]


def _short(known: dict[str, Row], best: Row) -> Iterator[str]:
    rtx = known["rtx"]
    for kind in ("rtx", "tensorrt"):
        if count := known[kind].products.get("lost", 0):
            yield f"{count} products of `{kind}` lost"
        if known[kind].attention[0] < known["float16"].attention[0]:
            whole, float16 = known[kind].attention[0], known["float16"].attention[0]
            yield f"{whole} attentions of `{kind}` in one kernel, {float16} in float16"
    if rtx.kernels > best.kernels:
        yield f"{rtx.kernels} kernels of `rtx`, {best.kernels} of {best.kind}"
    if (rtx.bytes or 0) > (best.bytes or 0):
        ours, theirs = ((one.bytes or 0) / 1e6 for one in (rtx, best))
        yield f"{ours:.1f} MB of `rtx`, {theirs:.1f} of {best.kind}"


def best_of(rows: Sequence[Row]) -> Row | None:
    """The file of another tool with the least estimate."""
    others = [row for row in rows if row.kind in PEERS and row.built and row.estimate]
    return min(others, key=lambda row: row.estimate or 0.0, default=None)


_HEAD = """\
# Compiled beside other tools

<!-- This page is written by `python -m benchmarks.compiled_peers`. -->

The INT8 files of this library and of others, compiled by {compiler} for {gpu}, which needs no GPU;
nothing was run. All start from the same random weights and calibrate with the same {samples} random
inputs at batch size 1. Columns are those of [the models in three kinds of numbers](compiled.md).
[compiled-peers.json](compiled-peers.json) has the same as data; `make bench-compiled` writes both.

"""


def page(rows: Sequence[Row]) -> str:
    """The table, what the settings are, and which bars are missed."""
    compilers = sorted({row.compiler for row in rows if row.compiler})
    text = _HEAD.format(compiler=" and ".join(compilers), gpu=GPU, samples=SAMPLES)
    text += "".join(f"- **{name}**: {what}.\n" for name, what in (OURS | PEERS).items())
    text += f"\n{_MADE}\n{TABLE}" + "".join(map(line, rows)) + f"\n## Bars\n\n{_BARS}\n"
    for name in dict.fromkeys(row.model for row in rows):
        said = [one.removeprefix(f"{name}: ") for one in shortfalls(name, rows)]
        text += f"- `{name}`: {'; '.join(said) or 'met'}.\n"
    missing = [one for one in BARS if one not in {row.model for row in rows}]
    return text + (f"\nNot run: {', '.join(missing)}.\n" if missing else "")


_MADE = """\
The files of ONNX Runtime and NNCF are made from the float32 file and turned into half precision
after (`benchmarks/halved.py` changes types and no operator), their integers unchanged.
"""
_BARS = """\
No product of our INT8 files is lost, each attention that is one kernel in float16 is one in INT8,
and the file of target `rtx` has no more kernels and moves no more bytes than the best other file,
which is the one with the least estimate. Where that one has attention in INT8, `rtx-full` is its
like; our default keeps attention in half precision, since INT8 costs it [accuracy](accuracy.md).
"""


if __name__ == "__main__":
    sys.exit(main())
