"""What a page was made with."""

import platform
from importlib.metadata import PackageNotFoundError, version

_PACKAGES = (
    "embedl_deploy",
    "torch",
    "torchvision",
    "timm",
    "transformers",
    "numpy",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "tensorrt",
    "tensorrt-rtx-cu13-libs",
)


def environment() -> dict[str, str]:
    """Versions of Python and of those packages that are installed, and the system."""
    found = {"Python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found | {"System": f"{platform.system()}, {platform.machine()}"}
