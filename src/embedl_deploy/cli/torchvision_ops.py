"""Torchvision imports beside a PyTorch build that its compiled library was not made for.

The torchvision wheel of the common package index is compiled for CUDA. Beside a CPU build of
PyTorch the library cannot load, and `import torchvision` (seen with 0.28.0) fails at
`register_fake("torchvision::nms")`, although models for classification use none of its operators.
Only the two schemas that this registration looks up are missing.
"""

import importlib
import sys
from types import ModuleType

from torch.library import Library

from embedl_deploy.errors import MissingExtraError

__all__ = ["import_torchvision"]

_MISSING = "operator torchvision::nms does not exist"
_SCHEMA = "{}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_libraries: list[Library] = []  # a schema lives as long as its Library object


def import_torchvision() -> ModuleType:
    """Torchvision is imported, with its operators declared where its library cannot load.

    Call it before anything that imports torchvision, as timm does.

    Raises:
        MissingExtraError: torchvision is not installed.
    """
    try:
        return importlib.import_module("torchvision")
    except ModuleNotFoundError as error:
        if error.name != "torchvision":
            raise
        raise MissingExtraError("torchvision", "zoo", "loading this model") from None
    except RuntimeError as error:
        if _MISSING not in str(error):
            raise
    _declare_operators()
    _forget_half_imported()
    return importlib.import_module("torchvision")


def _declare_operators() -> None:
    library = Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(_SCHEMA.format(name))
    _libraries.append(library)


def _forget_half_imported() -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]
