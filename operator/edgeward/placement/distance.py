"""How far a site is from where a job's data comes from: the way of a request there and of its answer back.

Between two sites the way goes over the hub, so both uplinks count: rtts add up, the narrower bandwidth holds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from edgeward.fleet.model import Job, Site
from edgeward.fleet.names import LABEL_REGION, LABEL_SITE, LABEL_TIER
from edgeward.placement import formulas


class Way(NamedTuple):
    """From the nearest source to a site; all zero at a source itself."""

    seconds: float | None = None
    """T_d of a request and its answer; None when the job does not say where its data is. What is unknown of it adds
    nothing, so the true time is never below"""
    confidence: float = 1.0
    rtt: float | None = None
    """seconds; None when that of either end is unknown"""
    bandwidth: float | None = None
    """bit/s of the narrower of the two uplinks; None when both are unknown, or there is no way to go"""
    source: str = ""
    """site that it is from"""
    local: bool = False
    """the data comes from this very site"""


def site_labels(site: Site) -> Mapping[str, str]:
    """What a siteSelector sees: the Site's labels, and its own name, tier and region even without any."""
    own = {LABEL_SITE: site.name, LABEL_TIER: site.tier}
    if site.region:
        own[LABEL_REGION] = site.region
    return {**own, **site.labels}


def data_sources(job: Job, sites: Mapping[str, Site]) -> tuple[Site, ...]:
    """The sites where the job's data comes from; none when it does not say, or none matches."""
    selector = job.source_selector
    if selector is None:
        return ()
    return tuple(site for _, site in sorted(sites.items()) if selector.matches(site_labels(site)))


def nearest_way(job: Job, sources: tuple[Site, ...], site: Site) -> Way:
    """From the source that is nearest by what is known of the ways; the better known one of two equals."""
    if not sources:
        return Way(confidence=1.0 if job.source_selector is None else 0.5)
    size = max(0, job.request_bytes or 0) + max(0, job.response_bytes or 0)
    sized = job.request_bytes is not None
    best: Way | None = None
    for source in sources:
        if source.name == site.name:
            return Way(seconds=0.0, rtt=0.0, source=source.name, local=True)
        rtts = [rtt for rtt in (source.rtt, site.rtt) if rtt is not None]
        bandwidths = [band for band in (source.bandwidth, site.bandwidth) if band is not None and band > 0]
        narrow = min(bandwidths, default=None)
        seconds = formulas.link_seconds(size=size, bandwidth=narrow, rtt=sum(rtts))
        believed = (len(rtts) + len(bandwidths)) / 4 * (1.0 if sized else 0.5)
        if best is None or best.seconds is None or (seconds, -believed) < (best.seconds, -best.confidence):
            best = Way(seconds, believed, sum(rtts) if len(rtts) == 2 else None, narrow, source.name)
    return best if best is not None else Way(confidence=0.5)
