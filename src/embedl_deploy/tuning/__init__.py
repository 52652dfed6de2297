"""Where to quantize, found by evidence: the compiler's cost and the simulation's accuracy."""

from embedl_deploy.tuning.accuracy import Accuracy
from embedl_deploy.tuning.bounds import Bound
from embedl_deploy.tuning.candidates import Candidate, Choice
from embedl_deploy.tuning.costs import Cost
from embedl_deploy.tuning.evidence import Evidence
from embedl_deploy.tuning.groups import Group
from embedl_deploy.tuning.plan import Tuning
from embedl_deploy.tuning.run import tune
from embedl_deploy.tuning.stored import Plan, read_plan

__all__ = [
    "Accuracy",
    "Bound",
    "Candidate",
    "Choice",
    "Cost",
    "Evidence",
    "Group",
    "Plan",
    "Tuning",
    "read_plan",
    "tune",
]
