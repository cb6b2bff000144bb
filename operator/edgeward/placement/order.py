"""Who is served first: priority tier from the top, then P, then the ties of the design."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from edgeward.fleet.model import Job
from edgeward.placement.formulas import priorities, priority_tier


@dataclass(frozen=True, slots=True)
class Turn:
    """A job with its place in the order."""

    index: int
    """of the job in the Fleet"""
    job: Job
    tier: int
    """priority tier, 5 first"""
    p: Fraction
    position: int
    """1 is served first"""
    of: int
    after: str = ""
    """key of the job right before this one, empty for the first"""

    @property
    def note(self) -> str:
        place = f"priority tier {self.tier}, P {float(self.p):.4f}, {ordinal(self.position)} of {self.of}"
        return f"{place}, after {self.after}" if self.after else place


def ordinal(number: int) -> str:
    if number % 100 in (11, 12, 13):
        return f"{number}th"
    return f"{number}{ {1: 'st', 2: 'nd', 3: 'rd'}.get(number % 10, 'th') }"


def turns(jobs: Sequence[Job]) -> tuple[Turn, ...]:
    """Higher tier, larger P, larger measured shortfall of satisfaction, larger A·B·C, older, uid."""
    marks = [(job.priority.importance, job.priority.urgency, job.priority.satisfaction) for job in jobs]
    figures = [
        (index, job, priority_tier(*marks[index]), p)
        for index, (job, p) in enumerate(zip(jobs, priorities(marks), strict=True))
    ]
    figures.sort(
        key=lambda entry: (
            -entry[2],
            -entry[3],
            -(entry[1].satisfaction_shortfall or 0.0),
            -(marks[entry[0]][0] * marks[entry[0]][1] * marks[entry[0]][2]),
            entry[1].created_at,
            entry[1].uid,
            entry[1].key,
        )
    )
    return tuple(
        Turn(index, job, tier, p, position, len(figures), figures[position - 2][1].key if position > 1 else "")
        for position, (index, job, tier, p) in enumerate(figures, start=1)
    )
