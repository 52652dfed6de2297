"""INT8 files of other tools by the same compiler, on the same images, and float16."""

import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from benchmarks import compiled_peers
from benchmarks.compiled import row_of
from benchmarks.placement.models import FOLDER, GPU, built
from benchmarks.quality.measure import outputs, sqnr
from benchmarks.zoo.entry import Built, Inputs
from embedl_deploy import transform
from embedl_deploy.export import export_onnx
from embedl_deploy.tensorrt import TENSORRT_RTX, compile_onnx
from embedl_deploy.tuning.run import parted

_SECONDS = 900.0
"""That another tool may take for a file."""


def measure(name: str, interpreter: str) -> None:
    """Measure float16 and the files of other tools, on the images of `tune`."""
    path = FOLDER / f"{name}.peers.json"
    found = json.loads(path.read_text()) if path.exists() else {}
    peers = [one for one in compiled_peers.settings(name) if one in compiled_peers.PEERS]
    wanted = [one for one in ("float16", *peers) if one not in found]
    if not wanted:
        return
    model, batches = built(name)
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
                row = compiled_peers.other(name, what, folder, interpreter, _SECONDS)
            found[what] = {"microseconds": row.estimate, "kernels": row.kernels, "error": row.error}
            if row.built:
                given = outputs(folder / f"{what}.onnx", judged.numpy())
                found[what]["sqnr_db"] = sqnr(reference, given)
            path.write_text(json.dumps(found), encoding="utf-8")


def known_others(name: str) -> dict[str, Any]:
    """What is known of a model, by what made the file."""
    path = FOLDER / f"{name}.peers.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def peer_rows(name: str) -> dict[str, Any]:
    """The same without float16."""
    return {what: row for what, row in known_others(name).items() if what != "float16"}
