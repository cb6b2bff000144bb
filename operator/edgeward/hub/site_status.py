"""What the hub says about Site objects. Pure, as status.py."""

from __future__ import annotations

from edgeward.api.conditions import ConditionType, Reason, remove_condition, set_condition, set_outcome
from edgeward.api.features import unavailable
from edgeward.api.site import Counts, SiteStatus
from edgeward.api.site import Site as SiteObject
from edgeward.fleet import windows
from edgeward.fleet.model import Fleet
from edgeward.placement.model import Plan


def _unknown_zone(site: SiteObject) -> str | None:
    try:
        windows.zone_of(site.spec.time_zone or "")
    except windows.UnknownTimeZone as error:
        return str(error)
    return None


def site_status(site: SiteObject, *, plan: Plan, fleet: Fleet, overlaps: tuple[str, ...], version: str) -> SiteStatus:
    """The status of a Site object. Default sites, which are nodes' labels only, have no object and no status."""
    nodes = [node for node in fleet.nodes if node.site == site.name]
    up = [node for node in nodes if node.ready]
    elastic = site.spec.nodes == "Elastic"
    placements = [item for job in plan.jobs for item in job.placements if item.site == site.name]
    holders = {job.key for job in plan.jobs if any(item.site == site.name for item in job.placements)}
    ready = sum(min(item.ready, item.replicas) for job in fleet.jobs for item in job.placed if item.site == site.name)
    now, generation = fleet.now, site.generation
    conditions = set_condition(
        site.status.conditions,
        type=ConditionType.CONNECTED,
        # An elastic site may be scaled down to nothing, and is no less there.
        status=bool(up) or elastic,
        reason=Reason.LOCAL if up or elastic else Reason.DISCONNECTED,
        message=""
        if up or elastic
        else "no node of this site is ready"
        if nodes
        else "no node belongs to this site; see spec.nodeSelector",
        generation=generation,
        now=now,
    )
    protecting = unavailable(site.spec).protecting
    if protecting:
        text = f"{', '.join(protecting)}: this version cannot honour it; nothing new is placed here"
        conditions = set_outcome(
            conditions, reason=Reason.FEATURE_NOT_YET_AVAILABLE, message=text, generation=generation, now=now
        )
    elif (unknown := _unknown_zone(site)) is not None:
        text = f"spec.timeZone: {unknown}; no new version begins to serve here within any window"
        conditions = set_outcome(conditions, reason=Reason.INVALID_SPEC, message=text, generation=generation, now=now)
    else:
        for kind in (ConditionType.READY, ConditionType.RECONCILING, ConditionType.STALLED):
            conditions = remove_condition(conditions, kind)
    fresh = (bool(up) or elastic) and all(node.live.cpu is not None for node in up) and not fleet.metrics_problem
    conditions = set_condition(
        conditions,
        type=ConditionType.METRICS_FRESH,
        status=fresh,
        reason=Reason.FRESH if fresh else Reason.NO_METRICS,
        message=fleet.metrics_problem,
        generation=generation,
        now=now,
    )
    if overlaps:
        conditions = set_condition(
            conditions,
            type=ConditionType.NODES_OVERLAP,
            status=True,
            reason=Reason.OVERLAP,
            message=f"an older Site holds {', '.join(overlaps[:5])}; make the node selectors disjoint",
            generation=generation,
            now=now,
        )
    else:
        conditions = remove_condition(conditions, ConditionType.NODES_OVERLAP)
    return SiteStatus(
        observed_generation=generation,
        conditions=conditions,
        counts=Counts(
            nodes=len(nodes),
            nodes_ready=len(up),
            jobs=len(holders),
            replicas=sum(item.replicas for item in placements),
            ready_replicas=ready,
        ),
        agent_version=version,
    )
