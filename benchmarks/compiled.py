"""What NVIDIA’s compiler makes of models in three kinds of numbers: `make compiled`.

TensorRT for RTX compiles the files, without a GPU. One process a model; what has run is kept and
not run again.
"""

import argparse
import fnmatch
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.exports import MODELS, ROOT, batch

if TYPE_CHECKING:
    from benchmarks.zoo.entry import Built
    from embedl_deploy.tensorrt import Compilation

GPU = "rtx4090"
BARS = (
    *(
        f"torchvision:{name}"
        for name in (
            *("resnet50", "mobilenet_v2", "efficientnet_b0", "convnext_tiny", "vit_b_16", "swin_t"),
        )
    ),
    *("timm:deit_small_patch16_224", "transformers:bert", "transformers:segformer"),
    "ultralytics:yolov8n-raw",
)
"""No product of their default INT8 file is to be lost."""
MORE = (
    *(name for name in BARS if name not in MODELS),
    *(
        f"timm:{name}"
        for name in (
            *("resnet10t", "regnetx_002", "mobilenetv3_small_050", "lcnet_035", "tinynet_e"),
            *("mnasnet_small", "mixnet_s", "rexnet_100", "repghostnet_050", "mobileone_s0"),
            *("pit_ti_224", "visformer_tiny", "tiny_vit_5m_224", "xcit_nano_12_p8_224"),
            *("crossvit_tiny_240", "efficientformerv2_s0", "fastvit_t8", "cait_xxs24_224"),
            *("selecsls42", "hardcorenas_a", "skresnet18", "ese_vovnet19b_slim_dw", "hgnetv2_b0"),
            *("cs3darknet_focus_s", "nf_regnet_b0", "inception_next_atto", "pvt_v2_b0"),
            *("coatnet_pico_rw_224", "gcvit_xxtiny", "mixer_s32_224", "gmlp_ti16_224"),
            *("convit_tiny", "starnet_s1", "mambaout_femto", "eva02_tiny_patch14_224"),
            *("repvit_m0_9", "shvit_s1", "efficientformer_l1", "mobilenetv4_conv_small"),
            *("tf_efficientnetv2_b0", "legacy_seresnet18", "gernet_s", "fasternet_t0"),
            *(
                "swiftformer_xs",
                "mobilevitv2_050",
                "efficientvit_m0",
                "convnextv2_atto",
                "nest_tiny",
            ),
        )
    ),
)
KINDS = ("float16", "int8", "fp8")


@dataclass
class Row:
    """What came of one model in one kind of numbers.

    Attributes:
        compiler: Its name and version.
        built: Whether there is an engine.
        products: How many products there are, by what became of them.
        lost: The first that lost its type, and why.
        kernels: How many.
        bytes: That they read and write.
        estimate: Microseconds, a roofline of the kernels.
        shares: Of the multiply-accumulates, by type.
        attention: How many attentions are one kernel, and how many there are.
        warnings: What the compiler warns of, by how often.
        error: What stopped it.
        seconds: That the compiler took.
    """

    model: str
    kind: str
    compiler: str
    built: bool
    products: Mapping[str, int]
    lost: str
    kernels: int
    bytes: int | None
    estimate: float | None
    shares: Mapping[str, float]
    attention: tuple[int, int]
    warnings: Mapping[str, int]
    error: str
    seconds: float | None = None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what has not run, write page and data; gives 1 where a file was not built."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compiled", description=__doc__)
    parser.add_argument("--only", default="*", metavar="PATTERN", help="names of models")
    parser.add_argument("--again", action="store_true", help="run also what has run")
    parser.add_argument("--data", type=Path, default=ROOT / "docs" / "compiled.json")
    options = parser.parse_args(arguments)
    known = {(row.model, row.kind): row for row in read(options.data)}
    for name in (*MODELS, *MORE):
        done = all((name, kind) in known for kind in KINDS) and not options.again
        if done or not fnmatch.fnmatchcase(name, options.only):
            continue
        print(f"… {name}", file=sys.stderr, flush=True)
        known.update({(row.model, row.kind): row for row in in_fresh_process(measure, name, KINDS)})
        rows = sorted(known.values(), key=lambda row: ((*MODELS, *MORE).index(row.model), row.kind))
        write(rows, options.data, page(rows))
    rows = list(known.values())
    print("".join(map(_said, _bars(rows))))
    lost = any(row.products.get("lost") for row in _bars(rows))
    return 0 if all(row.built for row in rows) and not lost else 1


