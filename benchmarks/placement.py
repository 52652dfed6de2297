"""Which layers are worth quantizing, by compiler and simulation: `make bench-placement`.

What was measured is kept in `.placement/`; a run that is stopped continues from there.
"""

import argparse
import fnmatch
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import compiled_peers
from benchmarks.compiled import row_of
from benchmarks.quality.measure import outputs, sqnr
from benchmarks.quality.models import built
from benchmarks.quality.trained import MODELS as TRAINED
from benchmarks.zoo.entry import Built, Inputs
from embedl_deploy import transform
from embedl_deploy.export import export_onnx
from embedl_deploy.quantize import calibrate, insert_qdq
from embedl_deploy.table import percent
from embedl_deploy.tensorrt import TENSORRT_RTX, compile_onnx
from embedl_deploy.tensorrt.mixed import MIXED
from embedl_deploy.tuning import Tuning, tune
from embedl_deploy.tuning.accuracy import Judge
from embedl_deploy.tuning.costs import cost_of
from embedl_deploy.tuning.run import parted
from examples.digits import train
from examples.digits.data import calibration_batches, digits

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / ".placement"
GPU = "rtx4090"
NETS = (
    *("mobilenet_v2", "mobilenet_v3_large", "resnet50", "efficientnet_b0", "convnext_tiny"),
    *("swin_t", "vit_b_16"),
)
DIGITS = "digits-"
MODELS = (*(f"{DIGITS}{name}" for name in TRAINED), *NETS)
EVERYTHING = tuple(one for one in TENSORRT_RTX.patterns if one not in MIXED)
HEAD = """# Placement

<!-- This page is written by `python -m benchmarks.placement` (`make bench-placement`). -->

What each group of equal layers costs and saves in INT8, by [`tune`](tuning.md). Three small models
trained on handwritten digits (`examples/digits`), and models of torchvision with random weights, as
on the [quality page](quality.md), at 224×224; float16 besides, and batch 1 where no other is said.
The cost is an **estimate** from the layers that {compiler} made for an {gpu}; nothing was run on a
GPU. The signal to noise is of the simulation, on images that did not calibrate it. With random
weights it ranks the layers of one model, and says nothing of a trained one.

- **front:** the placements that neither another one nor float16 beats in cost and in signal to
  noise, the cheapest first, and float16. What saves less than 0.5 % is not chosen.
- **other tools:** what the same compiler makes of their INT8 files, which the same images
  calibrated (settings as [compiled beside other tools](compiled-peers.md)); their SQNR is that of
  the compiled file, run by ONNX Runtime, on the images that judge ours. So is float16's.
- **ours:** the cheapest of the front that has at least that SQNR (0.2 dB are equal), and the time
  that it takes of theirs.
- **cost** of a group: what quantizing it adds where all others are quantized, or, where that costs
  more than float16, where no other is. Below zero, INT8 pays.

By this compiler most convolutions cost more in INT8: each gets a second kernel, which
scales its result, adds, activates and rounds, where float16 has one.

## The lists of patterns

What [`smart` and `mixed`](tensorrt.md) omit, beside everything quantized: `smart` has no pairs at
global pooling, `mixed` none at depthwise convolutions either. SQNR as above.

| model | what is quantized | estimate | kernels | SQNR |
|---|---|---|---|---|
"""
LISTS = {
    "nothing: float16": (None, 1),
    "everything": (EVERYTHING, 1),
    "smart": (TENSORRT_RTX.named("smart"), 1),
    "mixed": (TENSORRT_RTX.named("mixed"), 1),
    "nothing: float16, batch 32": (None, 32),
    "mixed, batch 32": (TENSORRT_RTX.named("mixed"), 32),
}
"""Patterns that are quantized, and the batch of the file."""
SAMPLES = 256
"""That are looked at, at most."""
SECONDS = 900.0
"""That another tool may take for a file."""
EQUAL = 0.2
"""Decibels that are no difference, as on the quality page."""
LISTED = ("resnet50", "convnext_tiny", "vit_b_16", "efficientnet_b0", "mobilenet_v2")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is not known, and write the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.placement", description=__doc__)
    parser.add_argument("--only", default="*", metavar="PATTERN", help="names of models")
    parser.add_argument("--trials", type=int, default=6, metavar="N", help="see tune")
    parser.add_argument("--lists", action="store_true", help="the lists of patterns alone")
    parser.add_argument("--peers", default=ROOT / ".venv-peers/bin/python", help="interpreter")
    options = parser.parse_args(arguments)
    FOLDER.mkdir(exist_ok=True)
    for name in fnmatch.filter(LISTED, options.only):
        _listed(name)
    for name in fnmatch.filter([] if options.lists else MODELS, options.only):
        tuning = _tuned(name, options.trials)
        (FOLDER / f"{name}.json").write_text(json.dumps(tuning.to_dict()), encoding="utf-8")
        _others(name, str(options.peers))
    text, missed = _page()
    (ROOT / "docs" / "placement.md").write_text(text, encoding="utf-8")
    print("\n".join(missed) or "every bar is met")
    return 1 if missed else 0


