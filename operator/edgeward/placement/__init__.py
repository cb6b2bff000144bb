"""Placement: which node runs which replica. Pure functions of a Fleet; `plan` is the way in."""

from edgeward.placement.model import (
    Explanation,
    Figures,
    Guidance,
    JobPlan,
    Move,
    Placement,
    Plan,
    Rejected,
    RunnerUp,
    Term,
)
from edgeward.placement.plan import plan
from edgeward.placement.settings import PlanSettings, Weights

__all__ = [
    "Explanation",
    "Figures",
    "Guidance",
    "JobPlan",
    "Move",
    "Placement",
    "Plan",
    "PlanSettings",
    "Rejected",
    "RunnerUp",
    "Term",
    "Weights",
    "plan",
]
