"""All models of the zoo, in the order in which they run."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from benchmarks.zoo import (
    package_models,
    timm_models,
    torchvision_models,
    transformers_models,
    ultralytics_models,
)
from benchmarks.zoo.entry import Built, Entry


class Source(NamedTuple):
    """A package of models: what there is, and how one is built."""

    entries: Callable[[Path], list[Entry]]
    build: Callable[[Entry], Built]


SOURCES = {
    "transformers": Source(transformers_models.entries, transformers_models.build),
    "timm": Source(timm_models.entries, timm_models.build),
    "torchvision": Source(torchvision_models.entries, torchvision_models.build),
    "ultralytics": Source(ultralytics_models.entries, ultralytics_models.build),
    **{
        name: Source(package_models.entries(name), package_models.build)
        for name in package_models.PACKAGES
    },
}

WITH_FILES = {"ultralytics", *package_models.PACKAGES}
"""Sources whose models are quantized and exported too; timm's and torchvision's are elsewhere
(`benchmarks.exports`, `benchmarks.compiled`)."""


def entries(folder: Path) -> list[Entry]:
    """Every entry of every source, the small ones of each first.

    Args:
        folder: Where what is slow to find out is kept.
    """
    found = [source.entries(folder) for source in SOURCES.values()]
    return [entry for some in found for entry in sorted(some, key=lambda one: one.parameters)]


def build(entry: Entry) -> Built:
    """The model of an entry, with random weights."""
    return SOURCES[entry.source].build(entry)
