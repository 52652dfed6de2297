"""What each `torch.onnx.export` reads anew of torch, a second of two, is read once a worker."""

import functools
from typing import Any

import torch


class _Unread:
    def __class_getitem__(cls, _: Any) -> type["_Unread"]:
        return cls


def read_operators_once() -> None:
    """Let each export start from a copy of the operators that the first one found.

    A torch that keeps them elsewhere reads them for every export.
    """
    try:
        from torch._export import utils
        from torch.onnx._internal.exporter._registration import ONNXRegistry
    except ImportError:
        return
    # An annotation that torch evaluates 23,000 times an export, and nothing reads.
    vars(torch._ops)["Callable"] = _Unread
    if hasattr(utils, "_materialize_cpp_cia_ops"):
        utils._materialize_cpp_cia_ops = functools.cache(utils._materialize_cpp_cia_ops)
    read = functools.cache(ONNXRegistry.from_torchlib)

    def shared(*args: Any, **kwargs: Any) -> ONNXRegistry:
        whole, copy = read(*args, **kwargs), ONNXRegistry()
        vars(copy).update(vars(whole))
        copy.functions = {target: list(found) for target, found in whole.functions.items()}
        return copy

    ONNXRegistry.from_torchlib = staticmethod(shared)  # type: ignore[method-assign]
