"""Who is served first: priority tier from the top, then P, then the ties of the design.

A job whose replicas wait long is ordered one priority tier higher, so that nothing starves. That is a matter of order
alone: whoever makes room for a job by taking it from others looks at `own_tier`, which waiting does not change.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from edgeward.fleet.model import Fleet, Job
from edgeward.placement.formulas import priorities, priority_tier
from edgeward.placement.settings import PlanSettings

HIGHEST = 5


@dataclass(frozen=True, slots=True)
class Turn:
    """A job with its place in the order."""

    index: int
    """of the job in the Fleet"""
    job: Job
    tier: int
    """the priority tier that it is served in, 5 first: its own, or one higher because it waits so long"""
    own_tier: int
    """the priority tier of its three marks: what it may preempt, what its pods run as, what status says"""
    p: Fraction
    position: int
    """1 is served first"""
    of: int
    after: str = ""
    """key of the job right before this one, empty for the first"""

    @property
    def note(self) -> str:
        tier = f"priority tier {self.own_tier}"
        if self.tier != self.own_tier:
            tier += f" (served in {self.tier}, as it waits so long)"
        place = f"{tier}, P {float(self.p):.4f}, {ordinal(self.position)} of {self.of}"
        return f"{place}, after {self.after}" if self.after else place


def ordinal(number: int) -> str:
    if number % 100 in (11, 12, 13):
        return f"{number}th"
    return f"{number}{ {1: 'st', 2: 'nd', 3: 'rd'}.get(number % 10, 'th') }"


def tier_limits(fleet: Fleet) -> Mapping[str, int]:
    """The highest priority tier of each namespace that has jobs."""
    own = {item.name: item.max_priority_tier for item in fleet.namespaces}
    return {job.namespace: own.get(job.namespace) or fleet.max_priority_tier for job in fleet.jobs}


def turns(fleet: Fleet, settings: PlanSettings) -> tuple[Turn, ...]:
    """Higher tier, larger P, larger measured shortfall of satisfaction (with learning), larger A·B·C, older, uid."""
    jobs, limits = fleet.jobs, tier_limits(fleet)
    marks = [(job.priority.importance, job.priority.urgency, job.priority.satisfaction) for job in jobs]
    figures = []
    for index, (job, p) in enumerate(zip(jobs, priorities(marks), strict=True)):
        own = priority_tier(*marks[index])
        served = own
        if job.waiting_since is not None and fleet.now - job.waiting_since >= settings.lift_after:
            served = max(own, min(own + 1, HIGHEST, limits[job.namespace]))
        figures.append((index, job, served, own, p))
    figures.sort(
        key=lambda entry: (
            -entry[2],
            -entry[4],
            -(entry[1].satisfaction_shortfall or 0.0) if settings.learning.enabled else 0.0,
            -(marks[entry[0]][0] * marks[entry[0]][1] * marks[entry[0]][2]),
            entry[1].created_at,
            entry[1].uid,
            entry[1].key,
        )
    )
    return tuple(
        Turn(index, job, tier, own, p, position, len(figures), figures[position - 2][1].key if position > 1 else "")
        for position, (index, job, tier, own, p) in enumerate(figures, start=1)
    )
