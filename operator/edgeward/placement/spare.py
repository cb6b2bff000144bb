"""A node for one replica more, while the pods of a job at a site change and have no room to do so beside the old ones."""

from __future__ import annotations

from collections.abc import Mapping

from edgeward.api.reasons import NodeRejection
from edgeward.fleet.model import Fleet
from edgeward.placement.ask import Ask
from edgeward.placement.constraints import CHECKS, first_miss
from edgeward.placement.ledger import Ledger
from edgeward.placement.settings import PlanSettings

_CHECKS = tuple(
    check for check in CHECKS if check.reason not in (NodeRejection.SPREAD_EXCEEDED, NodeRejection.BACKLOG_TOO_LONG)
)
"""It goes again, so how replicas are spread is no matter; quotas are."""


def spares(fleet: Fleet, settings: PlanSettings) -> Mapping[tuple[str, str], str]:
    """By job and site, the emptiest of the site's other nodes that would take one replica. A site that has one more
    already, on its way or serving, gets no second one."""
    crowded = [
        (index, site.site)
        for index, job in enumerate(fleet.jobs)
        if job.pods is not None and job.problem is None
        for site in job.pods.sites
        if site.crowded and not any(one.site == site.site and not one.replicas for one in job.placed)
    ]
    if not crowded:
        return {}
    ledger, found = Ledger(fleet, settings), {}
    for index, site in crowded:
        job = fleet.jobs[index]
        ask, taken = Ask(index, job, ledger), {one.node for one in job.placed if one.site == site}
        fitting = [
            state
            for state in ledger.states
            if state.site.name == site
            and not state.pool
            and state.node.name not in taken
            and first_miss(ask, state, _CHECKS) is None
        ]
        if fitting:
            best = min(fitting, key=lambda state: (-state.free.cpu, -state.free.memory, state.rank))
            found[job.key, site] = best.node.name
            ledger.place(index, best)
    return found