def _page() -> tuple[str, list[str]]:
    """All that is known, and where another tool's file is better."""
    head = HEAD.format(compiler=_compiler(), gpu=GPU)
    lists = [_row(name, what) for name in LISTED for what in LISTS]
    known = {name: FOLDER / f"{name}.json" for name in MODELS}
    stored = {name: json.loads(one.read_text()) for name, one in known.items() if one.exists()}
    sections = (line for name, one in stored.items() for line in _section(name, one))
    missed = [line for name, one in stored.items() for line in _missed(name, one)]
    missed += [f"{name}: not run" for name in MODELS if name not in stored]
    return head + "".join(lists) + "\n".join(sections) + "\n", missed


def _row(name: str, what: str) -> str:
    path = FOLDER / f"{name}.lists.json"
    one = json.loads(path.read_text()).get(what) if path.exists() else None
    if one is None:
        return ""
    sqnr = "" if one["sqnr_db"] is None else f"{one['sqnr_db']:.1f} dB"
    return f"| {name} | {what} | {one['microseconds']:.0f} µs | {one['kernels']} | {sqnr} |\n"


def _listed(name: str) -> None:
    """Measure the lists of patterns on a model."""
    path = FOLDER / f"{name}.lists.json"
    found = json.loads(path.read_text()) if path.exists() else {}
    model, batches = _built(name)
    for what, (patterns, batch) in LISTS.items():
        if what in found:
            continue
        print(f"{name}: {what}", file=sys.stderr, flush=True)
        result = transform(
            model, (batches[0],), patterns=patterns or EVERYTHING, target=TENSORRT_RTX
        )
        made, sqnr = result.model, None
        if patterns is not None:
            learned, judged = parted([(one,) for one in batches])
            made = calibrate(insert_qdq(result), learned)
            judge = Judge(result.model, judged, None)
            sqnr = judge.accuracy(made).sqnr_db
        with TemporaryDirectory() as folder:
            file = Path(folder) / "model.onnx"
            export_onnx(made, (batches[0][:1].repeat(batch, 1, 1, 1),), file, precision="float16")
            cost = cost_of(file, TENSORRT_RTX, GPU, "time", None)
        found[what] = {"microseconds": cost.value, "kernels": cost.kernels, "sqnr_db": sqnr}
        path.write_text(json.dumps(found), encoding="utf-8")


def _built(name: str) -> tuple[nn.Module, Sequence[Tensor]]:
    if name.startswith(DIGITS):
        return train.trained(name.removeprefix(DIGITS)), calibration_batches(digits())
    model, calibration, others = built(name)
    return model, torch.cat([calibration, others[:8]]).split(2)


def _tuned(name: str, trials: int) -> Tuning:
    model, batches = _built(name)
    result = transform(model, (batches[0],), patterns=EVERYTHING, target=TENSORRT_RTX)

    def report(what: str, _: Any) -> None:
        print(f"{name}: {what}", file=sys.stderr, flush=True)

    store = FOLDER / f"{name}.jsonl"
    return tune(
        result, batches, gpu=GPU, samples=SAMPLES, trials=trials, store=store, report=report
    )


def _section(name: str, tuning: Mapping[str, Any]) -> Iterator[str]:
    """The lines of a model.

    Args:
        name: Of the model.
        tuning: From `Tuning.to_dict`.
    """
    half, groups = tuning["half"], tuning["groups"]
    said = f"{tuning['candidates']} placements were measured as a whole: {tuning['verdict']}."
    yield from (f"\n## {name}\n", f"{said}\n")
    yield "| front: cost | SQNR | same class | kernels | attention | in half precision |"
    yield "|---|---|---|---|---|---|"
    for one in tuning["front"]:
        kind = "" if one["format"] == "int" else "FP8, "
        cost, accuracy = one["cost"], one["accuracy"]
        same = "" if accuracy["agreement"] is None else percent(accuracy["agreement"])
        figures = (
            f"{cost['value']:.1f} µs | {accuracy['sqnr_db']:.1f} dB | {same} | {cost['kernels']}"
        )
        left = _left([group["name"] for group in groups], one["left"])
        yield f"| {figures} | {kind}{one['attention']} | {left} |"
    measured = _known_others(name).get("float16")
    sqnr_db = f"{measured['sqnr_db']:.1f} dB" if measured else ""
    yield f"| {half['value']:.1f} µs | {sqnr_db} |  | {half['kernels']} |  | all |"
    yield from _peers(name, tuning)
    yield "\n| group | layers | cost | share of the noise |\n|---|---|---|---|"
    noise = sum(one["noise_over_signal"] or 0.0 for one in groups) or 1.0
    for one in groups:
        share = (one["noise_over_signal"] or 0.0) / noise
        title = f"`{one['name']}` {one['kind']}"
        yield f"| {title} | {len(one['paths'])} | {-one['saves']:+.1f} µs | {share:.0%} |"


