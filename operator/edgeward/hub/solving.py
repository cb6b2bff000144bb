"""What the solver's process runs: the full solve, with the wall clock as its backstop."""

from __future__ import annotations

import time

from edgeward.fleet.model import Fleet
from edgeward.placement.model import Guidance
from edgeward.placement.settings import PlanSettings
from edgeward.placement.solve import bounded, solve


def solve_in_time(fleet: Fleet, settings: PlanSettings, advice: Guidance | None = None) -> Guidance:
    """Advice; or, of advice that was given, the same with its bounds."""
    if advice is not None:
        return bounded(fleet, settings, advice)
    began = time.monotonic()
    return solve(fleet, settings, clock=lambda: time.monotonic() - began)
