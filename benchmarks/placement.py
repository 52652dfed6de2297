"""Which layers are worth quantizing, by compiler and simulation: `make bench-placement`.

What was measured is kept in `.placement/`; a run that is stopped continues from there.
"""

import argparse
import fnmatch
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.quality.models import built
from embedl_deploy import transform
from embedl_deploy.tensorrt import TENSORRT_RTX
from embedl_deploy.tensorrt.mixed import MIXED
from embedl_deploy.tuning import Tuning, tune

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / ".placement"
GPU = "rtx4090"
MODELS = ("mobilenet_v2", "resnet50", "efficientnet_b0", "convnext_tiny", "swin_t", "vit_b_16")
EVERYTHING = tuple(one for one in TENSORRT_RTX.patterns if one not in MIXED)
HEAD = """# Placement

<!-- This page is written by `python -m benchmarks.placement` (`make bench-placement`). -->

What each group of equal layers costs and saves in INT8, by [`tune`](tuning.md). Models of
torchvision with random weights, as on the [quality page](quality.md), at 224×224, batch 1, float16
besides. The cost is an **estimate** from the layers that {compiler} made for an {gpu}; nothing was
run on a GPU. The signal to noise is of the simulation, on images that did not calibrate it. With
random weights it ranks the layers of one model, and says nothing of a trained one.

- **front:** the placements that no other one beats in cost and in signal to noise, the cheapest
  first.
- **left alone:** everything quantized but this group, beside everything quantized. A negative
  cost is a group that is faster in half precision.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is not known, and write the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.placement", description=__doc__)
    parser.add_argument("--only", default="*", metavar="PATTERN", help="names of models")
    parser.add_argument("--trials", type=int, default=6, metavar="N", help="see tune")
    options = parser.parse_args(arguments)
    FOLDER.mkdir(exist_ok=True)
    for name in fnmatch.filter(MODELS, options.only):
        tuning = _tuned(name, options.trials)
        text = "\n".join(_section(name, tuning))
        (FOLDER / f"{name}.md").write_text(text, encoding="utf-8")
        (FOLDER / f"{name}.json").write_text(json.dumps(tuning.to_dict()), encoding="utf-8")
    known = [FOLDER / f"{name}.md" for name in MODELS if (FOLDER / f"{name}.md").exists()]
    parts = [HEAD.format(compiler=_compiler(), gpu=GPU), *(one.read_text() for one in known)]
    (ROOT / "docs" / "placement.md").write_text("\n".join(parts), encoding="utf-8")
    return 0


def _tuned(name: str, trials: int) -> Tuning:
    model, calibration, others = built(name)
    batches = torch.cat([calibration, others[:8]]).split(2)
    result = transform(model, (batches[0],), patterns=EVERYTHING, target=TENSORRT_RTX)

    def report(what: str, _: Any) -> None:
        print(f"{name}: {what}", file=sys.stderr, flush=True)

    store = FOLDER / f"{name}.jsonl"
    return tune(result, batches, gpu=GPU, trials=trials, store=store, report=report)


def _section(name: str, tuning: Tuning) -> Iterator[str]:
    yield f"\n## {name}\n"
    yield f"float16: {tuning.half.value:.0f} µs, {tuning.half.kernels} kernels. {tuning.verdict}.\n"
    yield "| front: cost | SQNR | kernels | attention | in half precision |"
    yield "|---|---|---|---|---|"
    for one in tuning.front:
        left = ", ".join(f"`{group}`" for group in one.choice.left) or "nothing"
        kind = "" if one.choice.format == "int" else "FP8, "
        cost = f"{one.cost.value:.0f} µs | {one.accuracy.sqnr_db:.1f} dB | {one.cost.kernels}"
        yield f"| {cost} | {kind}{one.choice.attention} | {left} |"
    yield "\n| group | layers | cost | share of the noise |\n|---|---|---|---|"
    noise = sum(tuning.alone.values()) or 1.0
    for group in tuning.groups:
        share = tuning.alone.get(group.name, 0.0) / noise
        cost = f"{-tuning.gains[group.name]:+.1f} µs"
        yield f"| `{group.name}` {group.kind} | {len(group.paths)} | {cost} | {share:.0%} |"
    yield ""


def _compiler() -> str:
    from embedl_deploy.tensorrt.engine.compilers import RTX

    return RTX.name


if __name__ == "__main__":
    sys.exit(main())
