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

from benchmarks.quality.models import built
from benchmarks.quality.trained import MODELS as TRAINED
from embedl_deploy import transform
from embedl_deploy.export import export_onnx
from embedl_deploy.quantize import calibrate, insert_qdq
from embedl_deploy.table import percent
from embedl_deploy.tensorrt import TENSORRT_RTX
from embedl_deploy.tensorrt.mixed import MIXED
from embedl_deploy.tuning import Tuning, tune
from embedl_deploy.tuning.accuracy import Judge
from embedl_deploy.tuning.costs import cost_of
from examples.digits import train
from examples.digits.data import calibration_batches, digits

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / ".placement"
GPU = "rtx4090"
NETS = ("mobilenet_v2", "resnet50", "efficientnet_b0", "convnext_tiny", "swin_t", "vit_b_16")
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
- **other tools:** what the same compiler makes of their INT8 files
  ([compiled beside other tools](compiled-peers.md)); their SQNR is that of the
  [quality page](quality.md), from the same weights and other images.
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
PEERS = {
    "onnxruntime-float-bias": "onnxruntime-symmetric",
    "nncf-symmetric": "nncf-symmetric",
    "modelopt-half": "modelopt-symmetric",
}
"""Files of `make bench-compiled`, and the settings of the quality page that they have."""
LISTED = ("resnet50", "convnext_tiny", "vit_b_16", "efficientnet_b0", "mobilenet_v2")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is not known, and write the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.placement", description=__doc__)
    parser.add_argument("--only", default="*", metavar="PATTERN", help="names of models")
    parser.add_argument("--trials", type=int, default=6, metavar="N", help="see tune")
    parser.add_argument("--lists", action="store_true", help="the lists of patterns alone")
    options = parser.parse_args(arguments)
    FOLDER.mkdir(exist_ok=True)
    for name in fnmatch.filter(LISTED, options.only):
        _listed(name)
    for name in fnmatch.filter([] if options.lists else MODELS, options.only):
        tuning = _tuned(name, options.trials)
        (FOLDER / f"{name}.json").write_text(json.dumps(tuning.to_dict()), encoding="utf-8")
    (ROOT / "docs" / "placement.md").write_text(_page(), encoding="utf-8")
    return 0


def _page() -> str:
    """All that is known."""
    head = HEAD.format(compiler=_compiler(), gpu=GPU)
    lists = [_row(name, what) for name in LISTED for what in LISTS]
    known = {name: FOLDER / f"{name}.json" for name in MODELS}
    stored = {name: json.loads(one.read_text()) for name, one in known.items() if one.exists()}
    sections = (line for name, one in stored.items() for line in _section(name, one))
    return head + "".join(lists) + "\n".join(sections) + "\n"


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
            made = calibrate(insert_qdq(result), [(one,) for one in batches[:9]])
            judge = Judge(result.model, [(one,) for one in batches[9:]], None)
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
    return tune(result, batches, gpu=GPU, trials=trials, store=store, report=report)


def _section(name: str, tuning: Mapping[str, Any]) -> Iterator[str]:
    """The lines of a model.

    Args:
        name: Of the model.
        tuning: From `Tuning.to_dict`.
    """
    half, groups = tuning["float16"], tuning["groups"]
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
    yield f"| {half['value']:.1f} µs |  |  | {half['kernels']} |  | all |"
    yield from _peers(name)
    yield "\n| group | layers | cost | share of the noise |\n|---|---|---|---|"
    noise = sum(one["noise_over_signal"] or 0.0 for one in groups) or 1.0
    for one in groups:
        share = (one["noise_over_signal"] or 0.0) / noise
        title = f"`{one['name']}` {one['kind']}"
        yield f"| {title} | {len(one['paths'])} | {-one['saves']:+.1f} µs | {share:.0%} |"


def _peers(name: str) -> Iterator[str]:
    """What INT8 files of other tools cost by the same compiler, and how accurate they are."""
    costs = json.loads((ROOT / "docs" / "compiled-peers.json").read_text(encoding="utf-8"))
    known = json.loads((ROOT / "docs" / "quality.json").read_text(encoding="utf-8"))["files"]
    sqnrs = {one["setting"]: one["held_out"] for one in known if one["model"] == name}
    rows = [one for one in costs if one["model"] == f"torchvision:{name}" and one["kind"] in PEERS]
    if not rows:
        return
    yield "\n| other tools | estimate | kernels | SQNR |\n|---|---|---|---|"
    for row in rows:
        found = sqnrs.get(PEERS[row["kind"]])
        sqnr = "" if found is None else f"{found:.1f} dB"
        yield f"| {row['kind']} | {row['estimate']:.0f} µs | {row['kernels']} | {sqnr} |"


def _left(names: Sequence[str], left: Sequence[str]) -> str:
    kept = [name for name in names if name not in left]
    said, chosen = ("all but ", kept) if len(kept) < len(left) else ("", left)
    return said + ", ".join(f"`{one}`" for one in chosen) or "nothing"


def _compiler() -> str:
    from embedl_deploy.tensorrt.engine.compilers import RTX

    return RTX.name


if __name__ == "__main__":
    sys.exit(main())
