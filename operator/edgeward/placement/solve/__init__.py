"""Solving a whole priority tier at once: relaxation, prices, rounding, local search, and the distance from the bound."""

from edgeward.placement.solve.relax import Limits
from edgeward.placement.solve.solver import bounded, solve, worth_solving

__all__ = ["Limits", "bounded", "solve", "worth_solving"]
