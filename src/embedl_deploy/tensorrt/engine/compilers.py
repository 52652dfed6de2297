"""NVIDIA's compilers, and which of them is here."""

import ctypes
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec

from embedl_deploy.errors import BuildError
from embedl_deploy.tensorrt.engine.gpus import find_gpu


@dataclass(frozen=True)
class Compiler:
    """A compiler.

    Attributes:
        key: As it is asked for.
        name: As its makers call it.
        module: To import.
        oldest: Version that is known here.
        how_to_get: What to do where it is missing.
        capabilities: That it builds for; none where it builds for the GPU at hand alone.
    """

    key: str
    name: str
    module: str
    oldest: tuple[int, ...]
    how_to_get: str
    capabilities: tuple[str, ...] = ()

    @property
    def installed(self) -> bool:
        """Whether its module is there; it may not load all the same."""
        try:
            return find_spec(self.module) is not None
        except ValueError:  # a module that was put in place by hand has no spec
            return True


TENSORRT = Compiler(
    "tensorrt",
    "TensorRT",
    "tensorrt",
    (10, 12),
    "pip install --upgrade tensorrt where there is an NVIDIA GPU",
)
RTX = Compiler(
    "rtx",
    "TensorRT for RTX",
    "tensorrt_rtx_bindings",
    (1, 7),
    "pip install 'embedl_deploy[rtx]' on Linux x86-64 with Python 3.11 or 3.12, without a GPU too",
    ("SM75", "SM80", "SM86", "SM89", "SM120", "SM121"),
)
_COMPILERS = {one.key: one for one in (TENSORRT, RTX)}
_DEFAULT = "rtx4090"


def choose(wanted: str, gpu: str | None, elsewhere: str) -> tuple[Compiler, str | None]:
    """The compiler to run, and the GPU that it builds for, None for the one at hand.

    Args:
        wanted: `auto`, `tensorrt` or `rtx`. TensorRT builds for the GPU at hand, so with a GPU that
            is named `auto` is `rtx`.
        gpu: Its name; by default the one at hand, or with TensorRT for RTX an RTX 4090.
        elsewhere: The command that builds it where TensorRT is.

    Raises:
        BuildError: There is no such compiler, it is not installed, or does not build for this GPU.
    """
    if wanted != "auto" and wanted not in _COMPILERS:
        raise BuildError(f"'{wanted}' is no compiler; there are auto, {', '.join(_COMPILERS)}")
    if gpu is not None:
        find_gpu(gpu)
    possible: Sequence[Compiler] = list(_COMPILERS.values())
    if wanted != "auto":
        possible = [_COMPILERS[wanted]]
    elif gpu is not None:
        possible = [RTX]
    elif not _has_driver():
        possible = [RTX, TENSORRT]
    found = next((one for one in possible if one.installed), None)
    if found is None:
        raise _missing(possible, elsewhere)
    if not found.capabilities:
        if gpu is not None:
            raise BuildError(f"{found.name} builds for the GPU at hand: leave {gpu} out")
        return found, None
    return found, _held_buildable(found, gpu or _DEFAULT)


def _has_driver() -> bool:
    """Whether this machine has NVIDIA's driver, without which TensorRT builds nothing."""
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return False
    return True


def _held_buildable(compiler: Compiler, gpu: str) -> str:
    capability, _ = find_gpu(gpu)
    if capability not in compiler.capabilities:
        raise BuildError(
            f"{compiler.name} does not build for {gpu}, which is {capability}, but for "
            f"{', '.join(compiler.capabilities)}; TensorRT builds for it on a machine that has one"
        )
    return gpu


def _missing(wanted: Sequence[Compiler], elsewhere: str) -> BuildError:
    names = " nor ".join(one.name for one in wanted)
    ways = ", or ".join(one.how_to_get for one in wanted)
    return BuildError(
        f"no {names} is installed here: {ways}; or run this on a machine that has TensorRT:\n"
        f"  {elsewhere}\nand give the layers that it writes to --layers-from, or to read_layers in "
        "Python"
    )
