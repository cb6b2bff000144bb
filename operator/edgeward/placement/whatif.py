"""What would happen: the planner's own passes on a changed Fleet, held against the same passes on the Fleet as it is.

One pass seldom says all. A move needs its gain in several evaluations in a row, and what gives way in one pass makes
room in the next. So passes follow each other, each on what the one before decided, until nothing changes any more or
the last of them is reached. Live figures stay as they are, and every pass is one evaluation interval later.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from edgeward.fleet.model import Fleet, Job, Placed
from edgeward.placement.model import JobPlan, Plan
from edgeward.placement.settings import PlanSettings

PASSES = 8
Decide = Callable[[Fleet], Plan]
Spots = Mapping[str, int]
"""replicas by node"""


class Outcome(StrEnum):
    """What becomes of one job. The words of the table, in its order."""

    PREEMPTED = "preempted"
    REFUSED = "refused"
    PLACED = "placed"
    MOVED = "moved"
    REMOVED = "removed"


@dataclass(frozen=True, slots=True)
class Row:
    """One job to which the change makes a difference."""

    job: str
    outcome: Outcome
    tier: int
    """priority tier"""
    before: Spots
    """where its replicas are without the change"""
    after: Spots
    """and with it"""
    missing: int
    """replicas without a place, with the change"""
    missed: int
    """and without it"""
    reason: str = ""
    """code, when replicas are missing"""
    why: str = ""
    """for people"""
    by: tuple[str, ...] = ()
    """jobs that it gives way to"""


@dataclass(frozen=True, slots=True)
class Run:
    """Passes that followed each other."""

    fleet: Fleet
    """once everything that they decided is done"""
    last: Plan
    passes: int
    settled: bool
    """whether the last pass changed nothing"""
    gave_way: Mapping[str, tuple[str, ...]]
    """winners by job"""


@dataclass(frozen=True, slots=True)
class Comparison:
    rows: tuple[Row, ...]
    """jobs to which the change makes a difference, by outcome, then priority tier, then name"""
    waiting: tuple[Row, ...]
    """the others that wait with the change and without it"""
    unchanged: int
    """all the rest"""
    settled: bool
    passes: int


def run(fleet: Fleet, decide: Decide, settings: PlanSettings, *, passes: int = PASSES) -> Run:
    gave_way: dict[str, dict[str, None]] = {}
    done, settled, made = 0, False, Plan()
    while done < passes and not settled:
        made, done = decide(fleet), done + 1
        for job in made.jobs:
            for leaving in job.gives_way:
                gave_way.setdefault(job.key, {})[leaving.winner] = None
        after = carried_out(fleet, made, settings)
        settled = after == fleet
        fleet = after
    return Run(fleet, made, done, settled, {key: tuple(winners) for key, winners in gave_way.items()})


def carried_out(fleet: Fleet, made: Plan, settings: PlanSettings) -> Fleet:
    """Once the cluster did what the plan says and everything new is Ready. The clock stands still; what counts
    evaluations sees the next one come due."""
    return replace(fleet, jobs=tuple(_job_after(job, made.job(job.key), fleet, settings) for job in fleet.jobs))


def compare(without: Run, change: Run) -> Comparison:
    before = {job.key: job for job in without.last.jobs}
    rows, waiting, unchanged = [], [], 0
    for job in change.last.jobs:
        row = _row(job, before.pop(job.key, None), change.gave_way.get(job.key, ()))
        if row is not None:
            rows.append(row)
        elif job.missing:
            waiting.append(_waits(job))
        else:
            unchanged += 1
    rows += [
        Row(key, Outcome.REMOVED, job.priority_tier, _spots(job), {}, 0, job.missing) for key, job in before.items()
    ]
    order = {outcome: rank for rank, outcome in enumerate(Outcome)}
    rows.sort(key=lambda row: (order[row.outcome], -row.tier, row.job))
    return Comparison(
        rows=tuple(rows),
        waiting=tuple(waiting),
        unchanged=unchanged,
        settled=change.settled and without.settled,
        passes=change.passes,
    )


def _job_after(job: Job, decided: JobPlan | None, fleet: Fleet, settings: PlanSettings) -> Job:
    if decided is None:
        return job
    there = {(item.site, item.node): item for item in job.placed}
    placed = []
    for spot in decided.placements:
        was = there.get((spot.site, spot.node))
        started = (was.started if was else ())[: spot.replicas]
        # What is new cannot be in a live figure yet: it counts as on its way in, as it would in the cluster.
        started += (fleet.now,) * (spot.replicas - len(started))
        placed.append(
            Placed(
                spot.node,
                spot.site,
                spot.replicas,
                ready=min(was.ready if was else 0, spot.replicas) if spot.lost else spot.replicas,
                started=started,
                on=(was.on if was else ())[: spot.replicas],
                since=spot.since,
                lost_since=was.lost_since if was else None,
                protected=was.protected if was else "",
            )
        )
    proposed = decided.proposed
    if proposed is not None and proposed != job.proposed:
        proposed = replace(proposed, last_at=proposed.last_at - settings.evaluation_interval)
    scaled = decided.sizing.scaled if decided.sizing else job.scaled
    return replace(
        job,
        placed=tuple(placed),
        exclusions=decided.exclusions,
        proposed=proposed,
        moves=decided.moves,
        nomination=decided.nomination,
        scaled=scaled,
        replicas=scaled.replicas if decided.sizing and scaled else job.replicas,
        waiting_since=(job.waiting_since if job.waiting_since is not None else fleet.now) if decided.missing else None,
    )


def _row(job: JobPlan, was: JobPlan | None, winners: tuple[str, ...]) -> Row | None:
    here, there = _spots(job), _spots(was) if was else {}
    missed = was.missing if was else 0
    if was is not None and here == there and job.missing == missed:
        return None
    if winners and (sum(here.values()) < sum(there.values()) or here != there):
        outcome = Outcome.PREEMPTED
    elif job.missing > missed or (was is None and job.missing):
        outcome = Outcome.REFUSED
    elif was is None or job.missing < missed or sum(here.values()) != sum(there.values()):
        outcome = Outcome.PLACED
    else:
        outcome = Outcome.MOVED
    return Row(
        job=job.key,
        outcome=outcome,
        tier=job.priority_tier,
        before=there,
        after=here,
        missing=job.missing,
        missed=missed,
        reason=job.reason if job.missing else "",
        why=job.message if job.missing else _gain(job, was),
        by=winners,
    )


def _gain(job: JobPlan, was: JobPlan | None) -> str:
    """What the score of the job's replicas was and is: why it is where it is now."""
    if was is None or not was.placements or not job.placements:
        return ""
    return f"mean score {_mean(was):.3f} -> {_mean(job):.3f}"


def _mean(job: JobPlan) -> float:
    count = sum(item.replicas for item in job.placements)
    return sum(item.score * item.replicas for item in job.placements) / count if count else 0.0


def _waits(job: JobPlan) -> Row:
    spots = _spots(job)
    return Row(
        job.key, Outcome.REFUSED, job.priority_tier, spots, spots, job.missing, job.missing, job.reason, job.message
    )


def _spots(job: JobPlan) -> Spots:
    counts: Counter[str] = Counter()
    for item in job.placements:
        if not item.lost:
            counts[item.node] += item.replicas
    return dict(sorted(counts.items()))
