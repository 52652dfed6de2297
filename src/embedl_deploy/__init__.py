"""Make a trained PyTorch model ready for a hardware compiler, first of all NVIDIA TensorRT."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from embedl_deploy.api import get_transformation_plan, transform
    from embedl_deploy.graph.capturing import capture
    from embedl_deploy.rewrite import (
        Coverage,
        Match,
        Refusal,
        Result,
        TransformationPlan,
        Unfused,
        apply_transformation_plan,
    )
    from embedl_deploy.target import Lowering, Target

__all__ = [
    "Coverage",
    "Lowering",
    "Match",
    "Refusal",
    "Result",
    "Target",
    "TransformationPlan",
    "Unfused",
    "apply_transformation_plan",
    "capture",
    "get_transformation_plan",
    "transform",
]

_PLACES = {
    "Coverage": "embedl_deploy.rewrite",
    "Lowering": "embedl_deploy.target",
    "Match": "embedl_deploy.rewrite",
    "Refusal": "embedl_deploy.rewrite",
    "Result": "embedl_deploy.rewrite",
    "Target": "embedl_deploy.target",
    "TransformationPlan": "embedl_deploy.rewrite",
    "Unfused": "embedl_deploy.rewrite",
    "apply_transformation_plan": "embedl_deploy.rewrite",
    "capture": "embedl_deploy.graph",
    "get_transformation_plan": "embedl_deploy.api",
    "transform": "embedl_deploy.api",
}
"""Where the public names are; `--help` and `--version` need none of them, nor torch."""

_PACKAGES = ("errors", "export", "modules", "patterns", "quantize", "report", "tensorrt", "tuning")


def __getattr__(name: str) -> Any:
    """A public name, imported when it is first asked for."""
    if name == "__version__":
        from importlib.metadata import version

        return version("embedl_deploy")
    if name in _PACKAGES:
        return importlib.import_module(f"embedl_deploy.{name}")
    if name not in _PLACES:
        raise AttributeError(f"module 'embedl_deploy' has no attribute '{name}'")
    value = getattr(importlib.import_module(_PLACES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})
