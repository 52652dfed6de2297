"""The layers of an engine, as its inspector and `trtexec --exportLayerInfo` write them."""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from embedl_deploy.errors import BuildError

_ORIGIN = re.compile(r"\[ONNX Layer: (.*?)\](?=(?:__\w+)?\s*(?:\x1e|\[|$))", re.DOTALL)
_TYPES = (
    ("UINT8", r"uint8", 8),
    ("INT8", r"int8", 8),
    ("FP8", r"fp8|e4m3|float8", 8),
    ("INT4", r"int4", 4),
    ("FP4", r"fp4|e2m1", 4),
    ("BF16", r"bf16|bfloat16", 16),
    ("FP16", r"fp16|half", 16),
    ("FP32", r"fp32|float", 32),
    ("INT64", r"int64", 64),
    ("INT32", r"int32", 32),
    ("BOOL", r"bool", 8),
)
_BITS = {name: bits for name, _, bits in _TYPES}
_COPY = "Reformat"
_IDLE = frozenset({"signal", "wait", "shape_call", "constant"})
"""Layers that order others, and compute no tensor."""


@dataclass(frozen=True)
class LayerTensor:
    """A tensor that a layer reads or writes.

    Attributes:
        name: As the compiler calls it.
        shape: Its sizes, -1 for an open one; empty where the report does not have them.
        dtype: Such as INT8; empty where it is not known.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def bytes(self) -> int | None:
        """In memory; None where a size is open."""
        if any(size < 0 for size in self.shape):
            return None
        return (prod(self.shape) * _BITS.get(self.dtype, 0) + 7) // 8


@dataclass(frozen=True)
class Layer:
    """A layer of an engine.

    Attributes:
        name: As the compiler calls it.
        kind: Its type, such as CaskConvolution; empty where the report has names alone.
        nodes: Names of the ONNX operators that it computes.
        inputs: What it reads.
        outputs: What it writes.
        constants: Weights and scales that it reads.
        macs: Multiply-accumulates; None where it multiplies, and how often is not known.
        computes: Type of these; empty where there are none, or none are known.
    """

    name: str
    kind: str
    nodes: tuple[str, ...]
    inputs: tuple[LayerTensor, ...]
    outputs: tuple[LayerTensor, ...]
    constants: tuple[LayerTensor, ...] = ()
    macs: int | None = 0
    computes: str = ""

    @property
    def reads(self) -> tuple[str, ...]:
        """Types of its inputs, such as INT8."""
        return types_of(self.inputs)

    @property
    def gives(self) -> tuple[str, ...]:
        """Types of its outputs."""
        return types_of(self.outputs)

    @property
    def is_attention(self) -> bool:
        """Whether it is a whole attention in one kernel."""
        return "_mha_" in self.name

    @property
    def is_reformat(self) -> bool:
        """Whether it only changes type or layout."""
        return self.kind == _COPY or self.name.startswith("Reformatting CopyNode")

    @property
    def is_kernel(self) -> bool:
        """Whether it does work on the GPU."""
        return self.kind not in _IDLE

    @property
    def bytes(self) -> int | None:
        """That it reads and writes, each tensor once; None where a size is open."""
        tensors = {*self.inputs, *self.outputs, *self.constants}
        sizes = [one.bytes for one in tensors]
        known = [one for one in sizes if one is not None]
        return sum(known) if len(known) == len(sizes) else None


def types_of(tensors: Iterable[LayerTensor]) -> tuple[str, ...]:
    """The types of tensors, each once."""
    return tuple(dict.fromkeys(one.dtype for one in tensors if one.dtype))


def read_layers(path: str | Path) -> tuple[Layer, ...]:
    """The layers in a file that `trtexec --exportLayerInfo=` or `compile_onnx` wrote.

    Raises:
        BuildError: The file cannot be read, or is no report of layers.
    """
    try:
        return parse_layers(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise BuildError(f"'{path}' cannot be read: {error.strerror or error}") from None
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
        return Layer(entry, "", nodes_of("", entry), (), ())
    if not isinstance(entry, dict) or not isinstance(entry.get("Name"), str):
        raise BuildError("a layer has no name")
    name, kind = entry["Name"], str(entry.get("LayerType", ""))
    nodes = nodes_of(str(entry.get("Metadata", "")), name)
    inputs, outputs, constants = (
        _tensors(entry.get(key)) for key in ("Inputs", "Outputs", "Constants")
    )
    return Layer(name, kind, nodes, inputs, outputs, constants)


def nodes_of(metadata: str, name: str) -> tuple[str, ...]:
    """From the metadata; without, from the name, which joins them with a plus."""
    found = _ORIGIN.findall(metadata)
    parts = found or [part.strip() for part in name.split(" + ")]
    return tuple(dict.fromkeys(filter(None, parts)))


def _tensors(entries: Any) -> tuple[LayerTensor, ...]:
    return tuple(map(_tensor, (one for one in entries or () if isinstance(one, dict))))


def _tensor(entry: Any) -> LayerTensor:
    shape = tuple(int(size) for size in entry.get("Dimensions", ()))
    return LayerTensor(
        str(entry.get("Name", "")), shape, type_of(str(entry.get("Format/Datatype", "")))
    )


def type_of(said: str) -> str:
    """A format such as `Thirty-two wide channel vectorized row major Int8 format`, or `Half`."""
    words = said.lower()
    return next((name for name, pattern, _ in _TYPES if re.search(pattern, words)), "")
