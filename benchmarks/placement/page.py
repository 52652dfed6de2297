"""The page of all that was measured."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks.placement.models import FOLDER, GPU, LISTED, LISTS, MODELS
from benchmarks.placement.others import known_others, peer_rows
from embedl_deploy.table import percent

HEAD = """# Placement

<!-- This page is written by `python -m benchmarks.placement` (`make bench-placement`). -->

What each group of equal layers costs and saves, by [`tune`](tuning.md). Three small models
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
- **cost** of a group, in the numbers of the cheapest placement, or in INT8 where float16 is best:
  what quantizing it adds where all others are quantized, or, where that costs more than float16,
  where no other is. Below zero, it pays.

{beside}

By this compiler most convolutions cost more in INT8: each gets a second kernel, which
scales its result, adds, activates and rounds, where float16 has one.

## The lists of patterns

What [`smart` and `mixed`](tensorrt.md) omit, beside everything quantized: `smart` has no pairs at
global pooling, `mixed` none at depthwise convolutions either. SQNR as above.

| model | what is quantized | estimate | kernels | SQNR |
|---|---|---|---|---|
"""
EQUAL = 0.2
"""Decibels that are no difference, as on the quality page."""


def page() -> tuple[str, list[str]]:
    """All that is known, and where another tool's file is better."""
    known = {name: FOLDER / f"{name}.json" for name in MODELS}
    stored = {name: json.loads(one.read_text()) for name, one in known.items() if one.exists()}
    lists = [_row(name, what) for name in LISTED for what in LISTS]
    sections = (line for name, one in stored.items() for line in _section(name, one))
    missed = [line for name, one in stored.items() for line in _missed(name, one)]
    missed += [f"{name}: not run" for name in MODELS if name not in stored]
    rows = [row for name in stored for row in peer_rows(name).values()]
    built = sum(row["microseconds"] is not None for row in rows)
    beside = (
        f"Each of the {built} files that other tools made of {len(stored)} models, and that the\n"
        "compiler took, costs more than what is as accurate here."
    )
    if missed:
        beside = f"Not cheaper, or not run: {'; '.join(missed)}."
    head = HEAD.format(compiler=_compiler(), gpu=GPU, beside=beside)
    return head + "".join(lists) + "\n".join(sections) + "\n", missed


def _row(name: str, what: str) -> str:
    path = FOLDER / f"{name}.lists.json"
    one = json.loads(path.read_text()).get(what) if path.exists() else None
    if one is None:
        return ""
    sqnr = "" if one["sqnr_db"] is None else f"{one['sqnr_db']:.1f} dB"
    return f"| {name} | {what} | {one['microseconds']:.0f} µs | {one['kernels']} | {sqnr} |\n"


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
        kind = "" if one["numbers"] == "INT8" else f"{one['numbers']}, "
        cost, accuracy = one["cost"], one["accuracy"]
        same = "" if accuracy["agreement"] is None else percent(accuracy["agreement"])
        figures = (
            f"{cost['value']:.1f} µs | {accuracy['sqnr_db']:.1f} dB | {same} | {cost['kernels']}"
        )
        left = _left([group["name"] for group in groups], one["left"])
        yield f"| {figures} | {kind}{one['attention']} | {left} |"
    measured = known_others(name).get("float16")
    sqnr_db = f"{measured['sqnr_db']:.1f} dB" if measured else ""
    yield f"| {half['value']:.1f} µs | {sqnr_db} |  | {half['kernels']} |  | all |"
    yield from _peers(name, tuning)
    numbers = tuning["best"]["numbers"] if tuning["best"] else "INT8"
    yield f"\n| group | layers | cost in {numbers} | share of the noise |\n|---|---|---|---|"
    noise = sum(one["noise_over_signal"] or 0.0 for one in groups) or 1.0
    for one in groups:
        share = (one["noise_over_signal"] or 0.0) / noise
        title = f"`{one['name']}` {one['kind']}"
        yield f"| {title} | {len(one['paths'])} | {-one['saves']:+.1f} µs | {share:.0%} |"


def _peers(name: str, tuning: Mapping[str, Any]) -> Iterator[str]:
    """What INT8 files of other tools cost by the same compiler, and how accurate they are."""
    rows = peer_rows(name)
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
    half = known_others(name).get("float16")
    if half is not None:
        points.append((tuning["half"]["value"], half["sqnr_db"]))
    return min((cost for cost, db in points if db >= sqnr_db - EQUAL), default=None)


def _missed(name: str, tuning: Mapping[str, Any]) -> Iterator[str]:
    """Files of other tools that cost no more than what is as accurate here."""
    for what, row in peer_rows(name).items():
        if row["microseconds"] is None:
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
