"""Find, plan, apply: the one driver of all patterns."""

from embedl_deploy.rewrite.coverage import Coverage, Uncovered
from embedl_deploy.rewrite.plan import Match, Refusal, Result, Unfused
from embedl_deploy.rewrite.transform import (
    Patterns,
    TransformationPlan,
    apply_transformation_plan,
    find_plan,
)

__all__ = [
    "Coverage",
    "Match",
    "Patterns",
    "Refusal",
    "Result",
    "TransformationPlan",
    "Uncovered",
    "Unfused",
    "apply_transformation_plan",
    "find_plan",
]
