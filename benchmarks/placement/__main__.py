"""Which layers are worth quantizing, by compiler and simulation: `make bench-placement`.

What was measured is kept in `.placement/`; a run that is stopped continues from there.
"""

import argparse
import fnmatch
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.placement import others
from benchmarks.placement.models import EVERYTHING, FOLDER, GPU, LISTED, LISTS, MODELS, built
from benchmarks.placement.page import page
from embedl_deploy import transform
from embedl_deploy.export import export_onnx
from embedl_deploy.quantize import calibrate, insert_qdq
from embedl_deploy.tensorrt import TENSORRT_RTX
from embedl_deploy.tuning import Tuning, tune
from embedl_deploy.tuning.accuracy import Judge
from embedl_deploy.tuning.costs import cost_of
from embedl_deploy.tuning.run import parted

ROOT = Path(__file__).parents[2]
SAMPLES = 256
"""That are looked at, at most."""


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
        others.measure(name, str(options.peers))
    text, missed = page()
    (ROOT / "docs" / "placement.md").write_text(text, encoding="utf-8")
    print("\n".join(missed) or "every bar is met")
    return 1 if missed else 0


def _listed(name: str) -> None:
    """Measure the lists of patterns on a model."""
    path = FOLDER / f"{name}.lists.json"
    found = json.loads(path.read_text()) if path.exists() else {}
    model, batches = built(name)
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


def _tuned(name: str, trials: int) -> Tuning:
    model, batches = built(name)
    result = transform(model, (batches[0],), patterns=EVERYTHING, target=TENSORRT_RTX)

    def report(what: str, _: Any) -> None:
        print(f"{name}: {what}", file=sys.stderr, flush=True)

    store = FOLDER / f"{name}.jsonl"
    return tune(
        result, batches, gpu=GPU, samples=SAMPLES, trials=trials, store=store, report=report
    )


if __name__ == "__main__":
    sys.exit(main())
