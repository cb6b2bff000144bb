"""Nominations: room that is being made free for one job, claimed over as many plans as its victims take to leave.

A nomination is read back from the job's status, so it outlives the leader that made it. While it holds, nobody of the
same or a lower turn gets that room; it ends when the winner serves there, or when its time is over.
"""

from __future__ import annotations

from collections.abc import Sequence

from edgeward.api.reasons import NodeRejection
from edgeward.fleet.model import Exclusion, Job, Nomination, Placed
from edgeward.placement.ask import Ask
from edgeward.placement.constraints import CHECKS, SPEC_CHECKS, STATE_CHECKS, can_grow, first_miss
from edgeward.placement.ledger import Ledger, NodeState
from edgeward.placement.settings import PlanSettings

UNMET = "NominationUnmet"
"""of an exclusion: the room was not there when the nomination ended, so another node is tried before this one"""
FIRST_BACK_OFF, LONGEST_BACK_OFF = 60.0, 3600.0
"""seconds for which a node is left out after a nomination there came to nothing, the first time and at most"""

CLAIM_CHECKS = tuple(check for check in CHECKS if check.reason is not NodeRejection.BACKLOG_TOO_LONG)
"""what must hold when a claim is met. Not the live figure: it was judged without the victims when they were chosen, and
shows them until a sample later; to wait for that would let others take back what made the node busy"""


def here(job: Job, nomination: Nomination) -> Placed | None:
    """What the job has at the nominated place."""
    return next((p for p in job.placed if (p.site, p.node) == (nomination.site, nomination.node)), None)


def arriving(job: Job, nomination: Nomination) -> bool:
    """Whether a replica is assigned there that does not serve yet."""
    placed = here(job, nomination)
    return placed is not None and placed.ready < placed.replicas


def fulfilled(job: Job, nomination: Nomination, settings: PlanSettings) -> bool:
    """Whether all that the job has there serves, a pod among it that started since the nomination was made."""
    placed = here(job, nomination)
    made = nomination.until - settings.nomination_ttl
    return (
        placed is not None
        and placed.ready >= placed.replicas > 0
        and any(started >= made for started in placed.started)
    )


def holds(job: Job, nomination: Nomination, now: float, settings: PlanSettings) -> bool:
    return now < nomination.until and not fulfilled(job, nomination, settings)


def claim(ask: Ask, ledger: Ledger, settings: PlanSettings) -> tuple[NodeState | None, bool]:
    """For a job that misses replicas, before anybody of its priority tier is placed: the node of its nomination, and
    whether the room is free by now, so that a replica was placed there; else the room is reserved. (None, False)
    when there is no nomination in force, or when its node is no place for the job any more."""
    nomination = ask.job.nomination
    if nomination is None or not holds(ask.job, nomination, ledger.now, settings) or arriving(ask.job, nomination):
        return None, False
    state = ledger.find(nomination.site, nomination.node)
    if state is None:
        return None, False
    if first_miss(ask, state, (*SPEC_CHECKS, *STATE_CHECKS)) is not None or state.node.name in ask.excluded:
        return None, False
    for victim in nomination.victims:
        index = ledger.index_of.get(victim)
        if index is not None and index != ask.index:
            state.yielding.add(index)
    if first_miss(ask, state, CLAIM_CHECKS) is None or (state.pool and can_grow(ask, state)):
        ledger.place(ask.index, state)
        return state, True
    ledger.reserve(ask.index, state)
    return state, False


def with_unmet(exclusions: Sequence[Exclusion], node: str, now: float) -> tuple[Exclusion, ...]:
    """The exclusions of a job after a nomination of this node came to nothing; the back-off doubles each time."""
    before = next((item for item in exclusions if item.node == node), None)
    count = (before.count if before else 0) + 1
    wait = min(FIRST_BACK_OFF * 2.0 ** min(count - 1, 32), LONGEST_BACK_OFF)
    text = "the room that was made for it was taken, or did not come free in time"
    new = Exclusion(node=node, reason=UNMET, message=text, count=count, until=float(int(now + wait)))
    return tuple(sorted((*(item for item in exclusions if item.node != node), new), key=lambda item: item.node))
