"""Find, plan, apply: the one driver of all patterns."""

from embedl_deploy.rewrite.arithmetic import share
from embedl_deploy.rewrite.coverage import Coverage, Unfused
from embedl_deploy.rewrite.plan import Match, Refusal, Result, without_names
from embedl_deploy.rewrite.transform import (
    TransformationPlan,
    apply_transformation_plan,
    find_plan,
    instances,
)

__all__ = [
    "Coverage",
    "Match",
    "Refusal",
    "Result",
    "TransformationPlan",
    "Unfused",
    "apply_transformation_plan",
    "find_plan",
    "instances",
    "share",
    "without_names",
]
