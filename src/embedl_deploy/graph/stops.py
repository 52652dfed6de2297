"""What stopped a way in: the reason, the line of the model's own source, and what to try."""

import inspect
import traceback

import torch
from torch import nn

from embedl_deploy.errors import CaptureError

_TRY = "\nWhat to try: "
_UNKNOWN_OUTPUT = "not a known type"


def stopped(model: nn.Module, how: str, error: Exception, advice: str) -> CaptureError:
    """The error of one way in.

    Args:
        model: The model.
        how: What could not be done, after the model's name.
        error: What was raised while the model's code ran.
        advice: What to try.
    """
    reason = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
    if _UNKNOWN_OUTPUT in reason:
        advice = (
            "return tensors in tuples, lists and dicts only; models of transformers return a cache "
            "unless they are called with use_cache=False"
        )
    line = source_line(error, model)
    return CaptureError(f"{how}: {reason}{line}{_TRY}{advice}")


def no_way(model: nn.Module, traced: CaptureError, exported: CaptureError) -> CaptureError:
    """The error of a model that neither way takes."""
    causes = (str(error).partition(_TRY)[0] for error in (traced, exported))
    advice = str(exported).partition(_TRY)[2] or "capture a submodule without this operation"
    return CaptureError(
        "\n".join((f"no way in takes {type(model).__name__}", *causes)) + _TRY + advice
    )


def source_line(error: Exception, model: nn.Module) -> str:
    """The last line of the traceback that is the model's own, or else of no library of torch."""
    # Without columns: the code of a function that torch 2.8 traces has none, and Python ends there.
    lines = traceback.walk_tb(error.__traceback__)
    frames = [
        frame
        for frame in traceback.StackSummary.extract(lines)
        if not _is_library(frame.filename) and frame.line
    ]
    files = _files(model) if frames else set()
    own = [frame for frame in frames if frame.filename in files] or frames
    return f"\n  {own[-1].filename}:{own[-1].lineno}: {own[-1].line}" if own else ""


def _files(model: nn.Module) -> set[str]:
    """Where the classes of a model's modules are written."""
    found = set()
    for kind in {type(module) for module in model.modules()}:
        try:
            found.add(inspect.getfile(kind))
        except (TypeError, OSError):  # a class of an interactive session has no file
            continue
    return found


def _is_library(filename: str) -> bool:
    folders = [*torch.__path__, __file__.rpartition("/")[0]]
    return filename.startswith((*folders, "<"))