def _bars(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row.model in BARS and row.kind == "int8"]


def _said(row: Row) -> str:
    time = "" if row.seconds is None else f", compiled in {row.seconds:.1f} s"
    lost, total = row.products.get("lost", 0), sum(row.products.values())
    return f"{row.model}: {lost} of {total} INT8 products lost{time}\n"


def read(path: Path) -> list[Row]:
    """The rows that a file has; none where there is no file."""
    entries = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    return [Row(**entry) for entry in entries]


def write(rows: Sequence[Row], data: Path, text: str) -> None:
    """Write rows, and the page of them beside the file."""
    entries = json.dumps([asdict(row) for row in rows], indent=1)
    data.write_text(f"{entries}\n", encoding="utf-8")
    data.with_suffix(".md").write_text(text, encoding="utf-8")


def in_fresh_process(
    function: Callable[..., list[Row]], name: str, kinds: Sequence[str], *more: Any
) -> list[Row]:
    """What `function(name, kinds, *more)` gives in a process of its own."""
    try:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            return pool.submit(function, name, kinds, *more).result()
    except Exception as error:  # noqa: BLE001 - a process that was killed says little
        said = f"{type(error).__name__}: {error}"
        return [failed(name, kind, said) for kind in kinds]


def failed(name: str, kind: str, error: str) -> Row:
    """A row of a file that there is none of, or that was not built."""
    said = error.splitlines()[0][:200]
    return Row(name, kind, "", False, {}, "", 0, None, None, {}, (0, 0), {}, said)


def measure(name: str, kinds: Sequence[str]) -> list[Row]:
    """One model, in several kinds of numbers."""
    from embedl_deploy import transform
    from embedl_deploy.quantize import quantize
    from embedl_deploy.tensorrt import TENSORRT_FP8_CONFIG

    built = warmed(name)
    inputs = built.draw(1)
    result = transform(built.model, *inputs)
    batches = [batch(result.model, *inputs)]
    makers: dict[str, Callable[[], Any]] = {
        "float16": lambda: result.model,
        "int8": lambda: quantize(result, batches),
        "fp8": lambda: quantize(result, batches, TENSORRT_FP8_CONFIG),
    }
    return [compiled(name, kind, makers[kind], batches[0]) for kind in kinds]


def warmed(name: str) -> "Built":
    """A model of the zoo with random weights, the same in each process."""
    from embedl_deploy.cli.torchvision_ops import import_torchvision

    import_torchvision()
    from benchmarks.zoo import catalog
    from benchmarks.zoo.entry import Entry
    from benchmarks.zoo.warmth import warm

    torch.manual_seed(0)
    torch.set_num_threads(1)
    built = catalog.build(Entry(name, "classification"))
    warm(built)
    return built


def compiled(name: str, kind: str, make: Callable[[], Any], example: Sequence[Any]) -> Row:
    """What the compiler makes of a model that is exported."""
    from embedl_deploy.export import export_onnx
    from embedl_deploy.tensorrt import compile_onnx

    try:
        with TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            export_onnx(make(), tuple(example), path, precision="float16")
            return row_of(name, kind, compile_onnx(path, GPU, compiler="rtx"))
    except Exception as error:  # noqa: BLE001 - whatever stops it is the result
        return failed(name, kind, f"{type(error).__name__}: {error}")


def row_of(name: str, kind: str, made: "Compilation") -> Row:
    """What a compilation says of a model."""
    time = made.estimate()
    whole = sum(1 for one in made.attentions if one.reads)
    return Row(
        model=name,
        kind=kind,
        compiler=made.compiler,
        built=made.built,
        products=made.fates,
        lost=f"{made.lost[0].node}: {made.lost[0].reason}" if made.lost else "",
        kernels=len(made.kernels),
        bytes=made.bytes,
        estimate=time.microseconds if time else None,
        shares=made.shares,
        attention=(whole, len(made.attentions)),
        warnings={one.message: one.count for one in made.remarks if made.built},
        error=made.errors[0].message[:200] if made.errors else "",
        seconds=round(made.seconds, 2),
    )


