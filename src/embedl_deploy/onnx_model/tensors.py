"""The constants of a file, read when a rule asks for their values."""

from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedl_deploy.errors import CheckError
from embedl_deploy.onnx_model.loading import place

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import TensorProto

_SMALL = 1 << 24
"""Elements up to which a constant is read whole."""

_CHUNK = 1 << 20
_READ = {"FLOAT": "<f4", "FLOAT16": "<f2", "DOUBLE": "<f8"}


class Tensor:
    """A constant.

    Args:
        proto: As in the file.
        folder: Where external data lies.
        dtype: Name of its type.

    Attributes:
        dtype: Such as FLOAT16.
        shape: All sizes.
    """

    __slots__ = ("_array", "_folder", "_proto", "dtype", "shape")

    def __init__(self, proto: "TensorProto", folder: Path, dtype: str) -> None:
        self._proto, self._folder = proto, folder
        self._array: NDArray[Any] | None = None
        self.dtype, self.shape = dtype, tuple(proto.dims)

    @property
    def size(self) -> int:
        """How many elements it has."""
        return prod(self.shape)

    def array(self) -> "NDArray[Any] | None":
        """The values; None for a tensor that is too large to be read whole."""
        if self._array is None and self.size <= _SMALL:
            from onnx import numpy_helper

            try:
                self._array = numpy_helper.to_array(self._inside())
            except Exception:  # noqa: BLE001 - numpy and onnx raise what they like
                raise CheckError(
                    f"the data of the tensor '{self._proto.name}' does not fit its shape "
                    f"{list(self.shape)} and type {self.dtype}; export the file again"
                ) from None
        return self._array

    def _inside(self) -> "TensorProto":
        """With its data in it. The package onnx itself would follow no symbolic links."""
        if self._proto.data_location != 1:
            return self._proto
        location, offset, length = place(self._proto)
        with (self._folder / location).open("rb") as file:
            file.seek(offset)
            data = file.read(length or -1)
        whole = type(self._proto)()
        whole.CopyFrom(self._proto)
        whole.ClearField("external_data")
        whole.ClearField("data_location")
        whole.raw_data = data
        return whole

    def chunks(self) -> "Iterator[NDArray[Any]]":
        """All values of a floating-point tensor, about a million at a time."""
        import numpy as np

        if self._proto.data_location != 1 or self.dtype not in _READ:
            array = self.array()
            if array is not None:
                yield array
            return
        location, offset, _ = place(self._proto)
        kind = np.dtype(_READ[self.dtype])
        buffer = np.empty(min(_CHUNK, self.size), kind)
        with (self._folder / location).open("rb", buffering=0) as file:
            file.seek(offset)
            for begin in range(0, self.size, _CHUNK):
                part = buffer[: min(_CHUNK, self.size - begin)]
                if file.readinto(part.data) < part.nbytes:
                    raise CheckError(f"the data of the tensor '{self._proto.name}' is cut off")
                yield part
