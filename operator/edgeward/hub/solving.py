"""What the solver's process runs: the full solve, with the wall clock as its backstop."""

from __future__ import annotations

import time

from edgeward.fleet.model import Fleet
from edgeward.placement.model import Guidance
from edgeward.placement.settings import PlanSettings
from edgeward.placement.solve import solve


def solve_in_time(fleet: Fleet, settings: PlanSettings) -> Guidance:
    began = time.monotonic()
    return solve(fleet, settings, clock=lambda: time.monotonic() - began)