_HEAD = """\
# Compiled

<!-- This page is written by `python -m benchmarks.compiled`. -->

Models with random weights and random inputs at batch size 1, exported with the default settings in
three kinds of numbers, the rest float16, and compiled by {compiler} for {gpu}, which needs no GPU
([how](tensorrt.md#compiling)). **lost**: products that are computed in a wider type than the file
simulates, of all. **kernels** and **MB**: what the engine launches, and what its kernels read and
write. **estimate**: a roofline of the kernels at published peaks, 2 µs for each launch; nothing was
run. **attention**: those that are one kernel, of all; `transformers:bert` has 24 positions, and in
FP8 [fewer than 32](tensorrt.md#numbers) have no such kernel. **s**: that the compiler took on two
busy cores. **warnings** are the compiler's own.
[compiled.json](compiled.json) has the same as data.

"""
TABLE = """\
| model | numbers | lost | kernels | MB | estimate µs | INT8/FP8 | attention | s | warnings |
|---|---|---|---|---|---|---|---|---|---|
"""


def page(rows: Sequence[Row]) -> str:
    """The table, what was lost, and what did not run."""
    compilers = sorted({row.compiler for row in rows if row.compiler})
    head = _HEAD.format(compiler=" and ".join(compilers), gpu=GPU)
    text = head + TABLE + "".join(map(line, rows))
    text += f"\n{sum(row.built for row in rows)} of {len(rows)} files were built.\n"
    for title, lines in (("Lost", _losses(rows)), ("Warnings", _warnings(rows))):
        if found := list(lines):
            text += f"\n## {title}\n\n" + "".join(found)
    text += _peaks()
    missing = [name for name in (*MODELS, *MORE) if name not in {row.model for row in rows}]
    return text + (f"\nNot run: {', '.join(missing)}.\n" if missing else "")


def _peaks() -> str:
    from embedl_deploy.tensorrt import GPUS

    types = ("FP32", "FP16", "INT8", "FP8")
    text = (
        "\n## Peaks\n\nWhat estimates take: dense, in 10¹² operations a second, of which a "
        "multiply-accumulate is two; FP16\nwith sums in FP16; and 10⁹ bytes a second of memory.\n\n"
        f"| GPU | capability | {' | '.join(types)} | bytes | published in |\n"
        "|---|---|---|---|---|---|---|---|\n"
    )
    for gpu in GPUS.values():
        tera = " | ".join(f"{gpu.tera[one]:g}" if one in gpu.tera else "none" for one in types)
        bandwidth = f"{gpu.bandwidth:g}"
        text += f"| `{gpu.name}` | {gpu.capability} | {tera} | {bandwidth} | {gpu.source} |\n"
    return text


def line(row: Row) -> str:
    """Of the table."""
    if not row.built:
        return f"| `{row.model}` | {row.kind} | not built: {row.error} |  |  |  |  |  |  |  |\n"
    low = sum(share for dtype, share in row.shares.items() if dtype in {"INT8", "FP8"})
    lost, total = row.products.get("lost", 0), sum(row.products.values())
    moved = "" if row.bytes is None else f"{row.bytes / 1e6:.1f}"
    time = "" if row.estimate is None else f"{row.estimate:.0f}"
    attention = "{} of {}".format(*row.attention) if row.attention[1] else ""
    took = "" if row.seconds is None else f"{row.seconds:.1f}"
    warned = sum(row.warnings.values()) or "none"
    return (
        f"| `{row.model}` | {row.kind} | {lost} of {total} | {row.kernels} | {moved} | {time} | "
        f"{low:.0%} | {attention} | {took} | {warned} |\n"
    )


def _losses(rows: Sequence[Row]) -> Iterator[str]:
    for row in rows:
        if row.lost:
            yield f"- `{row.model}`, {row.kind}, first `{row.lost}`\n"


def _warnings(rows: Sequence[Row]) -> Iterator[str]:
    for text in dict.fromkeys(text for row in rows for text in row.warnings):
        count = sum(text in row.warnings for row in rows)
        yield f"- {text.strip()} ({count} files)\n"


if __name__ == "__main__":
    sys.exit(main())
