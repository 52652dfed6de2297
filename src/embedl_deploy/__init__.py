"""Make a trained PyTorch model ready for a hardware compiler, first of all NVIDIA TensorRT."""

from embedl_deploy.api import get_transformation_plan, transform
from embedl_deploy.graph import capture
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
