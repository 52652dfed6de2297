"""Running ONNX files with ONNX Runtime on the CPU."""

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from embedl_deploy.errors import MissingExtraError, VerificationError

if TYPE_CHECKING:
    import onnxruntime

_TYPES = {
    "tensor(float16)": torch.float16,
    "tensor(float)": torch.float32,
    "tensor(double)": torch.float64,
}


_WRONG = ["ReluQuantRewrite"]
"""Passes that change what a file computes: this one takes FP8 numbers for ones without a sign."""


class OnnxModel:
    """An ONNX file as a function of tensors.

    Q/DQ operators are computed as they stand in the file. ONNX Runtime's own integer kernels are
    left out: they quantize biases, which TensorRT does not, and for signed activations they
    are slow (and in version 1.32 fail to load some files of opset 21).

    Args:
        model: A file, or its bytes.
        threads: CPU threads; ONNX Runtime's choice by default.

    Attributes:
        input_names: In the file's order.
        output_names: In the file's order.

    Raises:
        VerificationError: ONNX Runtime cannot load the file.
        MissingExtraError: ONNX Runtime is not installed.
    """

    def __init__(self, model: str | Path | bytes, *, threads: int | None = None) -> None:
        require("onnxruntime", "running ONNX files")
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.add_session_config_entry("session.disable_quant_qdq", "1")
        options.log_severity_level = 3
        if threads is not None:
            options.intra_op_num_threads = threads
        source = model if isinstance(model, bytes) else str(model)
        try:
            self._session: onnxruntime.InferenceSession = ort.InferenceSession(
                source,
                options,
                providers=["CPUExecutionProvider"],
                disabled_optimizers=_WRONG,
            )
        except Exception as error:  # it raises classes of its own that share no public base
            name = "the file" if isinstance(model, bytes) else f"'{model}'"
            raise VerificationError(f"ONNX Runtime cannot load {name}: {error}") from error
        self.input_names = tuple(one.name for one in self._session.get_inputs())
        self.output_names = tuple(one.name for one in self._session.get_outputs())

    @property
    def batch_size(self) -> int | None:
        """The first dimension of the first input, where the file fixes it."""
        shapes = [one.shape for one in self._session.get_inputs()]
        size = shapes[0][0] if shapes and shapes[0] else None
        return size if isinstance(size, int) else None

    def __call__(self, *args: Tensor, **kwargs: Tensor) -> dict[str, Tensor]:
        """Run the file; outputs by name. Floating-point inputs are given in the file's type.

        Raises:
            VerificationError: The inputs do not fit the file.
        """
        feed = self._feed(args, kwargs)
        try:
            outputs: Sequence[Any] = self._session.run(None, feed)
        except Exception as error:  # as above
            shapes = {name: array.shape for name, array in feed.items()}
            raise VerificationError(f"the file does not run on inputs {shapes}: {error}") from error
        arrays = zip(self.output_names, outputs, strict=True)
        return {name: torch.from_numpy(array) for name, array in arrays}

    def _feed(self, args: Sequence[Tensor], kwargs: Mapping[str, Tensor]) -> dict[str, Any]:
        named = dict(zip(self.input_names, args, strict=False)) | dict(kwargs)
        if len(args) > len(self.input_names) or set(named) != set(self.input_names):
            raise VerificationError(
                f"the file takes the inputs {', '.join(self.input_names)}; "
                f"{len(args)} by position{_named(kwargs)} were given"
            )
        types = {one.name: _TYPES.get(one.type) for one in self._session.get_inputs()}
        return {name: _array(tensor, types[name]) for name, tensor in named.items()}


def _named(kwargs: Mapping[str, Tensor]) -> str:
    return f" and {', '.join(sorted(kwargs))} by name" if kwargs else ""


def _array(tensor: Tensor, dtype: torch.dtype | None) -> Any:
    """In the file's type, where both are floating-point."""
    given = tensor.detach().cpu()
    floating = dtype is not None and given.is_floating_point()
    return (given.to(dtype) if floating else given).numpy()


def require(package: str, purpose: str) -> None:
    """Raise unless a package of the `onnx` extra is installed.

    Raises:
        MissingExtraError: It is not.
    """
    try:
        importlib.import_module(package)
    except ImportError:
        raise MissingExtraError(package, "onnx", purpose) from None
