"""The layers of an engine, as its inspector and `trtexec --exportLayerInfo` write them."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embedl_deploy.errors import BuildError

_ORIGIN = re.compile(r"\[ONNX Layer: (.*?)\](?=\s*(?:\x1e|\[|$))", re.DOTALL)
_TYPES = (
    ("INT8", r"int8"),
    ("FP8", r"fp8|e4m3"),
    ("INT4", r"int4"),
    ("FP4", r"fp4|e2m1"),
    ("BF16", r"bf16|bfloat16"),
    ("FP16", r"fp16|half"),
    ("FP32", r"fp32|float"),
)
_COPY = "Reformat"


@dataclass(frozen=True)
class Layer:
    """A layer of an engine.

    Attributes:
        name: As TensorRT calls it.
        kind: Its type, such as CaskConvolution; empty where the report has names alone.
        nodes: Names of the ONNX operators that it computes.
        reads: Types of its inputs, such as INT8.
        gives: Types of its outputs.
    """

    name: str
    kind: str
    nodes: tuple[str, ...]
    reads: tuple[str, ...]
    gives: tuple[str, ...]

    @property
    def is_reformat(self) -> bool:
        """Whether it only changes type or layout."""
        return self.kind == _COPY or self.name.startswith("Reformatting CopyNode")


def read_layers(path: str | Path) -> tuple[Layer, ...]:
    """The layers in a file that `trtexec --exportLayerInfo=` or `build_engine` wrote.

    Raises:
        BuildError: The file can not be read, or is no report of layers.
    """
    try:
        return parse_layers(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise BuildError(f"'{path}' can not be read: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise BuildError(f"'{path}' is no report of layers: it is no text ({error})") from None
    except BuildError as error:
        raise BuildError(f"'{path}' is no report of layers: {error}") from None


def parse_layers(text: str) -> tuple[Layer, ...]:
    """The layers in the text that an engine's inspector gives.

    Raises:
        BuildError: It is no report of layers.
    """
    try:
        entries = json.loads(text)["Layers"]
    except (ValueError, KeyError, TypeError):
        raise BuildError(
            'it has no "Layers"; write it with --exportLayerInfo= and --profilingVerbosity=detailed'
        ) from None
    if not isinstance(entries, list):
        raise BuildError('"Layers" is no list')
    return tuple(_layer(one) for one in entries)


def _layer(entry: Any) -> Layer:
    """With `ProfilingVerbosity.LAYER_NAMES_ONLY`, an entry is a name alone."""
    if isinstance(entry, str):
        return Layer(entry, "", _nodes(entry, ""), (), ())
    if not isinstance(entry, dict) or not isinstance(entry.get("Name"), str):
        raise BuildError("a layer has no name")
    name, kind = entry["Name"], str(entry.get("LayerType", ""))
    nodes = _nodes(name, str(entry.get("Metadata", "")))
    return Layer(name, kind, nodes, _types(entry.get("Inputs")), _types(entry.get("Outputs")))


def _nodes(name: str, metadata: str) -> tuple[str, ...]:
    """From the metadata; without, from the name, which joins them with a plus."""
    found = _ORIGIN.findall(metadata)
    return tuple(dict.fromkeys(found or (part.strip() for part in name.split(" + "))))


def _types(tensors: Any) -> tuple[str, ...]:
    said = [one.get("Format/Datatype", "") for one in tensors or () if isinstance(one, dict)]
    return tuple(dict.fromkeys(filter(None, map(_type, map(str, said)))))


def _type(said: str) -> str:
    """A format such as `Thirty-two wide channel vectorized row major Int8 format`, or `Half`."""
    words = said.lower()
    return next((name for name, pattern in _TYPES if re.search(pattern, words)), "")
