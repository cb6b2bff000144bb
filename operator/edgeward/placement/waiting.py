"""How many replicas want a place, by a look at sums: whoever asks whether a full solve pays asks this."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from edgeward.fleet.model import Fleet, Job, Placed
from edgeward.placement.distance import site_labels


def waiting(fleet: Fleet) -> Mapping[str, int]:
    """Replicas without a place by job (namespace/name); no entry for a job that has all of its own, or that nothing can
    be placed of. Of a PerSite job at each site that looks open to it: an estimate, as not every constraint is looked at.
    """
    tiers: dict[str, set[str]] = {}
    if any(job.per_site for job in fleet.jobs):
        for node in fleet.nodes:
            tiers.setdefault(node.site, set()).add(node.tier)
    found = {}
    for job in fleet.jobs:
        short = _short(job, fleet, tiers) if job.problem is None and job.model_digest else 0
        if short > 0:
            found[job.key] = short
    return found


def counts(job: Job, placed: Placed, now: float) -> bool:
    """Whether these replicas have a place: not when they are lost for so long that others are to replace them."""
    lost = placed.lost_since
    return lost is None or not job.replace_lost or now - lost < job.lost_after


def _short(job: Job, fleet: Fleet, tiers: Mapping[str, set[str]]) -> int:
    held: Counter[str] = Counter()
    for placed in job.placed:
        held[placed.site] += max(0, placed.replicas) if counts(job, placed, fleet.now) else 0
    if not job.per_site:
        return job.replicas - held.total()
    return sum(
        max(0, job.replicas - held[site.name])
        for site in fleet.sites
        if site.connected and not site.unschedulable and not site.frozen
        if (tiers.get(site.name, set()) & job.tiers or site.elastic) and job.site_selector.matches(site_labels(site))
    )
