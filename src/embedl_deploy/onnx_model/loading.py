"""Reading an ONNX file without its weights.

Large tensors inside the file are cut out while it is read, and become references to
their place in it, as if they were external data. So a file of 2 GB takes a few MB of memory.
"""

import mmap
import sys
from collections.abc import Iterator
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from embedl_deploy.errors import CheckError, DeployError, MissingExtraError

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, TensorProto

LARGE = 1 << 16
"""Bytes from which on a tensor is left in the file."""

_GRAPH, _INITIALIZER, _RAW_DATA = 7, 5, 9
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14

Span = tuple[int, int, int, int]
"""Number of a field, where it begins, where its content begins, and where that ends."""


def path_of(path: object, kind: type[DeployError] = CheckError) -> Path:
    """A path as such.

    Raises:
        DeployError: It is none; of the given kind.
    """
    if isinstance(path, str | PathLike):
        return Path(path)
    raise kind(f"a {type(path).__name__} names no file; give its path, such as 'model.onnx'")


def read_onnx(path: Path) -> "ModelProto":
    """The model in a file, without the bytes of large tensors.

    Raises:
        CheckError: The file cannot be read, or is no ONNX.
        MissingExtraError: The package onnx is not installed.
    """
    try:
        from onnx import ModelProto
    except ImportError:
        raise MissingExtraError("onnx", "onnx", "checking ONNX files") from None
    text = _without_weights(path)
    model = ModelProto()
    try:
        model.ParseFromString(text)
    except Exception:  # noqa: BLE001 - protobuf's own error, which has several homes
        raise _not_onnx(path) from None
    if not model.ir_version or not model.HasField("graph"):
        raise _not_onnx(path)
    _hold_external_data(model.graph, path)
    return model


def _not_onnx(path: Path) -> CheckError:
    return CheckError(f"'{path}' is no ONNX file, or only a part of one; export or copy it again")


def _without_weights(path: Path) -> bytes:
    if path.is_dir():
        raise CheckError(f"'{path}' is a folder; give the .onnx file in it")
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            if size < LARGE:
                return file.read()
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                return _message(content, path.name)
    except OSError as error:
        raise CheckError(f"'{path}' cannot be read: {error.strerror or error}") from None
    except (IndexError, ValueError):
        raise _not_onnx(path) from None


# --- the wire format of protobuf ----------------------------------------------------------------


def _message(content: mmap.mmap, name: str) -> bytes:
    """The whole model; only the graph is looked into."""
    parts = []
    for number, begin, start, end in _fields(content, 0, len(content)):
        if number == _GRAPH:
            parts.append(_field(_GRAPH, _graph(content, start, end, name)))
        else:
            parts.append(content[begin:end])
    return b"".join(parts)


def _graph(content: mmap.mmap, start: int, end: int, name: str) -> bytes:
    parts = []
    for number, begin, inside, stop in _fields(content, start, end):
        if number == _INITIALIZER and stop - inside >= LARGE:
            parts.append(_field(_INITIALIZER, _tensor(content, inside, stop, name)))
        else:
            parts.append(content[begin:stop])
    return b"".join(parts)


def _tensor(content: mmap.mmap, start: int, end: int, name: str) -> bytes:
    """A tensor whose raw data is named by place; typed data, which is rare, stays."""
    parts = []
    for number, begin, inside, stop in _fields(content, start, end):
        if number != _RAW_DATA:
            parts.append(content[begin:stop])
            continue
        where = {"location": name, "offset": str(inside), "length": str(stop - inside)}
        for key, value in where.items():
            entry = _field(1, key.encode()) + _field(2, value.encode())
            parts.append(_field(_EXTERNAL_DATA, entry))
        parts.append(bytes([_DATA_LOCATION << 3, 1]))
    return b"".join(parts)


def _fields(content: mmap.mmap, position: int, end: int) -> Iterator[Span]:
    while position < end:
        begin = position
        key, position = _varint(content, position)
        start = position
        match key & 7:
            case 0:
                _, position = _varint(content, position)
            case 1:
                position += 8
            case 2:
                length, start = _varint(content, position)
                position = start + length
            case 5:
                position += 4
            case _:
                raise ValueError(key)
        if position > end or key >> 3 == 0:
            raise ValueError(position)
        yield key >> 3, begin, start, position


def _varint(content: mmap.mmap, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = content[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position
        shift += 7
        if shift > 63:
            raise ValueError(position)


def _field(number: int, content: bytes) -> bytes:
    size, length = len(content), bytearray()
    while size > 127:
        length.append(size & 127 | 128)
        size >>= 7
    length.append(size)
    return bytes([number << 3 | 2]) + bytes(length) + content


# --- external data ------------------------------------------------------------------------------


def _hold_external_data(graph: "GraphProto", path: Path) -> None:
    """Raise unless the files of tensors are there and long enough.

    Raises:
        CheckError: One is not.
    """
    sizes: dict[str, int] = {}
    for tensor in graph.initializer:
        if tensor.data_location != 1:
            continue
        location, offset, length = place(tensor)
        if location not in sizes:
            sizes[location] = _size(path, location)
        if offset + length > sizes[location]:
            raise CheckError(
                f"the tensor '{tensor.name}' of '{path}' ends after the end of its data file "
                f"'{location}', which has {sizes[location]:,} bytes; copy that file again"
            )


def place(tensor: "TensorProto") -> tuple[str, int, int]:
    """File, offset and length of external data; 0 where the length is not written."""
    said = {entry.key: entry.value for entry in tensor.external_data}
    numbers = (said.get(key, "0") for key in ("offset", "length"))
    offset, length = (int(one) if one.isdecimal() else sys.maxsize for one in numbers)
    return said.get("location", ""), offset, length


def _size(path: Path, location: str) -> int:
    file = path.parent / location
    inside = location and ".." not in Path(location).parts and not Path(location).is_absolute()
    if inside and file.is_file():
        return file.stat().st_size
    raise CheckError(
        f"the data file '{location}' of '{path}' is missing; it has to lie in the same folder"
    )
