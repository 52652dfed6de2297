"""One model of each family in timm: the smallest by parameters."""

import importlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from benchmarks.zoo.entry import Built, Entry, Inputs, images


def entries(folder: Path) -> list[Entry]:
    """The smallest model of each family, without the dwarfs that timm made for its own tests.

    Counting all parameters takes minutes; the counts are kept in `folder`.
    """
    timm = importlib.import_module("timm")
    file = folder / f"timm-{timm.__version__}.json"
    if not file.exists():
        sizes = {name: parameters(name) for name in timm.list_models()}
        folder.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(sizes), encoding="utf-8")
    known: dict[str, int | None] = json.loads(file.read_text(encoding="utf-8"))
    return smallest(
        (family, name, known[name])
        for family in timm.list_modules()
        for name in timm.list_models(module=family)
        if not name.startswith("test_")
    )


def smallest(sizes: Iterable[tuple[str, str, int | None]]) -> list[Entry]:
    """The first of the smallest models of each family; a size of `None` cannot be built."""
    best: dict[str, Entry] = {}
    for family, name, size in sizes:
        if size is not None and (family not in best or size < best[family].parameters):
            best[family] = Entry(f"timm:{name}", family, size)
    return [best[family] for family in sorted(best)]


def parameters(name: str) -> int | None:
    """How many parameters a model has, counted without their memory."""
    timm = importlib.import_module("timm")
    try:
        with torch.device("meta"):
            model = timm.create_model(name)
    except Exception:  # noqa: BLE001 - what cannot be built here is not chosen
        return None
    return sum(one.numel() for one in model.parameters())


def build(entry: Entry) -> Built:
    """The model, and images of the size that its weights were trained for."""
    timm = importlib.import_module("timm")
    model = timm.create_model(entry.model)
    config: dict[str, Any] = model.pretrained_cfg
    size = tuple(config["input_size"])

    def draw(batch: int) -> Inputs:
        return (images(batch, *size),), {}

    return Built(model, draw)