def _others(name: str, interpreter: str) -> None:
    """Measure float16 and the files of other tools, on the images of `tune`."""
    path = FOLDER / f"{name}.peers.json"
    found = json.loads(path.read_text()) if path.exists() else {}
    peers = [one for one in compiled_peers.settings(name) if one in compiled_peers.PEERS]
    wanted = [one for one in ("float16", *peers) if one not in found]
    if not wanted:
        return
    model, batches = _built(name)
    learned, judged = (torch.cat([*part]) for part in parted(batches))
    with torch.no_grad():
        reference = torch.cat([model(one) for one in judged.split(1)]).numpy()
    samples: list[Inputs] = [((one,), {}) for one in learned.split(1)]
    with TemporaryDirectory() as place:
        folder = Path(place)
        compiled_peers.prepare(Built(model, lambda _: samples[0]), samples, folder)
        for what in wanted:
            print(f"{name}: {what}", file=sys.stderr, flush=True)
            if what == "float16":
                result = transform(model, *samples[0], target=TENSORRT_RTX)
                file = folder / f"{what}.onnx"
                export_onnx(result.model, samples[0][0], file, precision="float16")
                row = row_of(name, what, compile_onnx(file, GPU, compiler="rtx"))
            else:
                row = compiled_peers.other(name, what, folder, interpreter, SECONDS)
            found[what] = {"microseconds": row.estimate, "kernels": row.kernels, "error": row.error}
            if row.built:
                given = outputs(folder / f"{what}.onnx", judged.numpy())
                found[what]["sqnr_db"] = sqnr(reference, given)
            path.write_text(json.dumps(found), encoding="utf-8")


def _known_others(name: str) -> dict[str, Any]:
    path = FOLDER / f"{name}.peers.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _peers(name: str, tuning: Mapping[str, Any]) -> Iterator[str]:
    """What INT8 files of other tools cost by the same compiler, and how accurate they are."""
    rows = {what: row for what, row in _known_others(name).items() if what != "float16"}
    if not rows:
        return
    yield "\n| other tools | estimate | kernels | SQNR | ours |\n|---|---|---|---|---|"
    for what, row in rows.items():
        if row["microseconds"] is None:
            yield f"| {what} | {row['error'] or 'no engine'} | | | |"
            continue
        cost, sqnr_db = row["microseconds"], row["sqnr_db"]
        best = _as_accurate(name, tuning, sqnr_db)
        ours = f"{best:.1f} µs, {best / cost:.0%}" if best is not None else "none"
        yield f"| {what} | {cost:.1f} µs | {row['kernels']} | {sqnr_db:.1f} dB | {ours} |"


def _as_accurate(name: str, tuning: Mapping[str, Any], sqnr_db: float) -> float | None:
    """The least cost of a placement, or of float16, that is as accurate."""
    points = [(one["cost"]["value"], one["accuracy"]["sqnr_db"]) for one in tuning["front"]]
    half = _known_others(name).get("float16")
    if half is not None:
        points.append((tuning["half"]["value"], half["sqnr_db"]))
    return min((cost for cost, db in points if db >= sqnr_db - EQUAL), default=None)


def _missed(name: str, tuning: Mapping[str, Any]) -> Iterator[str]:
    """Files of other tools that cost no more than what is as accurate here."""
    for what, row in _known_others(name).items():
        if what == "float16" or row["microseconds"] is None:
            continue
        best = _as_accurate(name, tuning, row["sqnr_db"])
        if best is None or best >= row["microseconds"]:
            yield f"{name}: {what} costs {row['microseconds']:.1f} µs at {row['sqnr_db']:.1f} dB"


def _left(names: Sequence[str], left: Sequence[str]) -> str:
    kept = [name for name in names if name not in left]
    said, chosen = ("all but ", kept) if len(kept) < len(left) else ("", left)
    return said + ", ".join(f"`{one}`" for one in chosen) or "nothing"


def _compiler() -> str:
    from embedl_deploy.tensorrt.engine.compilers import RTX

    return RTX.name


if __name__ == "__main__":
    sys.exit(main())
